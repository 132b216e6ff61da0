"""Which hints need a read, how few reads do for many, and how often Stripe is asked without a hint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.follow import rules
from refundry.follow.model import POLLED, About, Run, Target
from refundry.inbox.model import HANDLED, TRIES_MAX, Event, Source, State
from tests.support.builders import charge, seen_refund
from tests.support.clock import START

pytestmark = pytest.mark.unit
OURS = "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"
BARE = Event(
    "evt_1", "acct_1|test", "refund.updated", False, START, "re_1", "ch_1", "re_1", None, None, "succeeded", 500, None,  # noqa: FBT003
    START, Source.WEBHOOK, State.WAITING, 0, START, "",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "charge_id", "refund", "target"),
    [
        ("refund.created", "ch_1", "re_1", Target(About.REFUND, "re_1")),
        ("charge.refund.updated", "ch_1", "re_1", Target(About.REFUND, "re_1")),
        ("charge.refunded", "ch_1", None, Target(About.CHARGE, "ch_1")),
        ("charge.dispute.closed", "ch_1", None, Target(About.CHARGE, "ch_1")),
        ("radar.early_fraud_warning.created", "ch_1", None, Target(About.WARNINGS, "ch_1")),
        ("credit_note.created", None, "re_1", Target(About.REFUND, "re_1")),
        ("credit_note.created", None, None, None),
        ("refund.created", None, "re_1", None),
        ("charge.updated", None, None, None),
        ("radar.early_fraud_warning.created", None, None, None),
    ],
)
def test_every_hint_asks_for_one_thing(
    kind: str, charge_id: str | None, refund: str | None, target: Target | None
) -> None:
    assert rules.target_of(replace(BARE, type=kind, charge=charge_id, refund=refund)) == target


@pytest.mark.parametrize("kind", sorted(HANDLED))
def test_every_type_that_is_handled_has_something_to_read(kind: str) -> None:
    about = "re_1" if kind.startswith(("refund", "charge.refund.", "credit_note")) else None
    assert rules.target_of(replace(BARE, type=kind, refund=about)) is not None


@pytest.mark.parametrize(
    ("key", "claim"),
    [
        (f"{OURS}.1", OURS), (f"{OURS}.23", OURS), (f"{OURS}.0", None), (OURS, None), (f"{OURS}.1x", None), (None, None),
        ("6f1c7f0e-3d0a-4b53-9a8e-0c6f2f5d9b11.1", None), (f"{OURS.upper()}.1", None), (f"x{OURS}.1", None),
    ],
)  # fmt: skip
def test_only_our_own_keys_claim_a_refund(key: str | None, claim: str | None) -> None:
    assert rules.claim_of(replace(BARE, type="refund.created", idempotency_key=key)) == claim
    assert rules.claim_of(replace(BARE, type="refund.updated", idempotency_key=key)) is None


PAID = (seen_refund("re_1", amount_minor=1000), seen_refund("re_2", amount_minor=500, created_at=START + 1))
BACK = (*PAID, seen_refund("re_3", amount_minor=300, created_at=START + 2, status="failed"))


@pytest.mark.parametrize(
    ("kind", "status", "amount", "mirror", "stands"),
    [
        ("charge.refunded", "succeeded", 1500, charge(refunds=PAID), True),
        ("charge.refunded", "succeeded", 1000, charge(refunds=PAID), True),
        ("charge.refunded", "succeeded", 1800, charge(refunds=BACK), True),
        ("charge.refunded", "succeeded", 1600, charge(refunds=PAID), False),
        ("charge.refunded", "succeeded", 1500, charge(), False),
        ("charge.refunded", "succeeded", 1500, None, False),
        ("charge.succeeded", "succeeded", 0, None, True),
        ("charge.updated", "succeeded", 0, None, True),
        ("charge.updated", "succeeded", 0, charge(), True),
        ("charge.failed", "failed", 0, charge(), False),
        ("charge.updated", "succeeded", None, charge(), True),
    ],
)
def test_a_charge_is_looked_at_only_where_its_event_says_something_new(
    kind: str,
    status: str,
    amount: int | None,
    mirror: object,
    stands: bool,  # noqa: FBT001
) -> None:
    event = replace(BARE, type=kind, refund=None, status=status, amount_minor=amount)
    assert rules.charge_stands(event, mirror) is stands  # type: ignore[arg-type]


def test_what_was_created_close_together_is_one_list() -> None:
    near = {f"re_{at}": START + 60.0 * at for at in range(5)}
    far = {"re_far": START + 10_000, "re_further": START + 20_000}
    assert rules.runs(near | far) == [Run(START, START + 240.0, frozenset(near))]
    assert rules.runs(far) == []
    assert rules.runs({}) == []


def test_polling_asks_for_few_types_and_for_none_that_every_payment_makes() -> None:
    assert len(POLLED) <= 20
    assert {"refund.created", "refund.updated", "refund.failed", "charge.dispute.closed"} <= set(POLLED) < HANDLED
    assert not {"charge.succeeded", "charge.updated"} & set(POLLED)


@pytest.mark.parametrize(("going_on", "seconds"), [(True, 60.0), (False, 900.0)])
def test_calm_accounts_are_asked_about_less_often(going_on: bool, seconds: float) -> None:  # noqa: FBT001
    assert rules.every(60.0, going_on=going_on) == seconds


@pytest.mark.parametrize(
    ("mark", "told_at", "enough"),
    [
        (START - 60, START - 60, True),
        (None, START - 60, False),
        (START - 60, None, False),
        (START - 901, START - 60, False),
        (START - 60, START - 3601, False),
        # Written by a clock that was set back since.
        (START + 86_400, START - 60, False),
        (START - 60, START + 86_400, False),
    ],
)
def test_what_webhooks_failed_to_bring_is_enough_only_where_they_come(
    mark: float | None,
    told_at: float | None,
    enough: bool,  # noqa: FBT001
) -> None:
    assert rules.failed_will_do(START, mark, told_at, 60.0) is enough


def test_waits_grow_to_an_hour() -> None:
    assert [rules.back_off(tries) for tries in (0, 1, 5, 10, 11, 30)] == [2, 4, 64, 2048, 3600, 3600]
    assert round(sum(rules.back_off(tries) for tries in range(TRIES_MAX - 1)) / 3600) == 9


def test_a_days_calls_are_spread_over_the_day() -> None:
    midnight = START - START % 86_400
    assert rules.affordable(199, 3000, midnight)
    assert not rules.affordable(200, 3000, midnight)
    assert rules.affordable(1699, 3000, midnight + 43_200)
    assert not rules.affordable(1700, 3000, midnight + 43_200)
    assert rules.affordable(10**9, 0, midnight)
