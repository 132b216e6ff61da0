"""Messages as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refundry.connectors.base import Delivered, NotDelivered
from refundry.connectors.orders_file.client import FileTarget, targets_of
from refundry.infra.settings import OrderSettings, SettingsError
from refundry.outbox.rules import envelope, outgoing
from tests.support.messages import message

pytestmark = pytest.mark.integration


async def test_each_message_is_a_line_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "told.jsonl"
    path.write_text("was here before\n")
    (target,) = targets_of(OrderSettings(file=str(path)))
    await target.open()
    for version in (1, 2):
        assert await target.deliver(outgoing(message(version=version))) == Delivered()
    lines = path.read_text().splitlines()
    assert lines[0] == "was here before"
    assert [json.loads(line) for line in lines[1:]] == [envelope(message(version=1)), envelope(message(version=2))]


async def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    target = FileTarget("-")
    await target.open()
    await target.deliver(outgoing(message()))
    await target.close()
    assert json.loads(capsys.readouterr().out)["id"] == message().id


async def test_a_file_that_cannot_be_written_stops_the_start_and_later_keeps_messages_waiting(tmp_path: Path) -> None:
    target = FileTarget(str(tmp_path / "no" / "told.jsonl"))
    with pytest.raises(SettingsError) as refused:
        await target.open()
    assert refused.value.code == "orders_file_unusable"
    assert isinstance(await target.deliver(outgoing(message())), NotDelivered)


def test_without_the_setting_there_is_no_such_target() -> None:
    assert targets_of(OrderSettings()) == ()
