"""429 in all its forms, locks on one charge, and what a refund does to a balance that does not bear it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.contract.conftest import Ticker
from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.contract

REASONS = ["global-rate", "global-concurrency", "endpoint-rate", "endpoint-concurrency", "resource-specific"]
REASON = "stripe-rate-limited-reason"
LOCKED = (
    "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. "
    "If you see this error intermittently, retry the request. If you see this error frequently and are making multiple "
    "concurrent requests to a single object, make your requests serially or at a lower rate."
)
DAY = 86_400


def _of(method: str) -> dict[str, Any]:
    return {method: {}}


async def limit(sim: Sim, limits: str) -> None:
    reply = await sim.control("POST /_sim/limits", {"limits": limits})
    assert reply.status == 200, reply.json


async def faults(sim: Sim, *rules: dict[str, Any]) -> None:
    reply = await sim.control("POST /_sim/faults", {"rules": list(rules)})
    assert reply.status == 200, reply.json


async def slow(sim: Sim, operation: str = "*", **more: Any) -> None:
    """Let calls take a moment, so that they meet."""
    await faults(sim, {"kind": "latency", "operation": operation, "milliseconds": 20, **more})


async def burst(sim: Sim, operation: str, count: int, **more: Any) -> list[str]:
    """Call one after another; tell `passed`, or the reason of each 429."""
    return [told(await sim.call(operation, **more)) for _ in range(count)]


async def together(sim: Sim, *operations: str) -> list[str]:
    return [told(reply) for reply in await asyncio.gather(*map(sim.call, operations))]


def told(reply: Reply) -> str:
    return reply.headers[REASON] if reply.status == 429 else "passed"


def assert_limited(reply: Reply, reason: str) -> None:
    """Hold a limiter's 429 to what is documented: status and reason header, one of the four types, no `Retry-After`."""
    assert reply.status == 429
    assert reply.headers[REASON] == reason
    assert reply.error["type"] in {"api_error", "card_error", "idempotency_error", "invalid_request_error"}
    assert reply.headers.keys().isdisjoint({"retry-after", "stripe-should-retry"})
    assert reply.headers["request-id"]


