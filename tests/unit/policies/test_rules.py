"""Eligibility: each refusal and each wait with its code and a sentence that a support agent understands."""

from __future__ import annotations

import pytest

from refundry.accounts.model import Connect
from refundry.charges.model import REQUEST_ID, TICKET_ID, Charge
from refundry.gateways.base import SeenDispute
from refundry.kernel import money
from refundry.kernel.outcome import SeenRefund
from refundry.policies.model import BUILT_IN, Decision, Facts, Verdict, Wait
from refundry.policies.rules import DAY, connect_of, decide
from tests.support.builders import CHARGE, charge, facts, seen_refund
from tests.support.clock import START

pytestmark = pytest.mark.unit

CHARGEBACK = SeenDispute("du_1", "needs_response", 10_000, refundable=False)
INQUIRY = SeenDispute("du_2", "warning_needs_response", 10_000, refundable=True)
WON = SeenDispute("du_3", "won", 10_000, refundable=True)
BY_OTHERS = seen_refund("re_x", amount_minor=1000, created_at=START - DAY)


def given_back(*refunds: SeenRefund, **changes: object) -> Charge:
    """Make a charge with refunds, and Stripe's sum over them."""
    total = sum(refund.amount_minor for refund in refunds if not refund.over)
    return charge(refunds=refunds, **({"refunded_minor": total} | changes))


def refused(told: Decision) -> tuple[Verdict, str]:
    return told.verdict, told.code


