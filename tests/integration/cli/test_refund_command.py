"""One refund at the desk: what was typed is checked, what will be paid is shown, and the outcome is told as it is."""

from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.integration.cli.conftest import Run
from tests.support.server import Server
from tests.support.stripe_call import called

pytestmark = pytest.mark.integration

CREATE = ("refund", "create", "--json")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--full", "--reason", "duplicate"), "usage"),
        (("--order", "o1", "--charge", "ch_1", "--full", "--reason", "duplicate"), "usage"),
        (("--order", "o1", "--reason", "duplicate"), "usage"),
        (("--order", "o1", "--full", "--amount", "1.00", "--reason", "duplicate"), "usage"),
        (("--order", "o1", "--full"), "usage"),
        (("--order", "o1", "--full", "--reason", "because"), "reason_unknown"),
        (("--order", "o1", "--full", "--reason", "fraudulent"), "reason_fraudulent"),
        (("--order", "o1", "--amount", "1,00", "--reason", "duplicate"), "amount_unreadable"),
        (("--order", "o1", "--amount", "0", "--reason", "duplicate"), "amount_not_positive"),
        (("--order", "o1", "--amount", "1.001", "--currency", "gbp", "--reason", "duplicate"), "amount_too_precise"),
        (("--order", "o1", "--amount-minor", "1.5", "--reason", "duplicate"), "amount_unreadable"),
        (("--order", "o1", "--full", "--currency", "xxx", "--reason", "duplicate"), "currency_unknown"),
        (("--order", "o1", "--full", "--ticket", "", "--reason", "duplicate"), "usage"),
        (("--order", "o1", "--full", "--ticket", "1.23457E+15", "--reason", "duplicate"), "number_too_long"),
        (("--order", "o1", "--full", "--key", "7.0", "--reason", "duplicate"), "number_not_whole"),
        (("--order", "7.0", "--full", "--reason", "duplicate"), "number_not_whole"),
        (("--order", "o1", "--full", "--ticket", "Rene\u0301", "--reason", "duplicate"), "text_not_nfc"),
        (("--order", "o1", "--full", "--key", "Rene\u0301", "--reason", "duplicate"), "text_not_nfc"),
        (("--order", "Rene\u0301", "--full", "--reason", "duplicate"), "order_unknown"),
        (("--order", "o1", "--full", "--ticket", '"T-7"', "--reason", "duplicate"), "text_quoted"),
        (("--order", "o1", "--full", "--key", "'+44", "--reason", "duplicate"), "text_quoted"),
        (("--order", "o1", "--full", "--ticket", "a\u200bb", "--reason", "duplicate"), "text_unprintable"),
        (("--order", "o1", "--full", "--ticket", "t" * 501, "--reason", "duplicate"), "text_too_long"),
        (("--order", "nowhere", "--full", "--reason", "duplicate"), "order_unknown"),
        (("--charge", "ch_nowhere", "--full", "--reason", "duplicate"), "charge_unknown"),
        (("--order", "o1", "--amount", "1.001", "--reason", "duplicate"), "amount_too_precise"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_code(
    refundry: Run, refunds_of: Callable[[], int], arguments: tuple[str, ...], code: str
) -> None:
    told = refundry(*CREATE, *arguments)
    assert (told.code, told.error["code"]) == (2, code), told.err
    assert refunds_of() == 0


def test_a_dry_run_decides_and_pays_nothing(refundry: Run, refunds_of: Callable[[], int]) -> None:
    told = refundry(*CREATE, "--order", "o1", "--amount", "12.34", "--reason", "duplicate", "--dry-run")
    assert (told.code, told.json["decision"], told.json["amount"]) == (0, "approve", 1234)
    beyond = refundry(*CREATE, "--order", "o1", "--amount", "500", "--reason", "duplicate", "--dry-run")
    assert (beyond.code, beyond.json["code"]) == (3, "amount_exceeds_refundable")
    assert refundry("refund", "list", "--json").json["refunds"] == []
    assert refunds_of() == 0


def test_a_refund_is_paid_shown_and_cannot_be_called_back(refundry: Run, refunds_of: Callable[[], int]) -> None:
    paid = refundry(*CREATE, "--order", "o1", "--full", "--reason", "duplicate", "--ticket", "T-1")
    assert (paid.code, paid.json["outcome"], paid.json["amount"]) == (0, "paid", 10_000), paid.err
    assert "100.00 GBP captured, 0.00 GBP given back before" in paid.err
    request = paid.json["request_id"]
    shown = refundry("refund", "show", request, "--json").json
    assert shown["timeline"][0]["event"] == "refund_request.received"
    assert shown["tries"][0]["sends"][0]["stripe_request"].startswith("req_")
    for verb in ("withdraw", "cancel"):
        refused = refundry("refund", verb, request, "--json")
        assert (refused.code, refused.error["code"]) == (1, "state_forbids")
    assert refunds_of() == 1
    again = refundry(*CREATE, "--order", "o1", "--amount", "1.00", "--reason", "duplicate", "--ticket", "T-1")
    assert (again.code, again.error["code"]) == (2, "same_key_other_content")
    more = refundry(*CREATE, "--order", "o1", "--amount", "1.00", "--reason", "duplicate", "--ticket", "T-2")
    assert (more.code, more.json["outcome"], more.json["code"]) == (3, "refused", "charge_already_refunded")
    assert refunds_of() == 1


def test_a_dry_run_of_what_was_asked_for_before_tells_what_became_of_it(
    refundry: Run, refunds_of: Callable[[], int]
) -> None:
    refund = (*CREATE, "--order", "o1", "--amount", "5.00", "--reason", "duplicate")
    paid = refundry(*refund, "--ticket", "T-1").json
    told = refundry(*refund, "--ticket", "T-1", "--dry-run")
    assert (told.code, told.json["decision"], told.json["state"]) == (0, "same", "settled"), told.err
    assert told.json["request_id"] == paid["request_id"]
    assert "asked for before" in told.err
    words = refundry(*refund[:2], *refund[3:], "--ticket", "T-1", "--dry-run")
    assert words.out.startswith("paid: 5.00 GBP")
    # What would be refused is refused, and what would be decided anew is decided.
    other = refundry(*CREATE, "--order", "o1", "--full", "--reason", "duplicate", "--ticket", "T-1", "--dry-run")
    assert (other.code, other.error["code"]) == (2, "same_key_other_content")
    assert refundry(*refund).code == 0
    again = refundry(*refund, "--dry-run")
    assert (again.code, again.error["code"]) == (2, "possible_repeat")
    beyond = (*CREATE, "--order", "o1", "--amount", "500", "--reason", "duplicate", "--ticket", "T-2")
    assert refundry(*beyond).code == 3
    anew = refundry(*beyond, "--dry-run")
    assert (anew.code, anew.json["code"]) == (3, "amount_exceeds_refundable")
    assert refunds_of() == 2


def test_a_charge_is_looked_at_once_for_a_refund_and_anew_for_the_next(refundry: Run, stripe: Server) -> None:
    def looks() -> int:
        calls = stripe.control("GET /_sim/calls")["operations"]
        return sum(told["calls"] for name, told in calls.items() if name == "GET /v1/charges/{charge}")

    # In a new database no look is believed that is older than its first claim.
    assert refundry(*CREATE, "--order", "o4", "--amount", "1.00", "--reason", "duplicate").code == 0
    before = looks()
    paid = refundry(*CREATE, "--order", "o3", "--amount", "1.00", "--reason", "duplicate", "--ticket", "T-1")
    assert (paid.code, paid.json["outcome"]) == (0, "paid"), paid.err
    assert looks() - before == 1
    # Paid on since: what was seen then is not what is decided and shown by.
    more = refundry(*CREATE, "--order", "o3", "--amount", "1.00", "--reason", "duplicate", "--ticket", "T-2")
    assert (more.code, more.json["outcome"]) == (0, "paid"), more.err
    assert "1.00 GBP given back before" in more.err
    assert looks() - before == 2


def test_without_ticket_or_key_a_second_one_is_a_possible_repeat(refundry: Run, refunds_of: Callable[[], int]) -> None:
    refund = (*CREATE, "--order", "o2", "--amount", "5.00", "--reason", "requested_by_customer")
    assert refundry(*refund).code == 0
    again = refundry(*refund)
    assert (again.code, again.error["code"]) == (2, "possible_repeat")
    assert refunds_of() == 1
    assert refundry(*refund, "--key", "second").code == 0
    assert refunds_of() == 2


def test_a_refund_by_hand_holds_the_same_amount_until_it_is_allowed(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server
) -> None:
    charge = refundry(*CREATE, "--order", "o3", "--full", "--reason", "duplicate", "--dry-run").json["charge"]
    stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 500})
    refund = (*CREATE, "--order", "o3", "--amount", "5.00", "--reason", "duplicate", "--ticket", "T-3")
    held = refundry(*refund)
    assert (held.code, held.json["held"]) == (3, "possible_repeat"), held.err
    assert refunds_of() == 1
    allowed = refundry(*refund, "--allow-repeat")
    assert (allowed.code, allowed.json["outcome"]) == (0, "paid"), allowed.err
    assert refunds_of() == 2


