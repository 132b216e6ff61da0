"""The mirror: what was seen later wins, and a refund that was once seen is never forgotten."""

from __future__ import annotations

import pytest

from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.gateways.base import SeenDispute
from refundry.infra.db import Database, Unit
from tests.support.builders import ACCOUNT, CHARGE, look, seen_refund
from tests.support.clock import HandClock
from tests.support.hand import ORDER_KEY, Hand

pytestmark = pytest.mark.integration

PAID = seen_refund("re_1", amount_minor=700, reason="duplicate", metadata={"ü": "1"})


@pytest.fixture
def hand(database: Database, clock: HandClock) -> Hand:
    return Hand(database, clock)


def test_a_look_is_kept_with_its_refunds_and_disputes(hand: Hand) -> None:
    dispute = SeenDispute("du_1", "warning_needs_response", 5, refundable=True)
    hand.looked(refunds=(PAID,), disputes=(dispute,), metadata={ORDER_KEY: "A1"}, destination="acct_2")
    kept = hand.charge()
    assert kept.refunds == (PAID,)
    assert kept.disputes == (SeenDispute("du_1", "warning_needs_response", 5, refundable=True),)
    assert (kept.order_id, kept.refunded_minor, kept.destination, kept.stale) == ("A1", 700, "acct_2", False)
    assert kept.looked_at == pytest.approx(hand.clock.now(), abs=0.1)


def test_a_later_look_replaces_an_earlier_one(hand: Hand) -> None:
    hand.looked(captured_minor=10_000)
    hand.looked(captured_minor=500, refunds=(PAID,))
    assert (hand.charge().captured_minor, hand.charge().refunds) == (500, (PAID,))


def test_a_look_that_began_before_the_last_one_is_dropped(hand: Hand) -> None:
    began = hand.clock.now()
    hand.looked(refunds=(PAID,))
    hand.looked(began_at=began)
    assert hand.charge().refunded_minor == 700


def test_a_look_that_began_before_our_last_write_is_dropped(hand: Hand) -> None:
    hand.looked()
    began = hand.clock.now()
    hand.unit(lambda unit: charges.take_refund(unit, ACCOUNT, PAID, unit.now))
    assert hand.charge().stale
    hand.looked(began_at=began)
    assert hand.charge().stale, "the look cannot have seen what we wrote"
    assert hand.charge().unrefunded_minor == 9300
    hand.looked(refunds=(PAID,))
    assert not hand.charge().stale


def test_a_look_that_began_in_the_very_moment_of_a_write_is_dropped(hand: Hand) -> None:
    hand.looked()
    hand.unit(lambda unit: charges.touch(unit, CHARGE, unit.now))
    hand.unit(lambda unit: charges.mirror(unit, ACCOUNT, [look(began_at=unit.now - 0.001)], ORDER_KEY))
    assert hand.charge().stale


def test_an_older_touch_takes_nothing_back(hand: Hand) -> None:
    hand.looked()
    hand.unit(lambda unit: charges.touch(unit, CHARGE, unit.now - 60))
    assert not hand.charge().stale


def test_a_refund_that_a_later_look_does_not_show_is_never_forgotten(hand: Hand) -> None:
    hand.looked(refunds=(PAID,))
    hand.looked(refunds=())
    assert hand.charge().refunds == (PAID,)
    assert hand.charge().unrefunded_minor == 9300


def test_a_refunds_newer_state_replaces_the_older(hand: Hand) -> None:
    hand.looked(refunds=(PAID,))
    failed = seen_refund("re_1", amount_minor=700, status="failed", failure_reason="lost_or_stolen_card")
    hand.unit(lambda unit: charges.take_refund(unit, ACCOUNT, failed, unit.now))
    assert hand.charge().refunds == (failed,)
    assert hand.charge().unrefunded_minor == 10_000
    with hand.database.reading() as unit:
        assert charges.refund_of(unit, "re_1") == failed
        assert charges.refund_of(unit, "re_0") is None


def test_a_refund_is_kept_though_its_charge_is_not_mirrored_yet(hand: Hand) -> None:
    hand.unit(lambda unit: charges.take_refund(unit, ACCOUNT, PAID, unit.now))
    hand.looked()
    assert hand.charge().refunds == (PAID,)


def test_many_looks_are_mirrored_in_one_unit(hand: Hand) -> None:
    hand.looked("ch_1")
    began = hand.clock.now() + 1
    looks = [look(f"ch_{n}", began_at=began, refunds=(seen_refund(f"re_{n}", charge=f"ch_{n}"),)) for n in range(150)]
    stale = look("ch_1", began_at=began - 100)
    hand.clock.move(2)
    hand.unit(lambda unit: charges.mirror(unit, ACCOUNT, [*looks, stale], ORDER_KEY))
    assert all(len(hand.charge(f"ch_{n}").refunds) == 1 for n in range(150))


