"""An operator finds an event by what it is about, sees what became of it, and has it applied again or left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.inbox import service as inbox
from refundry.inbox.model import TRIES_MAX, Source
from refundry.infra.db import sqlite_url
from refundry.kernel.clock import SystemClock
from tests.integration.cli.conftest import Run
from tests.support.database import HandDatabase
from tests.support.events import seen
from tests.support.server import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def stored(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    """Three events: one waits, one is parked, one is ignored."""
    refundry("db", "upgrade")
    database = HandDatabase(sqlite_url(tmp_path / "state" / "refundry.db"), SystemClock())  # type: ignore[arg-type]  # a clock is a clock
    ours = Account(stripe.account, "test")
    with database.unit() as unit:
        accounts.stamp(unit, ours)
        events = [
            seen("evt_1"),
            seen("evt_2", "charge.dispute.created", charge="ch_2", refund=None),
            seen("evt_3", "invoice.paid"),
        ]
        inbox.store(unit, ours.name, events, Source.WEBHOOK)
        for _ in range(TRIES_MAX):
            inbox.put_off(unit, [(ours.name, "evt_2")], unit.now, "Stripe does not know it")
    database.close()


@pytest.mark.usefixtures("stored")
def test_events_are_listed_and_found(refundry: Run) -> None:
    told = refundry("inbox", "list", "--json")
    assert {event["event"]: event["state"] for event in told.json["events"]} == {
        "evt_1": "waiting", "evt_2": "parked", "evt_3": "ignored",
    }  # fmt: skip
    assert told.json["counts"] == {"waiting": 1, "applied": 0, "ignored": 1, "parked": 1}
    assert told.json["oldest_waiting_seconds"] >= 0

    def found(*flags: str) -> list[str]:
        return [event["event"] for event in refundry("inbox", "list", "--json", *flags).json["events"]]

    assert found("--type", "charge.dispute.*") == found("--charge", "ch_2") == found("--state", "parked") == ["evt_2"]
    assert found("--object", "re_1", "--state", "waiting") == ["evt_1"]
    page = refundry("inbox", "list", "--json", "--limit", "2").json
    assert len(page["events"]) == 2
    assert found("--after", page["next"]) == ["evt_1"]
    assert refundry("inbox", "list", "--json", "--after", "evt_404").error["code"] == "event_not_found"


@pytest.mark.usefixtures("stored")
def test_a_person_sees_ages_and_reasons(refundry: Run) -> None:
    told = refundry("inbox", "list")
    assert "Stripe does not know it" in told.out
    assert "1 waiting, the oldest for 0:0" in told.err
    assert "1 parked" in told.err
    shown = refundry("inbox", "show", "evt_2").out
    assert "charge.dispute.created" in shown
    assert '"id": "evt_2"' in shown


@pytest.mark.usefixtures("stored")
def test_a_parked_event_is_replayed_and_that_is_on_its_record(refundry: Run) -> None:
    assert refundry("inbox", "replay", "--parked", "--json").json == {"replayed": 1}
    shown = refundry("inbox", "show", "evt_2", "--json").json
    assert (shown["state"], shown["tries"], shown["why"]) == ("waiting", 0, "")
    assert [step["event"] for step in shown["done"]] == ["event.replayed"]
    assert shown["body"] == {"id": "evt_2"}
    assert refundry("inbox", "replay", "evt_1", "evt_2", "--json").json == {"replayed": 2}


@pytest.mark.usefixtures("stored")
def test_an_event_is_ignored_with_a_reason(refundry: Run) -> None:
    assert refundry("inbox", "ignore", "evt_1", "evt_2", "--why", "test shop", "--json").json == {"ignored": 2}
    assert refundry("inbox", "show", "evt_1", "--json").json["why"] == "test shop"
    assert refundry("doctor", "--json").code == 0


@pytest.mark.usefixtures("stored")
def test_of_several_all_are_replayed_or_none(refundry: Run) -> None:
    for events, code in (
        (["evt_2", "evt_404"], "event_not_found"),
        (["evt_2", "evt_3"], "event_not_handled"),
        ([], "events_missing"),
    ):
        told = refundry("inbox", "replay", *events, "--json")
        assert (told.code, told.error["code"]) == (2, code)
    assert refundry("inbox", "show", "evt_2", "--json").json["state"] == "parked"


@pytest.mark.usefixtures("stored")
def test_what_cannot_be_looked_for_is_named(refundry: Run) -> None:
    assert refundry("inbox", "list", "--state", "lost", "--json").error["code"] == "state_unknown"
    assert refundry("inbox", "list", "--type", "a.*.b", "--json").error["code"] == "type_unknown"


@pytest.mark.usefixtures("stored")
def test_the_doctor_tells_of_parked_events_and_of_the_last_one(refundry: Run) -> None:
    findings = refundry("doctor", "--json").json["findings"]
    parked = next(finding for finding in findings if finding["code"] == "events_parked")
    assert "1 event of" in parked["said"]
    assert "replay --parked" in parked["do"]
    # What says nothing of what it is about is parked again by each replay.
    assert "inbox ignore EVENT --why" in parked["do"]


def test_before_the_first_use_there_are_none(refundry: Run) -> None:
    told = refundry("inbox", "list", "--json")
    assert (told.code, told.json["events"], told.json["oldest_waiting_seconds"]) == (0, [], None)