class TestRates:
    """Calls per second, by a clock that the test holds."""

    async def test_the_accounts_limit_counts_all_operations_together(self, paced: Sim) -> None:
        await limit(paced, "global=3,endpoint=2")
        assert await burst(paced, "GET /v1/charges", 2) == ["passed", "passed"]
        assert await burst(paced, "GET /v1/refunds", 2) == ["passed", "global-rate"]
        assert_limited(await paced.call("GET /v1/customers"), "global-rate")

    async def test_each_operation_has_its_own_limit(self, paced: Sim) -> None:
        await limit(paced, "global=100,endpoint=2")
        assert await burst(paced, "GET /v1/charges", 3) == ["passed", "passed", "endpoint-rate"]
        assert await burst(paced, "GET /v1/refunds", 2) == ["passed", "passed"]
        assert_limited(await paced.call("GET /v1/charges"), "endpoint-rate")

    async def test_creating_and_listing_are_two_operations(self, paced: Sim) -> None:
        await limit(paced, "endpoint=1")
        assert await burst(paced, "POST /v1/customers", 2) == ["passed", "endpoint-rate"]
        assert await burst(paced, "GET /v1/customers", 2) == ["passed", "endpoint-rate"]

    async def test_all_ids_of_one_operation_share_its_limit(self, paced: Sim) -> None:
        one, other = await paced.charge(), await paced.charge()
        await limit(paced, "endpoint=1")
        assert await burst(paced, f"GET /v1/charges/{one}", 1) == ["passed"]
        assert await burst(paced, f"GET /v1/charges/{other}", 1) == ["endpoint-rate"]

    async def test_a_second_later_calls_pass_again_and_not_before(self, paced: Sim, ticker: Ticker) -> None:
        await limit(paced, "endpoint=2")
        await burst(paced, "GET /v1/charges", 2)
        ticker.now += 0.75
        assert await burst(paced, "GET /v1/charges", 1) == ["endpoint-rate"]
        ticker.now += 0.25
        assert await burst(paced, "GET /v1/charges", 3) == ["passed", "passed", "endpoint-rate"]

    async def test_silence_does_not_save_up_for_a_burst(self, paced: Sim, ticker: Ticker) -> None:
        await limit(paced, "endpoint=2")
        ticker.now += 3600
        assert await burst(paced, "GET /v1/charges", 3) == ["passed", "passed", "endpoint-rate"]

    async def test_what_was_sent_away_does_not_count(self, paced: Sim, ticker: Ticker) -> None:
        await limit(paced, "endpoint=1")
        await burst(paced, "GET /v1/charges", 5)
        ticker.now += 1
        assert await burst(paced, "GET /v1/charges", 1) == ["passed"]

    async def test_the_worlds_clock_does_not_refill_a_limit(self, paced: Sim) -> None:
        await limit(paced, "endpoint=1")
        await burst(paced, "GET /v1/charges", 1)
        await paced.move(DAY)
        assert await burst(paced, "GET /v1/charges", 1) == ["endpoint-rate"]

    @pytest.mark.parametrize(
        ("name", "operation", "passes", "reason"),
        [
            ("live", "POST /v1/refunds", 25, "endpoint-rate"),
            ("live", "GET /v1/charges/search", 20, "endpoint-rate"),
            ("sandbox", "POST /v1/refunds", 25, "global-rate"),
            ("sandbox", "GET /v1/charges/search", 20, "endpoint-rate"),
        ],
    )
    async def test_the_named_limits_are_stripes(
        self, paced: Sim, name: str, operation: str, passes: int, reason: str
    ) -> None:
        await limit(paced, name)
        assert await burst(paced, operation, passes + 1) == ["passed"] * passes + [reason]

    async def test_live_lets_100_calls_of_an_account_through(self, paced: Sim) -> None:
        await limit(paced, "live")
        for operation in ("GET /v1/charges", "GET /v1/refunds", "GET /v1/customers", "GET /v1/disputes"):
            assert await burst(paced, operation, 25) == ["passed"] * 25
        assert await burst(paced, "GET /v1/payment_intents", 1) == ["global-rate"]

    async def test_none_lets_all_through(self, paced: Sim) -> None:
        await limit(paced, "none")
        assert set(await burst(paced, "GET /v1/balance", 300)) == {"passed"}

    async def test_limits_are_each_accounts_and_each_modes_own(self, paced: Sim) -> None:
        account = (await paced.call("POST /v1/accounts", type="standard"))["id"]
        await paced.control("POST /_sim/keys", {"secret": "sk_test_theirs", "account": account})
        await limit(paced, "global=1")
        for key in ("sk_test_sim", "sk_test_theirs", "sk_live_sim"):
            assert await burst(paced, "GET /v1/charges", 2, key=key) == ["passed", "global-rate"]

    async def test_two_keys_of_an_account_share_its_limits(self, paced: Sim) -> None:
        await paced.control("POST /_sim/keys", {"secret": "sk_test_second"})
        await limit(paced, "global=1")
        assert await burst(paced, "GET /v1/charges", 1) == ["passed"]
        assert await burst(paced, "GET /v1/charges", 1, key="sk_test_second") == ["global-rate"]

    async def test_a_limited_call_does_nothing(self, paced: Sim) -> None:
        charge = await paced.charge()
        await limit(paced, "POST /v1/refunds=1")
        assert await burst(paced, "POST /v1/refunds", 3, charge=charge, amount=1) == [
            "passed",
            "endpoint-rate",
            "endpoint-rate",
        ]
        assert len((await paced.call("GET /v1/refunds", charge=charge))["data"]) == 1


class TestConcurrency:
    """Calls in flight; a latency lets them meet."""

    async def test_the_accounts_limit_counts_all_operations(self, sim: Sim) -> None:
        await slow(sim)
        await limit(sim, "global_concurrency=2")
        assert await together(sim, "GET /v1/charges", "GET /v1/refunds", "GET /v1/customers") == [
            "passed",
            "passed",
            "global-concurrency",
        ]

    async def test_each_operation_has_its_own_limit(self, sim: Sim) -> None:
        await slow(sim)
        await limit(sim, "endpoint_concurrency=1")
        assert await together(sim, "GET /v1/charges", "GET /v1/charges", "GET /v1/refunds") == [
            "passed",
            "endpoint-concurrency",
            "passed",
        ]

    async def test_what_is_answered_is_in_flight_no_more(self, sim: Sim) -> None:
        await limit(sim, "global_concurrency=1,endpoint_concurrency=1")
        assert await burst(sim, "GET /v1/charges", 20) == ["passed"] * 20
        assert (await sim.call("GET /v1/charges/ch_unknown")).status == 404
        assert await burst(sim, "GET /v1/charges", 1) == ["passed"]

    async def test_a_cancelled_call_is_in_flight_no_more(self, sim: Sim) -> None:
        await slow(sim, times=1)
        await limit(sim, "global_concurrency=1")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sim.call("GET /v1/charges"), 0.001)
        assert await burst(sim, "GET /v1/charges", 1) == ["passed"]

    @pytest.mark.parametrize("reason", ["global-concurrency", "endpoint-concurrency"])
    async def test_the_answer_is_a_limiters_429(self, sim: Sim, reason: str) -> None:
        await slow(sim)
        await limit(sim, reason.replace("-", "_") + "=1")
        _, second = await asyncio.gather(sim.call("GET /v1/charges"), sim.call("GET /v1/charges"))
        assert_limited(second, reason)