def test_a_dry_run_names_a_refund_by_hand_that_nobody_has_read_of_and_pays_past_those_that_were_read(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server
) -> None:
    refund = (*CREATE, "--order", "o3", "--amount", "5.00", "--reason", "duplicate", "--ticket", "T-3")
    charge = refundry(*refund, "--dry-run").json["charge"]
    stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 500})
    held = refundry(*refund)
    assert held.json["held"] == "possible_repeat", held.err
    allowed = refundry(*refund, "--allow-repeat", "--dry-run")
    assert (allowed.code, allowed.json["decision"], allowed.json["amount"]) == (0, "approve", 500), allowed.err
    second = stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 500})["id"]
    assert second not in held.json["why"]
    foreseen = refundry(*refund, "--allow-repeat", "--dry-run")
    assert (foreseen.code, foreseen.json["decision"], foreseen.json["code"]) == (3, "hold", "possible_repeat")
    assert second in foreseen.json["why"]
    kept = refundry(*refund, "--allow-repeat")
    assert (kept.code, kept.json["held"], kept.json["why"]) == (3, "possible_repeat", foreseen.json["why"]), kept.err
    assert refunds_of() == 2
    foreseen = refundry(*refund, "--allow-repeat", "--dry-run")
    assert (foreseen.code, foreseen.json["decision"]) == (0, "approve"), foreseen.err
    paid = refundry(*refund, "--allow-repeat")
    assert (paid.code, paid.json["outcome"]) == (0, "paid"), paid.err
    assert refunds_of() == 3