def test_nothing_mirrored_is_nothing(hand: Hand) -> None:
    hand.unit(lambda unit: charges.mirror(unit, ACCOUNT, [], ORDER_KEY))


def test_charges_are_found_by_order_and_payment_intent_of_their_account(hand: Hand) -> None:
    hand.looked("ch_2", metadata={ORDER_KEY: "A1"}, payment_intent="pi_1")
    hand.looked("ch_1", metadata={ORDER_KEY: "A1"}, payment_intent="pi_1")
    hand.looked("ch_3", metadata={"other": "A1"})

    def ids(found: list[Charge]) -> list[str]:
        return [charge.id for charge in found]

    with hand.database.reading() as unit:
        assert ids(charges.by_order(unit, ACCOUNT, "A1")) == ["ch_1", "ch_2"]
        assert ids(charges.by_payment_intent(unit, ACCOUNT, "pi_1")) == ["ch_1", "ch_2"]
        assert charges.by_order(unit, "acct_2|test", "A1") == []
        assert charges.find(unit, "ch_0") is None


def test_how_charges_were_last_seen_is_told_by_each_name_also_where_there_is_none(hand: Hand) -> None:
    hand.looked("ch_2", metadata={ORDER_KEY: "A1"}, payment_intent="pi_1")
    hand.looked("ch_1", metadata={ORDER_KEY: "A1"}, status="failed")

    def told(unit: Unit, column: str, *names: str, account: str = ACCOUNT) -> dict[str, list[tuple[str, str, bool]]]:
        found = charges.last_looks(unit, account, column, names)
        return {name: [(one.charge, one.status, one.stale) for one in looks] for name, looks in found.items()}

    first, second = ("ch_1", "failed", False), ("ch_2", "succeeded", False)
    with hand.database.unit() as unit:
        assert told(unit, "order_id", "A1", "A2", "A1") == {"A1": [first, second], "A2": []}
        assert told(unit, "payment_intent", "pi_1") == {"pi_1": [second]}
        assert told(unit, "order_id", "A1", account="acct_2|test") == {"A1": []}
        # Who names another account's charge is to hear just that.
        assert told(unit, "id", "ch_2", account="acct_2|test") == {"ch_2": [second]}
        assert told(unit, "id") == {}
        charge = charges.find(unit, "ch_1")
        assert charge is not None
        (last,) = charges.last_looks(unit, ACCOUNT, "id", ["ch_1"])["ch_1"]
        assert (last.looked_at, last.created_at) == (charge.looked_at, charge.created_at)
        # Also what this unit has not written yet.
        charges.touch(unit, "ch_2", unit.now + 1)
        assert told(unit, "id", "ch_2") == {"ch_2": [("ch_2", "succeeded", True)]}


def test_the_window_that_was_listed_is_kept_by_account_and_by_the_key_of_orders(hand: Hand) -> None:
    hand.unit(lambda unit: charges.save_window(unit, ACCOUNT, "order_id", 0.0, 5.0))
    hand.unit(lambda unit: charges.save_window(unit, ACCOUNT, "order_id", 0.0, 9.5))
    hand.unit(lambda unit: charges.save_window(unit, "acct_2|test", "shop", 0.0, 7.0))
    with hand.database.reading() as unit:
        assert charges.window(unit, ACCOUNT, "order_id") == (0.0, 9.5)
        assert charges.window(unit, ACCOUNT, "shop") is None
        assert charges.window(unit, "acct_2|test", "order_id") is None
    # Whoever goes back to the first key finds orders of the second one mirrored.
    hand.unit(lambda unit: charges.save_window(unit, ACCOUNT, "shop", 0.0, 9.9))
    with hand.database.reading() as unit:
        assert charges.window(unit, ACCOUNT, "order_id") is None
        assert charges.window(unit, ACCOUNT, "shop") == (0.0, 9.9)
        assert charges.window(unit, "acct_2|test", "shop") == (0.0, 7.0)


def test_what_is_about_to_leave_the_balance_is_what_was_refunded_lately_or_waits_for_it(hand: Hand) -> None:
    since = PAID.created_at
    low, failed = {"pending_reason": "insufficient_funds"}, {"status": "failed"}
    hand.looked(
        refunds=(
            PAID,
            seen_refund("re_before", amount_minor=1, created_at=since - 1),
            seen_refund("re_waits", amount_minor=20, created_at=since - 1, status="pending", **low),
            seen_refund("re_waits_since", amount_minor=40, status="pending", **low),
            seen_refund("re_failed", amount_minor=300, failure_reason="declined", **failed),
            seen_refund("re_lacked", amount_minor=5000, failure_reason="insufficient_funds", **failed),
            seen_refund("re_other", amount_minor=9, currency="eur"),
        )
    )
    with hand.database.reading() as unit:
        assert charges.leaving(unit, ACCOUNT, since) == {"gbp": 700 + 20 + 40 + 300, "eur": 9}
        assert charges.leaving(unit, "acct_2|test", since) == {}