class TestReasons:
    @pytest.mark.parametrize("reason", REASONS)
    async def test_each_of_stripes_five_reasons_can_be_had(self, sim: Sim, reason: str) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "rate_limit", "operation": "POST /v1/refunds", "reason": reason, "times": 1})
        assert_limited(await sim.call("POST /v1/refunds", charge=charge), reason)
        assert (await sim.call("POST /v1/refunds", charge=charge)).status == 200

    async def test_the_429s_are_counted_by_reason(self, paced: Sim) -> None:
        await limit(paced, "endpoint=1")
        await burst(paced, "GET /v1/charges", 3)
        assert (await paced.control("GET /_sim/calls"))["limited"] == {"endpoint-rate": 2}


class TestLimitsChangedWhileItRuns:
    async def test_lower_limits_count_what_already_passed_under_a_limit(self, paced: Sim) -> None:
        await limit(paced, "endpoint=5")
        await burst(paced, "GET /v1/charges", 3)
        await limit(paced, "endpoint=2")
        assert await burst(paced, "GET /v1/charges", 1) == ["endpoint-rate"]
        await limit(paced, "endpoint=4")
        assert await burst(paced, "GET /v1/charges", 2) == ["passed", "endpoint-rate"]

    async def test_limits_may_change_while_calls_are_in_flight(self, sim: Sim) -> None:
        await slow(sim)
        await limit(sim, "global_concurrency=1")
        running = asyncio.create_task(sim.call("GET /v1/charges"))
        await asyncio.sleep(0)
        assert (await sim.call("GET /v1/charges")).status == 429
        await limit(sim, "global_concurrency=2")
        assert (await sim.call("GET /v1/charges")).status == 200
        await limit(sim, "none")
        assert (await running).status == 200
        await limit(sim, "global_concurrency=1")
        assert (await sim.call("GET /v1/charges")).status == 200

    async def test_single_operations_win_over_the_general_number(self, paced: Sim) -> None:
        await limit(paced, "endpoint=1,POST /v1/customers=3")
        assert await burst(paced, "POST /v1/customers", 4) == ["passed"] * 3 + ["endpoint-rate"]
        assert await burst(paced, "GET /v1/customers", 2) == ["passed", "endpoint-rate"]

    @pytest.mark.parametrize("limits", ["fast", "endpoint", "endpoint=-1", "endpoint=x", "endpoints=3", "endpoint=1e9", "endpoint=nan"])  # fmt: skip
    async def test_wrong_limits_are_refused_and_the_old_ones_stay(self, paced: Sim, limits: str) -> None:
        await limit(paced, "endpoint=1")
        reply = await paced.control("POST /_sim/limits", {"limits": limits})
        assert (reply.status, reply["error"]["field"]) == (400, "limits")
        assert await burst(paced, "GET /v1/charges", 2) == ["passed", "endpoint-rate"]