def first_try_failed(stripe: Server) -> tuple[str, Callable[[], object]]:
    """Have a customer's first try to pay fail; tells the payment intent, and what pays it in the end."""
    intent = called(stripe, "POST /v1/payment_intents", amount="5000", currency="gbp")["id"]
    confirm = f"POST /v1/payment_intents/{intent}/confirm"
    with pytest.raises(HTTPError) as refused:
        called(stripe, confirm, payment_method="pm_card_chargeDeclined")
    refused.value.close()
    return intent, lambda: called(stripe, confirm, payment_method="pm_card_visa")


def test_a_payment_intent_whose_first_try_failed_is_paid_from_the_charge_that_paid_it(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server
) -> None:
    intent, pay = first_try_failed(stripe)
    create = (*CREATE, "--payment-intent", intent, "--full", "--reason", "duplicate", "--ticket", "T-1")
    early = refundry(*create, "--dry-run")
    assert (early.code, early.json["code"]) == (3, "charge_failed"), early.err
    pay()
    paid = refundry(*create)
    assert (paid.code, paid.json["amount"]) == (0, 5000), paid.err
    assert refunds_of() == 1


@pytest.mark.parametrize("name", ["--ticket", "--key"])
def test_a_refund_that_was_refused_since_the_payment_had_failed_is_paid_once_it_was_paid(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server, name: str
) -> None:
    intent, pay = first_try_failed(stripe)
    create = (*CREATE, "--payment-intent", intent, "--full", "--reason", "duplicate", name, "T-1")
    early = refundry(*create)
    assert (early.code, early.json["code"]) == (3, "charge_failed"), early.err
    pay()
    foreseen = refundry(*create, "--dry-run")
    assert (foreseen.code, foreseen.json["decision"], foreseen.json["amount"]) == (0, "approve", 5000), foreseen.err
    paid = refundry(*create)
    assert (paid.code, paid.json["amount"], paid.json["request_id"]) == (0, 5000, early.json["request_id"]), paid.err
    assert paid.json["charge"] != early.json["charge"]
    assert refunds_of() == 1


def test_a_key_whose_payment_failed_is_not_taken_to_another_payment(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server
) -> None:
    intent, _ = first_try_failed(stripe)
    more = ("--amount", "50.00", "--reason", "duplicate", "--key", "K-1")
    assert refundry(*CREATE, "--payment-intent", intent, *more).json["code"] == "charge_failed"
    other = refundry(*CREATE, "--order", "o1", *more)
    assert (other.code, other.error["code"]) == (2, "same_key_other_content"), other.err
    assert refunds_of() == 0


def test_a_retry_of_a_file_pays_what_was_paid_at_the_second_try(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server, tmp_path: Path
) -> None:
    intent, pay = first_try_failed(stripe)
    file = tmp_path / "refunds.csv"
    file.write_text(f"payment_intent,amount,ticket_id\n{intent},50.00,T-1\n")
    first = refundry("batch", "run", str(file), "--yes", "--json")
    assert (first.code, first.json["reasons"]) == (3, {"charge_failed": 1}), first.err
    retry = ("batch", "retry", first.json["batch_id"][:8], "--json")
    assert refundry(*retry).json["reasons"] == {"charge_failed": 1}
    pay()
    paid = refundry(*retry)
    assert (paid.code, paid.json["paid"], refunds_of()) == (0, 1, 1), paid.err


def test_what_stripe_still_has_is_called_pending(refundry: Run, stripe: Server) -> None:
    charge = refundry(*CREATE, "--order", "o4", "--full", "--reason", "duplicate", "--dry-run").json["charge"]
    stripe.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    pending = refundry("refund", "create", "--order", "o4", "--full", "--reason", "duplicate")
    assert pending.code == 0, pending.err
    assert pending.out.startswith("paid: 100.00 GBP")
    assert "pending there" in pending.out


def test_a_refund_that_waits_for_its_customer_can_be_canceled(refundry: Run, stripe: Server) -> None:
    charge = refundry(*CREATE, "--order", "o5", "--full", "--reason", "duplicate", "--dry-run").json["charge"]
    stripe.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "action"})
    waiting = refundry(*CREATE, "--order", "o5", "--full", "--reason", "duplicate")
    assert (waiting.code, waiting.json["state"]) == (3, "requires_action"), waiting.err
    canceled = refundry("refund", "cancel", waiting.json["request_id"], "--json")
    assert (canceled.code, canceled.json["state"]) == (0, "canceled"), canceled.err
