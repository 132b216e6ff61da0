"""A batch: its rows' names for obligations, what they count as, and how they are kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from refundry.batches.model import (
    Standing,
    Totals,
    Wanted,
    batch_id,
    packed,
    request_key_of,
    standing_of,
    unpacked,
)
from refundry.connectors.base import AmountKind, AmountText, ParsedRow, Reference, ReferenceKind
from refundry.refunds.model import State

pytestmark = pytest.mark.unit

ORDER, CHARGE = Reference(ReferenceKind.ORDER_ID, "A1"), Reference(ReferenceKind.CHARGE_ID, "ch_1")
WANTED = Wanted((ORDER,), (AmountText(AmountKind.MAJOR, "10.00"),), None, None, "requested_by_customer", None, {})


@pytest.mark.parametrize(
    ("state", "standing"),
    [
        (State.PENDING, "paid"), (State.SETTLED, "paid"), (State.REJECTED, "refused"), (State.DECLINED, "refused"),
        (State.WITHDRAWN, "refused"), (State.FAILED, "failed"), (State.CANCELED, "failed"),
        (State.OUTCOME_UNKNOWN, "unknown"), (State.RECEIVED, "waiting"), (State.AWAITING_APPROVAL, "waiting"),
        (State.APPROVED, "waiting"), (State.SUBMITTING, "waiting"), (State.REQUIRES_ACTION, "waiting"),
    ],
)  # fmt: skip
def test_a_row_counts_as_exactly_one_thing(state: State, standing: str) -> None:
    assert standing_of(state) is Standing(standing)


def test_every_state_counts_as_something() -> None:
    assert {standing_of(state) for state in State} == set(Standing)


# Names of obligations


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({}, "row:ch_1:1000:gbp"), ({"request_key": "k1"}, "key:k1"), ({"ticket_id": "T1"}, "ticket:T1:A1"),
        ({"ticket_id": "T1", "request_key": "k1"}, "key:k1"),
        ({"ticket_id": "T1", "references": (CHARGE, ORDER)}, "ticket:T1:ch_1"),
    ],
)  # fmt: skip
def test_an_obligation_is_named_by_key_else_ticket_else_content(change: dict[str, object], key: str) -> None:
    assert request_key_of(replace(WANTED, **change), "ch_1", 1000, "gbp") == key  # type: ignore[arg-type]


def test_full_is_named_by_its_word() -> None:
    assert request_key_of(WANTED, "ch_1", None, "gbp") == "row:ch_1:full:gbp"


def test_a_batch_is_known_again_by_account_bytes_and_options() -> None:
    first = batch_id("acct_1|test", "aa", "")
    assert first == batch_id("acct_1|test", "aa", "")
    others = {batch_id("acct_2|test", "aa", ""), batch_id("acct_1|live", "aa", ""), batch_id("acct_1|test", "ab", "")}
    assert len(others | {first, batch_id("acct_1|test", "aa", "blank=full")}) == 5


# Keeping


@pytest.mark.parametrize(
    "wanted",
    [
        WANTED,
        Wanted(
            (CHARGE, ORDER), (AmountText(AmountKind.FULL, ""), AmountText(AmountKind.FULL, "full")), "T1", "k1",
            "duplicate", "gbp", {"agent": "Ada", "ü": "ß"}, refund_application_fee=True, reverse_transfer=False),
    ],
)  # fmt: skip
def test_what_a_row_asks_for_is_kept_as_it_is(wanted: Wanted) -> None:
    assert unpacked(json.loads(json.dumps(packed(wanted)))) == wanted


def test_a_parsed_row_asks_for_what_it_says() -> None:
    row = ParsedRow(
        3, 4, {"order_id": "A1"}, (ORDER,), (AmountText(AmountKind.MINOR, "5"),), "T1", None, "duplicate", "gbp",
        {"a": "b"}, None, reverse_transfer=True,
    )  # fmt: skip
    told = unpacked(json.loads(json.dumps(packed(row))))
    assert told == Wanted(
        (ORDER,), (AmountText(AmountKind.MINOR, "5"),), "T1", None, "duplicate", "gbp", {"a": "b"}, None,
        reverse_transfer=True,
    )  # fmt: skip


def test_totals_are_told_in_the_form_that_scripts_read() -> None:
    totals = Totals(rows=3, requested={"gbp": 300}, paid={"eur": 5}, reasons={"b": 1, "a": 2})
    totals.standings[Standing.PAID] = 3
    assert totals.told() == {
        "rows": 3, "paid": 3, "refused": 0, "failed": 0, "unknown": 0, "waiting": 0, "pending": 0,
        "amounts": {"eur": {"requested": 0, "paid": 5}, "gbp": {"requested": 300, "paid": 0}},
        "reasons": {"a": 2, "b": 1},
    }  # fmt: skip
    assert list(totals.told()["reasons"]) == ["a", "b"]  # type: ignore[call-overload]
    assert Totals().standings is not Totals().standings
