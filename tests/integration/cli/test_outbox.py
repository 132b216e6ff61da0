"""`refundry outbox`: messages come with a refund, and a person sees and steers them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from refundry.bootstrap import attached
from refundry.infra.db import Database, sqlite_url
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import SystemClock
from refundry.outbox import repository
from refundry.outbox import service as outbox
from refundry.outbox.model import DeliveryState
from tests.integration.cli.conftest import Run

pytestmark = pytest.mark.integration


def pay(refundry: Run, **settings: str | None) -> None:
    told = refundry(
        "refund", "create", "--order", "o1", "--amount", "10.00", "--reason", "duplicate", "--ticket", "T1", "--json", **settings
    )  # fmt: skip
    assert told.code == 0, told.err


@pytest.fixture
def parked(refundry: Run) -> dict[str, str | None]:
    """A refund whose order system does not answer: its first message is parked after one try. Tells the settings."""
    settings: dict[str, str | None] = {
        "REFUNDRY_ORDERS__URL": "http://127.0.0.1:9/refunds",
        "REFUNDRY_ORDERS__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "REFUNDRY_ORDERS__TRIES_MAX": "1",
    }
    pay(refundry, **settings)
    return settings


def test_a_refund_is_told_to_a_file_and_its_messages_are_listed(refundry: Run, tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    settings: dict[str, str | None] = {
        "REFUNDRY_ORDERS__FILE": str(file),
        "REFUNDRY_ORDERS__KINDS": "order.refunded_changed",
    }
    pay(refundry, **settings)
    listed = refundry("outbox", "list", "--order", "o1", "--json", **settings).json["messages"]
    assert [(one["kind"], one["target"]) for one in listed] == [("order.refunded_changed", "file")]
    shown = refundry("outbox", "show", listed[0]["message_id"], "--json", **settings).json
    assert shown["message"]["data"]["refunded_minor"] == 1000
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] in ([], [shown["message"]["id"]])
    words = refundry("outbox", "show", listed[0]["message_id"], **settings).out
    assert "order.refunded_changed" in words
    assert "refunded_minor   1000" in words


def test_times_of_a_delivery_are_seconds_and_a_message_is_shown_as_it_is_sent(refundry: Run, tmp_path: Path) -> None:
    settings: dict[str, str | None] = {"REFUNDRY_ORDERS__FILE": str(tmp_path / "told.jsonl")}
    pay(refundry, **settings)
    for one in refundry("outbox", "list", "--json", **settings).json["messages"]:
        shown = refundry("outbox", "show", one["message_id"], "--json", **settings).json
        (delivery,) = shown["deliveries"]
        sent = datetime.fromisoformat(shown["message"]["created_at"]).timestamp()
        assert one["created_at"] == delivery["created_at"] == pytest.approx(sent, abs=0.001)
        at = one["delivered_at"] if one["state"] == "delivered" else one["due_at"]
        assert isinstance(at, float)
        assert at >= one["created_at"]


@pytest.mark.parametrize("by_file", [False, True])
def test_a_request_that_was_taken_in_before_its_order_system_is_found_wrong_is_told_as_kept(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path, *, by_file: bool
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("ticket_id,order_id,amount,currency\nT1,o1,10.00,gbp\n")
    create = ("refund", "create", "--order", "o1", "--amount", "10.00", "--reason", "duplicate", "--ticket", "T1")
    command = ("batch", "run", str(rows), "--yes") if by_file else create
    wrong = refundry(*command, "--json", REFUNDRY_ORDERS__FILE=str(tmp_path / "nowhere" / "told.jsonl"))
    # Not 2, which says that nothing was changed: whoever believes it pays by hand what the next process pays too.
    assert (wrong.code, wrong.error["code"]) == (1, "orders_file_unusable")
    assert wrong.error["message"].endswith("what was taken in before is kept, and the next process that works pays it")
    assert refunds_of() == 0
    assert refundry(*command).code == 0
    assert refunds_of() == 1


def test_what_is_parked_is_seen_sent_again_and_dropped(refundry: Run, parked: dict[str, str | None]) -> None:
    told = refundry("outbox", "list", "--json", **parked).json
    assert sum(told["open"]["http"].values()) == 5
    first = told["messages"][-1]
    assert first["kind"] == "refund_request.received"
    assert first["state"] in {"parked", "waiting"}
    shown = refundry("outbox", "show", first["message_id"], "--json", **parked).json
    assert shown["deliveries"][0]["behind"] == 4
    assert "4 messages of its order behind it" in refundry("outbox", "show", first["message_id"], **parked).out
    assert "http" in refundry("outbox", "list", **parked).out
    again = refundry("outbox", "resend", first["message_id"], "--json", **parked)
    assert again.json["messages"] == [{"message_id": first["message_id"], "target": "http"}]
    dropped = refundry("outbox", "drop", first["message_id"], "--why", "of no use", **parked)
    assert "dropped" in dropped.out
    assert (
        refundry("outbox", "drop", first["message_id"], "--why", "again", "--json", **parked).error["code"]
        == "message_forbids"
    )
    assert refundry("outbox", "resend", "--parked", **parked).code == 0


def test_who_resends_what_sql_has_taken_is_told_that_it_is_not_run_again(refundry: Run, tmp_path: Path) -> None:
    (tmp_path / "shop.db").touch()
    shop = sqlite3.connect(tmp_path / "shop.db")
    shop.execute("CREATE TABLE orders (id TEXT, refunded TEXT)")
    settings: dict[str, str | None] = {
        "REFUNDRY_ORDERS__SQL_URL": sqlite_url(tmp_path / "shop.db"),
        "REFUNDRY_ORDERS__SQL_STATEMENT": "UPDATE orders SET refunded = :refunded WHERE id = :order_id",
    }
    pay(refundry, **settings)
    (one,) = refundry("outbox", "list", "--json", **settings).json["messages"]
    database = attached(Database(sqlite_url(tmp_path / "state" / "refundry.db"), SystemClock()))
    with database.unit() as unit:
        outbox.resend(unit, one["message_id"], SYSTEM)
    # What only waits may still be run, and is told without advice.
    assert refundry("outbox", "resend", one["message_id"], **settings).err == ""
    with database.unit() as unit:
        (delivery,) = outbox.page(unit, None, [])
        outbox.delivered(unit, "sql", delivery.number, "0 rows changed")
    database.close()
    again = refundry("outbox", "resend", one["message_id"], **settings)
    assert again.code == 0
    assert "will be sent again" in again.out
    assert "delete its id from refundry_messages" in again.err


def test_who_resends_more_than_are_taken_at_once_is_told_that_some_are_left(
    refundry: Run, parked: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "STEERED_MAX", 2)
    database = attached(Database(sqlite_url(tmp_path / "state" / "refundry.db"), SystemClock()))
    with database.unit() as unit:
        some = outbox.page(unit, None, [])[:3]
        for one in some:
            repository.set_state(unit, [one], DeliveryState.PARKED, "HTTP 500", unit.now)
    database.close()
    first = refundry("outbox", "resend", "--parked", **parked)
    assert first.out.count("will be sent again") == 2
    assert "more are parked" in first.err
    second = refundry("outbox", "resend", "--parked", **parked)
    assert second.out.count("will be sent again") >= 1
    assert "more are parked" not in second.err


def test_pages_of_several_targets_show_every_delivery_once(refundry: Run, tmp_path: Path) -> None:
    settings: dict[str, str | None] = {
        "REFUNDRY_ORDERS__URL": "http://127.0.0.1:9/refunds",
        "REFUNDRY_ORDERS__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "REFUNDRY_ORDERS__FILE": str(tmp_path / "told.jsonl"),
    }
    pay(refundry, **settings)
    seen: list[tuple[str, str]] = []
    page: dict[str, Any] = {"next": None}
    while not seen or page["next"]:
        after = ["--after", page["next"]] if seen else []
        page = refundry("outbox", "list", "--limit", "3", *after, "--json", **settings).json
        seen += [(one["message_id"], one["target"]) for one in page["messages"]]
    assert len(seen) == len(set(seen)) == 10
    assert "more: --after " in refundry("outbox", "list", "--limit", "3", **settings).err


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["list", "--state", "lost"], "state_unknown", 2), (["list", "--target", "smtp"], "target_unknown", 2),
        (["list", "--after", "17"], "place_unknown", 2), (["list", "--after", "x:http"], "place_unknown", 2),
        (["resend"], "message_needed", 2), (["resend", "x", "--parked"], "message_needed", 2),
        (["drop", "x", "--why", " "], "why_needed", 2), (["drop", "x", "--why", "y"], "message_unknown", 2),
        (["resend", "x"], "message_unknown", 2), (["show", "x"], "message_unknown", 2),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_changes_nothing(refundry: Run, words: list[str], code: str, exit_code: int) -> None:
    told = refundry("outbox", *words, "--json")
    assert (told.error["code"], told.code) == (code, exit_code)


def test_nothing_is_told_before_anything_was_done(refundry: Run) -> None:
    assert refundry("outbox", "list").out == "There are none.\n"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"REFUNDRY_ORDERS__KINDS": "refund.settled"}, "message_kind_unknown"),
        ({"REFUNDRY_ORDERS__URL": "http://127.0.0.1:9/x"}, "orders_secret_missing"),
        ({"REFUNDRY_ORDERS__SQL_URL": "sqlite:///x"}, "orders_sql_incomplete"),
        ({"REFUNDRY_ORDERS__AT_ONCE": "0"}, "setting_wrong"),
    ],
)  # fmt: skip
def test_an_order_system_that_is_set_wrongly_stops_the_start(
    refundry: Run, settings: dict[str, str | None], code: str
) -> None:
    told = refundry(
        "refund", "create", "--order", "o1", "--full", "--reason", "duplicate", "--json", "--ticket", "T1", **settings
    )
    assert (told.code, told.error["code"]) == (2, code)