DESTINATION = charge(destination="acct_shop")
WITH_FEE = charge(destination="acct_shop", application_fee=True)
YES, NO = True, False
REFUSED: dict[str, tuple[Facts, str, str]] = {
    "unknown charge": (facts(charge=None), "charge_unknown", "no such charge in this account and mode"),
    "failed": (facts(charge=charge(status="failed", captured=False)), "charge_failed", "failed"),
    "uncaptured": (facts(charge=charge(captured=False, captured_minor=0)), "charge_uncaptured", "--cancel-uncaptured"),
    "wrong currency": (facts(currency="eur"), "currency_wrong", "asked for EUR, and ch_1 was paid in GBP"),
    "a transfer that nobody decided on": (
        facts(charge=DESTINATION), "connect_undecided", "nobody has decided on reverse_transfer: write"),
    "a fee that nobody decided on": (
        facts(charge=WITH_FEE, connect=Connect(reverse_transfer=True)), "connect_undecided", "on refund_application_fee: write"),
    "neither": (
        facts(charge=WITH_FEE), "connect_undecided",
        "acct_shop got the money, and nobody has decided on reverse_transfer and refund_application_fee"),
    "the fee without the transfer": (
        facts(charge=WITH_FEE, connect=Connect(reverse_transfer=False, refund_application_fee=True)), "connect_fee_alone",
        "only together with the transfer"),
    "chargeback": (facts(charge=charge(disputed=True, disputes=(CHARGEBACK,))), "charge_disputed", "du_1"),
    "chargeback, though allowed in an inquiry": (
        facts(charge=charge(disputed=True, disputes=(CHARGEBACK,)), allow_inquiry=True), "charge_disputed", "twice"),
    "a chargeback behind an inquiry": (
        facts(charge=charge(disputed=True, disputes=(INQUIRY, CHARGEBACK)), asked_minor=None, allow_inquiry=True),
        "charge_disputed", "du_1"),
    "inquiry": (facts(charge=charge(disputes=(INQUIRY,)), asked_minor=None), "charge_under_inquiry", "--allow-inquiry"),
    "inquiry, in part": (
        facts(charge=charge(disputes=(INQUIRY,)), allow_inquiry=True), "charge_under_inquiry", "only a full refund"),
    "a dispute that Stripe did not show": (facts(charge=charge(disputed=True)), "charge_disputed", "look at it in Stripe"),
    "refunded in full": (
        facts(charge=given_back(seen_refund(amount_minor=10_000))), "charge_already_refunded", "nothing is left"),
    "refunded in full, says only Stripe's sum": (
        facts(charge=charge(refunded_minor=10_000)), "charge_already_refunded", "nothing is left"),
    "zero": (facts(asked_minor=0), "amount_not_positive", "zero or less"),
    "negative": (facts(asked_minor=-1), "amount_not_positive", "zero or less"),
    "thirteen digits": (facts(asked_minor=10**12), "amount_too_large", "more than Stripe can hold"),
    "above what is left": (
        facts(asked_minor=10_001), "amount_exceeds_refundable", "asked for 100.01 GBP, 100.00 GBP is left on ch_1"),
    "above what others left": (
        facts(charge=given_back(seen_refund(amount_minor=9500)), asked_minor=501, allowed=frozenset({"re_1"})),
        "amount_exceeds_refundable", "5.00 GBP is left"),
    "too old": (
        facts(charge=charge(created_at=START - 181 * DAY), age_max_days=180), "charge_too_old", "181 days old"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_be_paid_is_refused_with_a_code_and_a_sentence(case: str) -> None:
    told = decide(REFUSED[case][0])
    assert refused(told) == (Verdict.REFUSE, REFUSED[case][1])
    assert REFUSED[case][2] in told.text
    assert told.amount_minor == 0
    assert told.policy == BUILT_IN


def test_every_refusal_names_the_charge_or_the_amount() -> None:
    for case, (given, _, _) in REFUSED.items():
        text = decide(given).text
        assert len(text) > 20, case
        assert CHARGE in text or "charge" in text or "amount" in text or "Stripe" in text, case


# Money


@pytest.mark.parametrize(
    ("currency", "asked", "code"),
    [
        ("gbp", 1, None), ("jpy", 1, None), ("jpy", 1001, None), ("kwd", 10, None), ("kwd", 1, "amount_too_precise"),
        ("kwd", 1005, "amount_too_precise"), ("isk", 100, None), ("isk", 50, "amount_too_precise"),
        ("isk", 150, "amount_too_precise"), ("ugx", 500, None), ("ugx", 5, "amount_too_precise"), ("huf", 1, None),
        ("twd", 150, None),
    ],
)  # fmt: skip
def test_amounts_are_held_against_the_currencys_decimals(currency: str, asked: int, code: str | None) -> None:
    told = decide(facts(charge=charge(currency=currency), currency=currency, asked_minor=asked))
    assert refused(told) == ((Verdict.REFUSE, code) if code else (Verdict.APPROVE, "eligible"))
    assert told.amount_minor == (0 if code else asked)


@pytest.mark.parametrize("currency", sorted(money.CURRENCIES))
def test_the_whole_charge_can_be_given_back_in_every_currency(currency: str) -> None:
    told = decide(facts(charge=charge(currency=currency, captured_minor=1200), currency=currency, asked_minor=None))
    assert (told.verdict, told.amount_minor) == (Verdict.APPROVE, 1200)


def test_the_sentence_writes_amounts_as_people_do() -> None:
    told = {
        currency: decide(facts(charge=charge(currency=currency), currency=currency, asked_minor=1200)).text
        for currency in ("gbp", "jpy", "kwd", "isk")
    }
    assert told == {
        "gbp": "12.00 GBP can be refunded", "jpy": "1200 JPY can be refunded", "kwd": "1.200 KWD can be refunded",
        "isk": "12.00 ISK can be refunded",
    }  # fmt: skip


# What may be paid


@pytest.mark.parametrize(
    ("case", "given", "amount"),
    [
        ("a part", facts(), 1000),
        ("all of it", facts(asked_minor=10_000), 10_000),
        ("full", facts(asked_minor=None), 10_000),
        ("full of what is left", facts(charge=given_back(BY_OTHERS), asked_minor=None), 9000),
        ("full of what is unreserved", facts(asked_minor=None, reserved_minor=400), 9600),
        ("the last penny", facts(charge=given_back(seen_refund(amount_minor=9999)), asked_minor=1), 1),
        (
            "after a part was captured",
            facts(charge=charge(captured_minor=500, amount_minor=9000), asked_minor=None),
            500,
        ),
        ("a refund that came back", facts(charge=given_back(seen_refund(amount_minor=10_000, status="failed"))), 1000),
        (
            "an inquiry, in full",
            facts(charge=charge(disputes=(INQUIRY,)), asked_minor=None, allow_inquiry=True),
            10_000,
        ),
        (
            "an inquiry, by amount",
            facts(charge=charge(disputes=(INQUIRY,)), asked_minor=10_000, allow_inquiry=True),
            10_000,
        ),
        ("a dispute that was won", facts(charge=charge(disputed=True, disputes=(WON,))), 1000),
        ("as old as allowed", facts(charge=charge(created_at=START - 180 * DAY), age_max_days=180), 1000),
        ("old, and no age set", facts(charge=charge(created_at=START - 9000 * DAY)), 1000),
    ],
)
def test_what_may_be_paid_is_approved(case: str, given: Facts, amount: int) -> None:
    told = decide(given)
    assert (case, told.verdict, told.code, told.amount_minor) == (case, Verdict.APPROVE, "eligible", amount)


# Possible repeats


def same_ticket(created_at: float) -> SeenRefund:
    return seen_refund("re_x", amount_minor=77, created_at=created_at, metadata={TICKET_ID: "T1"})


def by_another_key(**changes: object) -> SeenRefund:
    """Show a refund that some installation made for ticket T1, whose row named the charge in another way."""
    values: dict[str, object] = {"amount_minor": 1000, "metadata": {REQUEST_ID: "request-2", TICKET_ID: "T1"}}
    return seen_refund("re_x", **(values | changes))


@pytest.mark.parametrize(
    ("case", "given"),
    [
        ("the same amount", facts(charge=given_back(BY_OTHERS))),
        ("the same amount, 30 days ago", facts(charge=given_back(seen_refund(created_at=START - 30 * DAY)))),
        ("another request's twin", facts(twins=("request-2",))),
        ("a twin of two, one allowed", facts(twins=("request-1", "request-2"), allowed=frozenset({"request-1"}))),
        ("another was allowed", facts(charge=given_back(BY_OTHERS), allowed=frozenset({"re_y"}))),
        ("the same ticket", facts(charge=given_back(same_ticket(START - DAY)), ticket_id="T1")),
        ("the same ticket, years ago", facts(charge=given_back(same_ticket(START - 999 * DAY)), ticket_id="T1")),
        ("pending", facts(charge=given_back(seen_refund("re_x", amount_minor=1000, status="pending")))),
        ("another key's, for the same ticket", facts(charge=given_back(by_another_key()), ticket_id="T1")),
        ("another key's, of another amount", facts(charge=given_back(by_another_key(amount_minor=5)), ticket_id="T1")),
        ("full, half of it is back", facts(charge=given_back(seen_refund(amount_minor=5000)), asked_minor=None)),
    ],
)
def test_a_possible_repeat_waits_for_a_person(case: str, given: Facts) -> None:
    told = decide(given)
    assert (case, told.verdict, told.code, told.wait) == (case, Verdict.HOLD, "possible_repeat", Wait.POSSIBLE_REPEAT)
    assert "--allow-repeat" in told.text
    assert "re_" in told.text or "request-2" in told.text


@pytest.mark.parametrize(
    ("case", "given"),
    [
        ("allowed", facts(charge=given_back(BY_OTHERS), allowed=frozenset({"re_x"}))),
        ("a twin, allowed", facts(twins=("request-2",), allowed=frozenset({"request-2"}))),
        ("what has paid a twin that was allowed", facts(
            charge=given_back(by_another_key()), ticket_id="T1", twins=("request-2",), allowed=frozenset({"request-2"}))),
        ("older than 30 days", facts(charge=given_back(seen_refund(created_at=START - 30 * DAY - 1)))),
        ("another amount", facts(charge=given_back(seen_refund(amount_minor=999)))),
        ("it came back", facts(charge=given_back(seen_refund(amount_minor=1000, status="failed")))),
        ("it was canceled", facts(charge=given_back(seen_refund(amount_minor=1000, status="canceled")))),
        ("ours", facts(charge=given_back(seen_refund(amount_minor=1000, metadata={REQUEST_ID: "request-2"})))),
        ("another key's, for the same ticket, and this one has its own key", facts(
            charge=given_back(by_another_key()), ticket_id="T1", keyed=True)),
        ("another key's, for another ticket", facts(charge=given_back(by_another_key()), ticket_id="T2")),
        ("another key's, and it came back", facts(charge=given_back(by_another_key(status="failed")), ticket_id="T1")),
        ("another ticket", facts(charge=given_back(same_ticket(START)), ticket_id="T2")),
        ("no ticket", facts(charge=given_back(same_ticket(START)))),
    ],
)  # fmt: skip
def test_what_is_no_repeat_is_paid(case: str, given: Facts) -> None:
    assert (case, decide(given).verdict) == (case, Verdict.APPROVE)


# Siblings


@pytest.mark.parametrize(("asked", "reserved"), [(1000, 9001), (10_000, 1), (None, 10_000), (None, 12_000)])
def test_short_only_because_of_siblings_waits_and_is_not_refused(asked: int | None, reserved: int) -> None:
    told = decide(facts(asked_minor=asked, reserved_minor=reserved))
    assert (told.verdict, told.code, told.wait) == (Verdict.HOLD, "sibling", Wait.SIBLING)
    assert CHARGE in told.text


@pytest.mark.parametrize(("asked", "reserved", "amount"), [(1000, 9000, 1000), (None, 9999, 1), (10_000, 0, 10_000)])
def test_what_siblings_leave_is_enough(asked: int | None, reserved: int, amount: int) -> None:
    told = decide(facts(asked_minor=asked, reserved_minor=reserved))
    assert (told.verdict, told.amount_minor) == (Verdict.APPROVE, amount)


def test_more_than_the_charge_is_refused_though_siblings_have_claimed_some() -> None:
    assert decide(facts(asked_minor=10_001, reserved_minor=5000)).code == "amount_exceeds_refundable"


# Which one is said, where several are true


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (facts(charge=charge(status="failed", captured=False, disputes=(CHARGEBACK,))), "charge_failed"),
        (facts(charge=charge(captured=False, disputes=(CHARGEBACK,))), "charge_uncaptured"),
        (facts(charge=given_back(seen_refund(amount_minor=10_000), disputes=(CHARGEBACK,))), "charge_disputed"),
        (facts(charge=given_back(seen_refund(amount_minor=10_000)), asked_minor=20_000), "charge_already_refunded"),
        (facts(charge=given_back(BY_OTHERS), asked_minor=10_000), "amount_exceeds_refundable"),
    ],
)
def test_the_first_check_that_bites_is_stripes(given: Facts, code: str) -> None:
    assert decide(given).code == code