class TestLocks:
    """Two writes to one charge at the same time."""

    async def _two(self, sim: Sim, *charges: str) -> list[Reply]:
        await slow(sim, "POST /v1/refunds")
        return list(await asyncio.gather(*(sim.call("POST /v1/refunds", charge=c, amount=100) for c in charges)))

    def assert_locked(self, reply: Reply) -> None:
        assert reply.status == 429
        assert (reply.error["code"], reply.error["message"]) == ("lock_timeout", LOCKED)
        assert reply.error["doc_url"] == "https://stripe.com/docs/error-codes/lock-timeout"
        assert reply.headers["stripe-should-retry"] == "true"
        # Neither a limiter's reason nor a request id, in the headers or in the body.
        assert reply.headers.keys().isdisjoint({REASON, "request-id", "retry-after"})
        assert "request_log_url" not in reply["error"]

    async def test_the_second_refund_of_a_charge_meanwhile_is_locked_out(self, sim: Sim) -> None:
        charge = await sim.charge()
        first, second = await self._two(sim, charge, charge)
        assert first.status == 200
        self.assert_locked(second)
        assert (await sim.call("POST /v1/refunds", charge=charge, amount=100)).status == 200

    async def test_other_charges_are_not_locked(self, sim: Sim) -> None:
        replies = await self._two(sim, await sim.charge(), await sim.charge())
        assert [reply.status for reply in replies] == [200, 200]

    async def test_a_charge_is_locked_whatever_name_it_goes_by(self, sim: Sim) -> None:
        charge = await sim.charge()
        intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
        await slow(sim, "POST *")
        first, *others = await asyncio.gather(
            sim.call("POST /v1/refunds", charge=charge, amount=100),
            sim.call("POST /v1/refunds", payment_intent=intent, amount=100),
            sim.call(f"POST /v1/charges/{charge}/refunds", amount=100),
            sim.call(f"POST /v1/charges/{charge}/refund", amount=100),
        )
        assert first.status == 200
        for other in others:
            self.assert_locked(other)

    @pytest.mark.parametrize("verb", ["capture", "cancel"])
    async def test_a_charge_is_locked_while_its_intent_is_captured_or_cancelled(self, sim: Sim, verb: str) -> None:
        charge = await sim.charge(capture_method="manual")
        intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
        await slow(sim, "POST *")
        first, other = await asyncio.gather(
            sim.call(f"POST /v1/payment_intents/{intent}/{verb}"),
            sim.call("POST /v1/refunds", charge=charge, amount=100),
        )
        assert first.status == 200
        self.assert_locked(other)
        first, other = await asyncio.gather(
            sim.call("POST /v1/refunds", charge=charge, amount=100),
            sim.call(f"POST /v1/payment_intents/{intent}/{verb}"),
        )
        assert first.status in {200, 400}, "it holds the charge, whatever it is answered"
        self.assert_locked(other)

    @pytest.mark.parametrize("ending", ["POST /v1/refunds/{}/cancel", "POST /v1/test_helpers/refunds/{}/expire"])
    async def test_a_charge_is_locked_while_a_refund_of_it_ends(self, sim: Sim, ending: str) -> None:
        charge = await sim.charge()
        await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "action"})
        refund = (await sim.call("POST /v1/refunds", charge=charge, amount=100))["id"]
        await slow(sim, "POST *")
        first, other = await asyncio.gather(
            sim.call(ending.format(refund)), sim.call("POST /v1/refunds", charge=charge, amount=100)
        )
        assert first.status == 200
        self.assert_locked(other)

    async def test_reads_are_not_locked_out(self, sim: Sim) -> None:
        charge = await sim.charge()
        await slow(sim, "POST /v1/refunds")
        refund, read = await asyncio.gather(
            sim.call("POST /v1/refunds", charge=charge), sim.call(f"GET /v1/charges/{charge}")
        )
        assert (refund.status, read.status) == (200, 200)

    async def test_concurrent_refunds_never_exceed_the_charge(self, sim: Sim) -> None:
        charge = await sim.charge(1000)
        await sim.control("POST /_sim/settings", {"lock_wait": 5})
        await slow(sim, "POST /v1/refunds", probability=0.5)
        replies = await asyncio.gather(*(sim.call("POST /v1/refunds", charge=charge, amount=300) for _ in range(6)))
        assert sorted(reply.status for reply in replies) == [200, 200, 200, 400, 400, 400]
        assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 900

    async def test_a_fault_locks_without_another_call(self, sim: Sim) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "lock_timeout", "operation": "POST /v1/refunds", "times": 1})
        self.assert_locked(await sim.call("POST /v1/refunds", charge=charge))

    async def test_the_lock_is_gone_after_a_cancelled_call(self, sim: Sim) -> None:
        charge = await sim.charge()
        await slow(sim, "POST /v1/refunds", times=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sim.call("POST /v1/refunds", charge=charge), 0.001)
        assert (await sim.call("POST /v1/refunds", charge=charge)).status == 200


