"""A server that cannot listen says where, why, and what to choose instead; it has opened nothing by then."""

import socket
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Run

pytestmark = pytest.mark.integration


def test_a_port_that_is_taken_is_named(refundry: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = refundry("serve", "--port", str(port))
    assert told.code == 2
    assert f"error: 127.0.0.1:{port} cannot be listened on (Address already in use): choose another --port" in told.err
    assert "[port_taken]" in told.err
    assert not (tmp_path / "state").exists()


def test_a_host_that_is_not_this_machine_is_named(refundry: Run) -> None:
    told = refundry("serve", "--host", "192.0.2.1", "--port", "0")
    assert told.code == 2
    assert "error: --host 192.0.2.1 is no IPv4 address of this machine" in told.err
    assert "[host_wrong]" in told.err