# Connect


@pytest.mark.parametrize(
    ("on", "connect"),
    [
        (DESTINATION, Connect(reverse_transfer=False)),
        (DESTINATION, Connect(reverse_transfer=True)),
        (WITH_FEE, Connect(reverse_transfer=True, refund_application_fee=True)),
        (WITH_FEE, Connect(reverse_transfer=False, refund_application_fee=False)),
        # A direct charge: without the flag the platform keeps its fee, which is Stripe's own default.
        (charge(application_fee=True), Connect()),
        (charge(), Connect()),
    ],
)
def test_what_was_decided_or_is_no_question_is_paid(on: Charge, connect: Connect) -> None:
    assert decide(facts(charge=on, connect=connect)).verdict is Verdict.APPROVE


@pytest.mark.parametrize(
    ("on", "asked", "usual", "told"),
    [
        (WITH_FEE, Connect(), Connect(YES, NO), Connect(YES, NO)),
        (WITH_FEE, Connect(NO), Connect(YES, NO), Connect(NO, NO)),
        (WITH_FEE, Connect(None, YES), Connect(YES, NO), Connect(YES, YES)),
        (WITH_FEE, Connect(NO, NO), Connect(), Connect(NO, NO)),
        (DESTINATION, Connect(), Connect(YES, YES), Connect(YES, None)),
        (charge(application_fee=True), Connect(), Connect(YES, YES), Connect(None, YES)),
        (charge(), Connect(), Connect(YES, YES), Connect()),
        # Said for this row: it goes to Stripe, which says what is wrong with it.
        (charge(), Connect(YES), Connect(), Connect(YES)),
    ],
)
def test_a_row_wins_over_the_account_which_speaks_only_where_there_is_a_transfer_or_a_fee(
    on: Charge, asked: Connect, usual: Connect, told: Connect
) -> None:
    assert connect_of(on, asked, usual) == told
