"""The demo tells nobody but this machine of simulated refunds."""

from __future__ import annotations

from pathlib import Path

import pytest

from refundry.cli.demo_follow import told_by
from refundry.infra.settings import OrderSettings, Settings

pytestmark = pytest.mark.unit
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # opens nothing


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:8099/", True),
        ("http://[::1]:8099/", True),
        ("http://localhost:8099/refunds", True),
        ("https://shop.example/refunds", False),
        ("http://127.0.0.1.shop.example/", False),
        ("http://localhost.shop.example/", False),
        ("http://10.0.0.7:8099/", False),
        ("http://[::1/", False),
    ],
)
def test_a_receiver_is_told_only_if_it_is_on_this_machine(tmp_path: Path, url: str, told: bool) -> None:  # noqa: FBT001
    real = OrderSettings(
        url=url, secrets=SECRET, sql_url="postgresql://shop", sql_statement="UPDATE orders", file="/real.jsonl"
    )  # type: ignore[arg-type]
    made = told_by(Settings(orders=real), tmp_path)
    assert made.url == (url if told else None)
    assert (made.sql_url, made.sql_statement) == (None, None)
    assert made.file == str(tmp_path / "order_system.jsonl")