class TestBalance:
    """Only what is available counts: card refunds wait for it, others fail, and far below it Stripe refuses."""

    async def _available(self, sim: Sim, amount: int, currency: str = "usd") -> None:
        assert (await sim.control("POST /_sim/balance", {"currency": currency, "available": amount})).status == 200

    async def _refund(self, sim: Sim, charge: str, **more: Any) -> Reply:
        return await sim.call("POST /v1/refunds", charge=charge, **more)

    async def _again(self, sim: Sim, refund: Reply) -> Reply:
        return await sim.call(f"GET /v1/refunds/{refund['id']}")

    async def _by(self, sim: Sim, method: str, currency: str) -> str:
        made = await sim.call("POST /v1/payment_methods", type=method, **_of(method))
        assert made.status == 200, made.json
        return await sim.charge(card=made["id"], currency=currency)

    async def test_a_card_refund_waits_for_the_balance_and_then_goes_out(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._available(sim, 4999)
        refund = await self._refund(sim, charge)
        assert (refund["status"], refund["pending_reason"]) == ("pending", "insufficient_funds")
        assert refund["balance_transaction"] is None
        assert refund["destination_details"] == {"type": "card", "card": {"type": "pending"}}
        await self._available(sim, 5000)
        after = await self._again(sim, refund)
        assert after["status"] == "succeeded"
        assert "pending_reason" not in after.json
        assert after["balance_transaction"] is not None

    async def test_a_balance_that_just_suffices_lets_the_refund_out_at_once(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._available(sim, 5000)
        assert (await self._refund(sim, charge))["status"] == "succeeded"

    async def test_what_is_pending_on_the_balance_does_not_count(self, sim: Sim) -> None:
        charge = await sim.charge()
        await sim.booked()
        await self._available(sim, 0)
        pending = (await sim.call("GET /v1/balance"))["pending"][0]["amount"]
        assert pending > 0
        refund = await self._refund(sim, charge, amount=1000)
        assert refund["pending_reason"] == "insufficient_funds"
        await sim.move(3 * DAY)  # the charge's own money has become available
        assert (await self._again(sim, refund))["status"] == "succeeded"

    async def test_a_card_that_bypasses_pending_pays_its_own_refund(self, sim: Sim) -> None:
        await self._available(sim, 0)
        charge = await sim.charge(card="pm_card_bypassPending")
        await sim.booked()
        assert (await self._refund(sim, charge, amount=4000))["status"] == "succeeded"

    async def test_the_same_money_is_not_spent_twice(self, sim: Sim) -> None:
        one, other = await sim.charge(), await sim.charge()
        await self._available(sim, 7000)
        assert (await self._refund(sim, one))["status"] == "succeeded"
        assert (await self._refund(sim, other))["pending_reason"] == "insufficient_funds"

    async def test_waiting_refunds_go_out_oldest_first_as_far_as_the_balance_bears(self, sim: Sim) -> None:
        await self._available(sim, 0)
        waiting = []
        for _ in range(3):
            waiting.append(await self._refund(sim, await sim.charge(1000)))
            await sim.move(1)
        await self._available(sim, 2500)
        assert [(await self._again(sim, refund))["status"] for refund in waiting] == [
            "succeeded",
            "succeeded",
            "pending",
        ]

    async def test_a_refund_whose_balance_never_suffices_fails_in_the_end(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._available(sim, -50_000)
        refund = await self._refund(sim, charge)
        assert refund["pending_reason"] == "insufficient_funds"
        await sim.move(7 * DAY)
        after = await self._again(sim, refund)
        assert (after["status"], after["failure_reason"]) == ("failed", "insufficient_funds")
        # No money had left, so none comes back.
        assert "failure_balance_transaction" not in after.json
        assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0

    @pytest.mark.parametrize(("method", "currency"), [("sepa_debit", "eur"), ("ideal", "eur"), ("klarna", "eur")])
    async def test_a_refund_by_another_method_fails(self, sim: Sim, method: str, currency: str) -> None:
        charge = await self._by(sim, method, currency)
        await self._available(sim, 0, currency)
        refund = await self._refund(sim, charge)
        await sim.move(3600)
        after = await self._again(sim, refund)
        assert (after["status"], after["failure_reason"]) == ("failed", "insufficient_funds")
        await self._available(sim, 100_000, currency)
        await sim.move(7 * DAY)
        assert (await self._again(sim, refund))["status"] == "failed"

    async def test_far_below_the_balance_the_call_is_refused(self, sim: Sim) -> None:
        charge = await sim.charge(500_000)
        await self._available(sim, 0)
        refused = await self._refund(sim, charge)
        assert refused.status == 400
        assert refused.error == {
            "type": "invalid_request_error",
            "message": "Insufficient funds in your Stripe balance to refund this amount.",
            "message_code": "insufficient_balance_for_refund",
        }
        assert (await sim.call("GET /v1/refunds", charge=charge))["data"] == []
        assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0

    async def test_where_far_below_begins_is_a_setting(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._available(sim, 0)
        await sim.control("POST /_sim/settings", {"overdraft": 1999})
        assert (await self._refund(sim, charge, amount=2000)).status == 400
        assert (await self._refund(sim, charge, amount=1999))["status"] == "pending"
        # What already waits counts too.
        assert (await self._refund(sim, charge, amount=1)).status == 400

    async def test_the_balance_of_the_settlement_currency_counts(self, sim: Sim) -> None:
        rate = {"currency": "usd", "into": "cad", "rate_millionths": 1_400_000}
        await sim.control("POST /_sim/settlement", rate)
        charge = await sim.charge(1000)
        await self._available(sim, 1399, "cad")
        refund = await self._refund(sim, charge)
        assert refund["pending_reason"] == "insufficient_funds"
        await self._available(sim, 1400, "cad")
        assert (await self._again(sim, refund))["status"] == "succeeded"

    async def test_after_all_of_it_the_books_add_up(self, sim: Sim) -> None:
        for amount in (100, 200, 300):
            charge = await sim.charge(amount)
            await self._available(sim, 250)
            await self._refund(sim, charge)
        await self._available(sim, 10_000)
        await sim.move(10 * DAY)
        assert (await sim.control("GET /_sim/audit"))["problems"] == []


class TestChosenByTheSimulator:
    """The body of a limiter's 429 was never recorded, and Stripe publishes no number for calls in flight."""

    @pytest.mark.parametrize("reason", REASONS)
    async def test_the_body_of_a_limiters_429(self, sim: Sim, reason: str) -> None:
        await faults(sim, {"kind": "rate_limit", "reason": reason})
        reply = await sim.call("GET /v1/charges")
        text = "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits."
        assert reply.error == {
            "type": "invalid_request_error",
            "code": "rate_limit",
            "doc_url": "https://stripe.com/docs/error-codes/rate-limit",
            "message": text,
        }

    async def test_the_body_of_a_limiters_429_has_no_code_if_a_setting_says_so(self, sim: Sim) -> None:
        await sim.control("POST /_sim/settings", {"limiter_code": False})
        await faults(sim, {"kind": "rate_limit"})
        reply = await sim.call("GET /v1/charges")
        assert_limited(reply, "global-rate")
        assert reply.error.keys() == {"type", "message"}

    @pytest.mark.parametrize(("both", "after"), [(True, "global-rate"), (False, "passed")])
    async def test_a_platforms_call_for_an_account_counts_against_both_unless_a_setting_says_no(
        self, paced: Sim, *, both: bool, after: str
    ) -> None:
        account = (await paced.call("POST /v1/accounts", type="standard"))["id"]
        await paced.control("POST /_sim/settings", {"connect_limits_both": both})
        await limit(paced, "global=1")
        assert await burst(paced, "GET /v1/charges", 2, account=account) == ["passed", "global-rate"]
        assert await burst(paced, "GET /v1/charges", 1) == [after]

    async def test_the_type_of_a_lock_timeout(self, sim: Sim) -> None:
        await faults(sim, {"kind": "lock_timeout"})
        assert (await sim.call("POST /v1/customers")).error["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        ("name", "total_flight", "endpoint_flight"), [("live", 100, 50), ("sandbox", 50, 25), ("none", 0, 0)]
    )
    async def test_the_numbers_of_calls_in_flight(
        self, sim: Sim, name: str, total_flight: int, endpoint_flight: int
    ) -> None:
        await limit(sim, name)
        shown = await sim.control("GET /_sim/limits")
        assert (shown["total_flight"], shown["endpoint_flight"]) == (total_flight, endpoint_flight)

    async def test_a_call_may_wait_for_a_lock_if_a_setting_says_so(self, sim: Sim) -> None:
        charge = await sim.charge()
        await sim.control("POST /_sim/settings", {"lock_wait": 5})
        await slow(sim, "POST /v1/refunds")
        replies = await asyncio.gather(*(sim.call("POST /v1/refunds", charge=charge, amount=100) for _ in range(2)))
        assert [reply.status for reply in replies] == [200, 200]
