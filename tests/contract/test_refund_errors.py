"""Each refusal of `POST /v1/refunds` that Stripe documents, or that was recorded or measured, to the letter.

The tables read as those of the fact sheet: situation, HTTP status, code, param, message. `…` in a message stands for the
id of the charge or payment intent that the situation made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.contract

TEST, LIVE = "sk_test_sim", "sk_live_sim"
UNKNOWN_CHARGE, UNKNOWN_INTENT = "ch_unknown0000000000000000", "pi_unknown0000000000000000"


@dataclass(frozen=True)
class Asked:
    """A refusal, and the ids that its text may name."""

    reply: Reply
    charge: str = UNKNOWN_CHARGE
    intent: str = UNKNOWN_INTENT


async def _of(sim: Sim, charge: str, **params: Any) -> Asked:
    """Ask for a refund of a charge."""
    intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
    return Asked(await sim.call("POST /v1/refunds", charge=charge, **params), charge, intent)


async def _refunded(sim: Sim, amount: int, currency: str, already: int) -> str:
    charge = await sim.charge(amount, currency)
    if already:
        assert (await sim.call("POST /v1/refunds", charge=charge, amount=already)).status == 200
    return charge


def over(captured: int, currency: str, already: int, asked: int) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        return await _of(sim, await _refunded(sim, captured, currency, already), amount=asked)

    return ask


def on_fresh(**params: Any) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        return await _of(sim, await sim.charge(), **params)

    return ask


def on_refunded(**params: Any) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        return await _of(sim, await _refunded(sim, 5000, "usd", 5000), **params)

    return ask


def bare(**params: Any) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        return Asked(await sim.call("POST /v1/refunds", **params))

    return ask


def disputed(*verdict: str, inquiry: bool = False) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        charge = await sim.charge()
        dispute = await sim.control("POST /_sim/disputes", {"charge": charge, "inquiry": inquiry})
        for move in verdict:
            assert (await sim.control(f"POST /_sim/disputes/{dispute['id']}/{move}")).status == 200
        shown = await sim.call(f"GET /v1/disputes/{dispute['id']}")
        asked = await _of(sim, charge, amount=100)
        assert shown["is_charge_refundable"] is (asked.reply.status == 200)
        return asked

    return ask


async def uncaptured(sim: Sim) -> Asked:
    return await _of(sim, await sim.charge(capture_method="manual"), amount=100)


async def _declined(sim: Sim) -> tuple[str, str]:
    reply = await sim.call(
        "POST /v1/payment_intents", amount=5000, currency="usd", payment_method="pm_card_chargeDeclined", confirm=True
    )
    assert reply.status == 402
    return reply["error"]["charge"], reply["error"]["payment_intent"]["id"]


async def failed_charge(sim: Sim) -> Asked:
    charge, _ = await _declined(sim)
    return await _of(sim, charge)


async def failed_intent(sim: Sim) -> Asked:
    charge, intent = await _declined(sim)
    return Asked(await sim.call("POST /v1/refunds", payment_intent=intent), charge, intent)


async def canceled_charge(sim: Sim) -> Asked:
    charge = await sim.charge(capture_method="manual")
    intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
    assert (await sim.call(f"POST /v1/payment_intents/{intent}/cancel")).status == 200
    return await _of(sim, charge)


async def unconfirmed_intent(sim: Sim) -> Asked:
    intent = (await sim.call("POST /v1/payment_intents", amount=5000, currency="usd"))["id"]
    return Asked(await sim.call("POST /v1/refunds", payment_intent=intent), intent=intent)


async def a_charge_in(sim: Sim, key: str) -> Any:
    """Let a past charge be there in a mode: live mode takes no test cards."""
    row = {"amount_minor": 5000, "currency": "usd"}
    loaded = await sim.control("POST /_sim/load", {"livemode": key == LIVE, "charges": [row]})
    assert loaded.status == 200, loaded.json
    return (await sim.call("GET /v1/charges", key=key))["data"][0]


def of_other_mode(name: str, key: str, other: str) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        made = await a_charge_in(sim, other)
        ids = {"charge": made["id"], "payment_intent": made["payment_intent"]}
        reply = await sim.call("POST /v1/refunds", key=key, **{name: ids[name]})
        return Asked(reply, made["id"], made["payment_intent"])

    return ask


async def far_below_balance(sim: Sim) -> Asked:
    charge = await sim.charge(500_000)
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": 0})
    return await _of(sim, charge)


def closed_as(code: str) -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        charge = await sim.charge()
        assert (await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": code})).status == 200
        return await _of(sim, charge)

    return ask


def cancel(card: str = "pm_card_visa") -> Callable[[Sim], Awaitable[Asked]]:
    async def ask(sim: Sim) -> Asked:
        charge = await sim.charge(card=card)
        refund = await sim.call("POST /v1/refunds", charge=charge)
        return Asked(await sim.call(f"POST /v1/refunds/{refund['id']}/cancel"), charge)

    return ask


CHARGED_BACK = "Charge ch_… has been charged back; cannot issue a refund."
REFUNDED = "Charge ch_… has already been refunded."
NOT_CAPTURED = (
    "This uncaptured Charge was created by a PaymentIntent (pi_…). You must cancel the PaymentIntent to reverse the "
    "authorization instead of refunding the Charge directly. For more information, see "
    "https://stripe.com/docs/payments/place-a-hold-on-a-payment-method"
)
NO_CHARGE = "This PaymentIntent (pi_…) does not have a successful charge to refund."
LEAST = "This value must be greater than or equal to 1."
REASON = "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer"
NEITHER = "One of the following params should be provided for this request: payment_intent or charge."
LIVE_SEEN = "; a similar object exists in live mode, but a test mode key was used to make this request."
TEST_SEEN = "; a similar object exists in test mode, but a live mode key was used to make this request."
Row = tuple[str, Callable[[Sim], Awaitable[Asked]], int, str | None, str | None, str]
ROWS: list[Row] = [
    # situation, how, HTTP, code, param, message
    ("amount > rest", over(5000, "usd", 2500, 3000), 400, None, "amount", "Refund amount ($30.00) is greater than unrefunded amount on charge ($25.00)"),
    ("amount > rest, by one cent", over(5000, "usd", 1, 5000), 400, None, "amount", "Refund amount ($50.00) is greater than unrefunded amount on charge ($49.99)"),
    ("amount > rest, in euro", over(2000, "eur", 1000, 1001), 400, None, "amount", "Refund amount (€10.01) is greater than unrefunded amount on charge (€10.00)"),
    ("amount > rest, in pounds", over(9390, "gbp", 1, 9390), 400, None, "amount", "Refund amount (£93.90) is greater than unrefunded amount on charge (£93.89)"),
    ("amount > rest, in yen", over(5000, "jpy", 1000, 4500), 400, None, "amount", "Refund amount (¥4,500) is greater than unrefunded amount on charge (¥4,000)"),
    ("amount > charge, nothing refunded yet", over(5445, "gbp", 0, 9390), 400, None, "amount", "Refund amount (£93.90) is greater than charge amount (£54.45)"),
    ("fully refunded already, all asked", on_refunded(), 400, "charge_already_refunded", None, REFUNDED),
    ("fully refunded already, one cent asked", on_refunded(amount=1), 400, "charge_already_refunded", None, REFUNDED),
    ("fully refunded already, more than the charge asked", on_refunded(amount=9000), 400, "charge_already_refunded", None, REFUNDED),
    ("open chargeback", disputed(), 400, "charge_disputed", None, CHARGED_BACK),
    ("lost chargeback", disputed("lose"), 400, "charge_disputed", None, CHARGED_BACK),
    ("inquiry that became a chargeback", disputed("escalate", inquiry=True), 400, "charge_disputed", None, CHARGED_BACK),
    ("uncaptured charge of a PI", uncaptured, 400, None, None, NOT_CAPTURED),
    ("failed charge", failed_charge, 400, None, None, NO_CHARGE),
    ("PI whose charge failed", failed_intent, 400, None, None, NO_CHARGE),
    ("canceled charge", canceled_charge, 400, None, None, NO_CHARGE),
    ("PI without a charge", unconfirmed_intent, 400, None, None, NO_CHARGE),
    ("neither charge nor PI", bare(), 400, None, None, NEITHER),
    ("neither charge nor PI, with an amount", bare(amount=100), 400, None, None, NEITHER),
    ("unknown charge", bare(charge=UNKNOWN_CHARGE), 404, "resource_missing", "id", "No such charge: 'ch_…'"),
    ("charge of the other mode, test key", of_other_mode("charge", TEST, LIVE), 404, "resource_missing", "id", "No such charge: 'ch_…'" + LIVE_SEEN),
    ("charge of the other mode, live key", of_other_mode("charge", LIVE, TEST), 404, "resource_missing", "id", "No such charge: 'ch_…'" + TEST_SEEN),
    ("PI of the other mode, test key", of_other_mode("payment_intent", TEST, LIVE), 404, "resource_missing", "payment_intent", "No such payment_intent: 'pi_…'" + LIVE_SEEN),
    ("PI of the other mode, live key", of_other_mode("payment_intent", LIVE, TEST), 404, "resource_missing", "payment_intent", "No such payment_intent: 'pi_…'" + TEST_SEEN),
    ("amount 0", on_fresh(amount=0), 400, "parameter_invalid_integer", "amount", LEAST),
    ("amount below 0", on_fresh(amount=-100), 400, "parameter_invalid_integer", "amount", LEAST),
    ("amount with a fraction", on_fresh(amount="10.5"), 400, "parameter_invalid_integer", "amount", "Invalid integer: 10.5"),
    ("amount in words", on_fresh(amount="ten"), 400, "parameter_invalid_integer", "amount", "Invalid integer: ten"),
    ("bad reason", on_fresh(reason="because"), 400, None, "reason", REASON),
    ("reason that only Stripe sets", on_fresh(reason="expired_uncaptured_charge"), 400, None, "reason", REASON),
    ("unknown parameter", on_fresh(wat=1), 400, "parameter_unknown", "wat", "Received unknown parameter: wat"),
    ("unknown nested parameter", on_fresh(wat={"nope": 1}), 400, "parameter_unknown", "wat", "Received unknown parameter: wat"),
    ("balance too low, not queued", far_below_balance, 400, None, None, "Insufficient funds in your Stripe balance to refund this amount."),
    ("cancel of a succeeded refund", cancel(), 400, None, None, "Canceling this refund is unsupported."),
    ("cancel of a pending refund", cancel("pm_card_pendingRefund"), 400, None, None, "Canceling this refund is unsupported."),
]  # fmt: skip
EXTRA = {"balance too low, not queued": {"message_code": "insufficient_balance_for_refund"}}


def _error(code: str | None, param: str | None, message: str, **extra: str) -> dict[str, str]:
    """Build the whole error: what has no value is not there, and a page comes only with a code."""
    error = {"type": "invalid_request_error", "message": message, **extra}
    if code is not None:
        error |= {"code": code, "doc_url": "https://stripe.com/docs/error-codes/" + code.replace("_", "-")}
    return error | ({} if param is None else {"param": param})


def _named(message: str, asked: Asked) -> str:
    return message.replace("ch_…", asked.charge).replace("pi_…", asked.intent)


@pytest.mark.parametrize(("situation", "ask", "status", "code", "param", "message"), ROWS, ids=[row[0] for row in ROWS])
async def test_a_refund_is_refused_as_stripe_refuses_it(
    sim: Sim,
    situation: str,
    ask: Callable[[Sim], Awaitable[Asked]],
    status: int,
    code: str | None,
    param: str | None,
    message: str,
) -> None:
    asked = await ask(sim)
    assert asked.reply.status == status
    assert asked.reply.error == _error(code, param, _named(message, asked), **EXTRA.get(situation, {}))


# Documented with a code and a sentence, without the situation: a test chooses the charge.
CODES = [
    # code, message
    ("refund_disputed_payment", "You cannot refund a disputed payment."),
    ("charge_not_refundable", "The charge is no longer refundable."),
]


@pytest.mark.parametrize(("code", "message"), CODES, ids=[row[0] for row in CODES])
async def test_a_documented_code_can_be_had_for_a_charge(sim: Sim, code: str, message: str) -> None:
    asked = await closed_as(code)(sim)
    assert asked.reply.status == 400
    assert asked.reply.error == _error(code, None, message)


@pytest.mark.parametrize("ask", [row[1] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_a_refused_refund_changes_nothing(sim: Sim, ask: Callable[[Sim], Awaitable[Asked]]) -> None:
    asked = await ask(sim)
    key = TEST if sim.world.find("charge", asked.charge, sim.world.keys[TEST][0]) else LIVE
    if asked.charge == UNKNOWN_CHARGE:
        assert (await sim.call("GET /v1/refunds"))["data"] == []
        return
    refunds = (await sim.call("GET /v1/refunds", key=key, charge=asked.charge))["data"]
    charge = await sim.call(f"GET /v1/charges/{asked.charge}", key=key)
    assert sum(refund["amount"] for refund in refunds) == charge["amount_refunded"]
    rows = [row for refund in refunds for row in await _rows(sim, key, refund["id"])]
    assert len(rows) == len([refund for refund in refunds if refund["balance_transaction"]])
    assert (await sim.control("GET /_sim/audit"))["problems"] == []


async def _rows(sim: Sim, key: str, source: str) -> list[Any]:
    rows: list[Any] = (await sim.call("GET /v1/balance_transactions", key=key, source=source))["data"]
    return rows


@pytest.mark.parametrize(
    "ask",
    [disputed(inquiry=True), disputed("close_inquiry", inquiry=True), disputed("win")],
    ids=["open inquiry", "closed inquiry", "won chargeback"],
)
async def test_a_dispute_that_leaves_the_charge_refundable_refuses_nothing(
    sim: Sim, ask: Callable[[Sim], Awaitable[Asked]]
) -> None:
    assert (await ask(sim)).reply.status == 200


@pytest.mark.parametrize("reason", ["duplicate", "fraudulent", "requested_by_customer"])
async def test_the_three_reasons_are_taken(sim: Sim, reason: str) -> None:
    asked = await _of(sim, await sim.charge(), reason=reason)
    assert (asked.reply.status, asked.reply["reason"]) == (200, reason)


async def test_all_of_the_rest_is_refunded_if_no_amount_is_given(sim: Sim) -> None:
    asked = await _of(sim, await _refunded(sim, 5000, "usd", 1500))
    assert asked.reply["amount"] == 3500


@pytest.mark.parametrize("by", ["charge", "payment_intent"])
async def test_charge_and_intent_are_both_filled_whichever_was_sent(sim: Sim, by: str) -> None:
    charge = await sim.charge()
    intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
    refund = await sim.call("POST /v1/refunds", **{by: {"charge": charge, "payment_intent": intent}[by]})
    assert (refund["charge"], refund["payment_intent"]) == (charge, intent)


class TestOrderOfChecks:
    """failed → uncaptured → disputed → reason → already refunded → amount, as far as it was measured."""

    async def _disputed(self, sim: Sim, charge: str) -> str:
        await sim.control("POST /_sim/disputes", {"charge": charge})
        return charge

    async def test_failed_beats_a_bad_reason(self, sim: Sim) -> None:
        charge, intent = await _declined(sim)
        reply = (await _of(sim, charge, reason="because", amount=9000)).reply
        assert reply.error == _error(None, None, NO_CHARGE.replace("pi_…", intent))

    async def test_uncaptured_beats_a_bad_reason(self, sim: Sim) -> None:
        asked = await _of(sim, await sim.charge(capture_method="manual"), reason="because", amount=9000)
        assert asked.reply.error == _error(None, None, _named(NOT_CAPTURED, asked))

    async def test_disputed_beats_a_bad_reason(self, sim: Sim) -> None:
        asked = await _of(sim, await self._disputed(sim, await sim.charge()), reason="because", amount=9000)
        assert asked.reply.error == _error("charge_disputed", None, _named(CHARGED_BACK, asked))

    async def test_disputed_beats_already_refunded(self, sim: Sim) -> None:
        asked = await _of(sim, await self._disputed(sim, await _refunded(sim, 5000, "usd", 5000)))
        assert asked.reply.error == _error("charge_disputed", None, _named(CHARGED_BACK, asked))

    async def test_a_bad_reason_beats_already_refunded(self, sim: Sim) -> None:
        asked = await on_refunded(reason="because")(sim)
        assert asked.reply.error == _error(None, "reason", REASON)

    async def test_already_refunded_beats_the_amount(self, sim: Sim) -> None:
        asked = await on_refunded(amount=9000)(sim)
        assert asked.reply.error == _error("charge_already_refunded", None, _named(REFUNDED, asked))

    async def test_a_malformed_amount_is_refused_before_anything_is_looked_at(self, sim: Sim) -> None:
        asked = await on_refunded(amount="10.5")(sim)
        assert asked.reply.error == _error("parameter_invalid_integer", "amount", "Invalid integer: 10.5")


class TestLegacyPaths:
    """`POST /v1/charges/{id}/refunds` and `…/refund` still work, and refuse in the same words."""

    @pytest.mark.parametrize("path", ["refunds", "refund"])
    async def test_over_refund_is_refused_alike(self, sim: Sim, path: str) -> None:
        charge = await _refunded(sim, 5000, "usd", 2500)
        reply = await sim.call(f"POST /v1/charges/{charge}/{path}", amount=3000)
        text = "Refund amount ($30.00) is greater than unrefunded amount on charge ($25.00)"
        assert (reply.status, reply.error) == (400, _error(None, "amount", text))

    @pytest.mark.parametrize("path", ["refunds", "refund"])
    async def test_a_refunded_charge_is_refused_alike(self, sim: Sim, path: str) -> None:
        charge = await _refunded(sim, 5000, "usd", 5000)
        reply = await sim.call(f"POST /v1/charges/{charge}/{path}")
        assert (reply.status, reply.error) == (
            400,
            _error("charge_already_refunded", None, REFUNDED.replace("ch_…", charge)),
        )

    async def test_one_answers_with_the_refund_the_other_with_the_charge(self, sim: Sim) -> None:
        charge = await sim.charge()
        assert (await sim.call(f"POST /v1/charges/{charge}/refunds", amount=1))["object"] == "refund"
        assert (await sim.call(f"POST /v1/charges/{charge}/refund", amount=2))["amount_refunded"] == 3


class TestChosenByTheSimulator:
    """Nobody has confirmed these of Stripe; the simulator takes the harsher way, and a setting turns it where there is one."""

    async def test_an_unknown_intent_is_404_with_its_own_param(self, sim: Sim) -> None:
        reply = (await bare(payment_intent=UNKNOWN_INTENT)(sim)).reply
        text = f"No such payment_intent: '{UNKNOWN_INTENT}'"
        assert (reply.status, reply.error) == (404, _error("resource_missing", "payment_intent", text))

    async def test_charge_and_intent_together_are_refused_unless_a_setting_allows_it(self, sim: Sim) -> None:
        charge = await sim.charge()
        intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
        reply = await sim.call("POST /v1/refunds", charge=charge, payment_intent=intent)
        text = "You may only specify one of these parameters: payment_intent, charge."
        assert (reply.status, reply.error) == (400, _error(None, "payment_intent", text))
        await sim.control("POST /_sim/settings", {"refund_both_references": True})
        assert (await sim.call("POST /v1/refunds", charge=charge, payment_intent=intent)).status == 200

    async def test_a_charge_above_the_age_of_the_settings_is_refused(self, sim: Sim) -> None:
        await sim.control("POST /_sim/settings", {"refund_age_max": 86_400})
        charge = await sim.charge()
        await sim.move(86_400)
        assert (await sim.call("POST /v1/refunds", charge=charge, amount=1)).status == 200
        await sim.move(1)
        reply = await sim.call("POST /v1/refunds", charge=charge, amount=1)
        text = f"Charge {charge} is too old to be refunded."
        assert (reply.status, reply.error) == (400, _error("charge_not_refundable", None, text))

    async def test_after_a_partial_capture_only_what_was_captured_can_be_refunded(self, sim: Sim) -> None:
        charge = await sim.charge(capture_method="manual")
        intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
        await sim.call(f"POST /v1/payment_intents/{intent}/capture", amount_to_capture=3000)
        reply = await sim.call("POST /v1/refunds", charge=charge, amount=3001)
        text = "Refund amount ($30.01) is greater than charge amount ($30.00)"
        assert (reply.status, reply.error) == (400, _error(None, "amount", text))
        assert (await sim.call("POST /v1/refunds", charge=charge))["amount"] == 3000

    @pytest.mark.parametrize(("currency", "unit", "amount"), [("isk", 100, 150), ("ugx", 100, 101), ("kwd", 10, 15)])
    async def test_an_amount_that_a_currency_does_not_have_is_refused(
        self, sim: Sim, currency: str, unit: int, amount: int
    ) -> None:
        asked = await _of(sim, await sim.charge(50_000, currency), amount=amount)
        text = f"Invalid amount: amounts in {currency.upper()} must be a multiple of {unit}."
        assert asked.reply.error == _error("parameter_invalid_integer", "amount", text)

    async def test_a_failed_refund_frees_the_charge_unless_a_setting_says_no(self, sim: Sim) -> None:
        charge = await sim.charge()
        refund = (await sim.call("POST /v1/refunds", charge=charge))["id"]
        await sim.control(f"POST /_sim/refunds/{refund}/fail", {"reason": "declined"})
        assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0
        again = (await sim.call("POST /v1/refunds", charge=charge))["id"]
        await sim.control("POST /_sim/settings", {"failed_refund_frees_charge": False})
        await sim.control(f"POST /_sim/refunds/{again}/fail", {"reason": "declined"})
        assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 5000
        reply = await sim.call("POST /v1/refunds", charge=charge)
        assert reply.error == _error("charge_already_refunded", None, REFUNDED.replace("ch_…", charge))

    async def test_two_unknown_parameters_are_named_together(self, sim: Sim) -> None:
        reply = (await on_fresh(wat=1, huh=2)(sim)).reply
        assert reply.error == _error("parameter_unknown", "wat", "Received unknown parameters: wat, huh")

    async def test_an_empty_charge_is_refused_as_an_attempt_to_unset(self, sim: Sim) -> None:
        reply = (await bare(charge="")(sim)).reply
        text = (
            "You passed an empty string for 'charge'. We assume empty values are an attempt to unset a parameter; "
            "however 'charge' cannot be unset. You should remove 'charge' from your request or supply a non-empty value."
        )
        assert (reply.status, reply.error) == (400, _error("parameter_invalid_empty", "charge", text))
