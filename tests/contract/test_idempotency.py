"""What an `Idempotency-Key` holds and what it does not, line by line as Stripe documents it, and where it was measured."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Ticker
from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.contract

HOUR = 3600
KEY = "8d3f.1"
LIVE = "sk_live_sim"
OTHER_PARAMETERS = (
    "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key "
    f"other than '{KEY}' if you meant to execute a different request."
)


async def refund(sim: Sim, charge: str, key: str = KEY, **params: Any) -> Reply:
    return await sim.call("POST /v1/refunds", idempotency_key=key, charge=charge, **params)


async def refunds_of(sim: Sim, charge: str) -> list[Any]:
    listed: list[Any] = (await sim.call("GET /v1/refunds", charge=charge))["data"]
    return listed


async def faults(sim: Sim, *rules: dict[str, Any]) -> None:
    reply = await sim.control("POST /_sim/faults", {"rules": list(rules)})
    assert reply.status == 200, reply.json


def assert_first(reply: Reply) -> None:
    assert "idempotent-replayed" not in reply.headers


def assert_replay(first: Reply, again: Reply) -> None:
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert again.headers["request-id"] != first.headers["request-id"]
    assert again.headers["idempotency-key"] == KEY


class TestSameKeySameParameters:
    async def test_the_stored_answer_comes_back_and_nothing_is_paid_twice(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await refund(sim, charge, amount=1500)
        assert_first(first)
        assert_replay(first, await refund(sim, charge, amount=1500))
        assert [made["id"] for made in await refunds_of(sim, charge)] == [first["id"]]

    async def test_the_order_of_parameters_does_not_matter(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await sim.call("POST /v1/refunds", idempotency_key=KEY, charge=charge, amount=1500)
        assert_replay(first, await sim.call("POST /v1/refunds", idempotency_key=KEY, amount=1500, charge=charge))

    async def test_the_stored_answer_stays_as_it_was_when_the_refund_goes_on(self, sim: Sim) -> None:
        charge = await sim.charge(card="pm_card_pendingRefund")
        first = await refund(sim, charge)
        await sim.move(HOUR)
        assert (await sim.call(f"GET /v1/refunds/{first['id']}"))["status"] == "succeeded"
        again = await refund(sim, charge)
        assert_replay(first, again)
        assert again["status"] == "pending"

    async def test_the_key_comes_back_in_the_event(self, sim: Sim) -> None:
        made = await refund(sim, await sim.charge())
        event = (await sim.call("GET /v1/events", type="refund.created"))["data"][0]
        assert event["request"] == {"id": made.headers["request-id"], "idempotency_key": KEY}

    async def test_another_key_is_another_refund(self, sim: Sim) -> None:
        charge = await sim.charge()
        first, second = await refund(sim, charge, "k1", amount=100), await refund(sim, charge, "k2", amount=100)
        assert first["id"] != second["id"]

    async def test_without_a_key_each_call_is_a_refund(self, sim: Sim) -> None:
        charge = await sim.charge()
        for _ in range(2):
            reply = await sim.call("POST /v1/refunds", charge=charge, amount=100)
            assert reply.headers.keys().isdisjoint({"idempotency-key", "original-request", "idempotent-replayed"})
        assert len(await refunds_of(sim, charge)) == 2

    async def test_a_key_of_255_characters_is_taken(self, sim: Sim) -> None:
        charge, key = await sim.charge(), "k" * 255
        first = await refund(sim, charge, key, amount=1)
        assert (await refund(sim, charge, key, amount=1))["id"] == first["id"]

    async def test_a_restart_forgets_no_key(self, tmp_path: Path) -> None:
        state = str(tmp_path / "state.db")
        before = Sim(state=state)
        charge = await before.charge()
        first = await refund(before, charge, amount=1500)
        before.simulator.close()
        after = Sim(state=state)
        assert_replay(first, await refund(after, charge, amount=1500))
        assert len(await refunds_of(after, charge)) == 1
        after.simulator.close()


class TestOtherMethods:
    """Keys have no effect on GET and DELETE."""

    async def test_a_get_is_not_replayed(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await sim.call(f"GET /v1/charges/{charge}", idempotency_key=KEY)
        await sim.call("POST /v1/refunds", charge=charge)
        again = await sim.call(f"GET /v1/charges/{charge}", idempotency_key=KEY)
        assert (first["refunded"], again["refunded"]) == (False, True)
        assert again.headers.keys().isdisjoint({"idempotency-key", "original-request", "idempotent-replayed"})

    async def test_a_delete_is_not_replayed(self, sim: Sim) -> None:
        customer = (await sim.call("POST /v1/customers"))["id"]
        assert (await sim.call(f"DELETE /v1/customers/{customer}", idempotency_key=KEY)).status == 200
        assert (await sim.call(f"DELETE /v1/customers/{customer}", idempotency_key=KEY)).status == 404

    async def test_a_key_of_a_get_is_free_for_a_post(self, sim: Sim) -> None:
        charge = await sim.charge()
        await sim.call(f"GET /v1/charges/{charge}", idempotency_key=KEY)
        assert_first(await refund(sim, charge))


class TestStored:
    """Status and body of the first call, once its execution began, whatever came of it."""

    async def test_a_business_400_is_stored(self, sim: Sim) -> None:
        charge = await sim.charge()
        done = (await sim.call("POST /v1/refunds", charge=charge))["id"]
        first = await refund(sim, charge)
        assert (first.status, first.error["code"]) == (400, "charge_already_refunded")
        # The reason is gone, and the stored refusal stays all the same.
        await sim.control(f"POST /_sim/refunds/{done}/fail", {"reason": "declined"})
        assert_replay(first, await refund(sim, charge))
        assert (await refund(sim, charge, "8d3f.2")).status == 200

    async def test_an_over_refund_is_stored(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await refund(sim, charge, amount=9000)
        assert first.status == 400
        assert_replay(first, await refund(sim, charge, amount=9000))

    async def test_a_refusal_for_the_balance_is_stored(self, sim: Sim) -> None:
        charge = await sim.charge(500_000)
        await sim.control("POST /_sim/balance", {"currency": "usd", "available": 0})
        first = await refund(sim, charge)
        assert first.error["message_code"] == "insufficient_balance_for_refund"
        await sim.control("POST /_sim/balance", {"currency": "usd", "available": 1_000_000})
        assert_replay(first, await refund(sim, charge))

    async def test_a_declined_card_is_stored(self, sim: Sim) -> None:
        params: dict[str, Any] = {
            "amount": 5000,
            "currency": "usd",
            "payment_method": "pm_card_chargeDeclined",
            "confirm": True,
        }
        first = await sim.call("POST /v1/payment_intents", idempotency_key=KEY, **params)
        assert (first.status, first.error["type"]) == (402, "card_error")
        assert_replay(first, await sim.call("POST /v1/payment_intents", idempotency_key=KEY, **params))
        assert len((await sim.call("GET /v1/charges"))["data"]) == 1

    async def test_a_500_without_effect_is_stored_and_never_changes(self, sim: Sim) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "error_stored", "operation": "POST /v1/refunds", "times": 1})
        first = await refund(sim, charge)
        assert (first.status, first.error["type"]) == (500, "api_error")
        await sim.move(23 * HOUR)
        assert_replay(first, await refund(sim, charge))
        assert await refunds_of(sim, charge) == []

    async def test_a_500_with_effect_is_stored_and_the_refund_is_there(self, sim: Sim) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "error_after", "operation": "POST /v1/refunds", "times": 1})
        first = await refund(sim, charge, metadata={"refundry_request_id": "8d3f"})
        assert first.status == 500
        assert_replay(first, await refund(sim, charge, metadata={"refundry_request_id": "8d3f"}))
        made = await refunds_of(sim, charge)
        assert [one["metadata"] for one in made] == [{"refundry_request_id": "8d3f"}]

    async def test_after_a_500_the_refund_may_be_made_later_with_its_event(self, sim: Sim) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "error_later", "operation": "POST /v1/refunds", "times": 1, "delay_seconds": 60})
        first = await refund(sim, charge, metadata={"refundry_request_id": "8d3f"})
        assert first.status == 500
        assert await refunds_of(sim, charge) == []
        await sim.move(60)
        assert_replay(first, await refund(sim, charge, metadata={"refundry_request_id": "8d3f"}))
        assert [one["metadata"] for one in await refunds_of(sim, charge)] == [{"refundry_request_id": "8d3f"}]
        event = (await sim.call("GET /v1/events", type="refund.created"))["data"][0]
        assert event["request"] == {"id": first.headers["request-id"], "idempotency_key": KEY}

    @pytest.mark.parametrize("kind", ["drop_after", "reset_after", "truncate"])
    async def test_an_answer_that_got_lost_is_stored(self, sim: Sim, kind: str) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": kind, "operation": "POST /v1/refunds", "times": 1})
        lost = await refund(sim, charge)
        assert lost.cut
        again = await refund(sim, charge)
        assert (again.status, again.cut, again.headers["idempotent-replayed"]) == (200, "", "true")
        assert [made["id"] for made in await refunds_of(sim, charge)] == [again["id"]]

    @pytest.mark.parametrize("status", [424, 502, 503, 504])
    async def test_the_other_statuses_of_stripes_own_trouble_are_stored_too(self, sim: Sim, status: int) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "error_after", "operation": "POST /v1/refunds", "times": 1, "status": status})
        first = await refund(sim, charge)
        assert (first.status, first.error["type"]) == (status, "api_error")
        assert_replay(first, await refund(sim, charge))


class TestNotStored:
    """What is refused before execution begins leaves the key free, for other parameters too."""

    async def _free(self, sim: Sim, charge: str) -> None:
        reply = await refund(sim, charge, amount=1234)
        assert (reply.status, reply["amount"]) == (200, 1234)
        assert_first(reply)

    @pytest.mark.parametrize(
        "params",
        [
            {"amount": "10.5"},
            {"amount": 0},
            {"wat": 1},
            {"reason": "because"},
            {"metadata": {"k" * 41: "v"}},
            {"expand": ["wat"]},
        ],
        ids=str,
    )
    async def test_a_parameter_that_fails_validation_is_not(self, sim: Sim, params: dict[str, Any]) -> None:
        charge = await sim.charge()
        assert (await refund(sim, charge, **params)).status == 400
        await self._free(sim, charge)

    async def test_a_missing_parameter_is_not(self, sim: Sim) -> None:
        charge = await sim.charge()
        assert (await sim.call("POST /v1/refunds", idempotency_key=KEY)).status == 400
        await self._free(sim, charge)

    @pytest.mark.parametrize("key", [None, "sk_test_wrong"])
    async def test_a_401_is_not(self, sim: Sim, key: str | None) -> None:
        charge = await sim.charge()
        assert (await sim.call("POST /v1/refunds", key=key, idempotency_key=KEY, charge=charge)).status == 401
        await self._free(sim, charge)

    async def test_a_limiters_429_is_not(self, paced: Sim, ticker: Ticker) -> None:
        charge = await paced.charge()
        await paced.control("POST /_sim/limits", {"limits": "POST /v1/refunds=1"})
        await refund(paced, charge, "another", amount=1)
        assert (await refund(paced, charge, amount=2)).status == 429
        ticker.now += 1
        await self._free(paced, charge)

    async def test_limiters_stand_before_the_idempotency_layer(self, paced: Sim, ticker: Ticker) -> None:
        charge = await paced.charge()
        first = await refund(paced, charge)
        await paced.control("POST /_sim/limits", {"limits": "POST /v1/refunds=1"})
        assert_replay(first, await refund(paced, charge))
        limited = await refund(paced, charge)
        assert limited.status == 429
        assert limited.headers.keys().isdisjoint({"idempotent-replayed", "original-request"})
        ticker.now += 1
        assert_replay(first, await refund(paced, charge))

    async def test_a_conflict_with_a_running_call_is_not(self, sim: Sim) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "conflict", "operation": "POST /v1/refunds", "times": 1})
        assert (await refund(sim, charge)).status == 409
        await self._free(sim, charge)


class TestSameKeyForSomethingElse:
    async def test_same_key_other_amount_is_refused(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await refund(sim, charge, amount=1500)
        other = await refund(sim, charge, amount=1501)
        assert other.status == 400
        assert other.error == {"type": "idempotency_error", "message": OTHER_PARAMETERS}
        assert_first(other)
        # The refusal is not what the key holds now.
        assert_replay(first, await refund(sim, charge, amount=1500))
        assert len(await refunds_of(sim, charge)) == 1

    @pytest.mark.parametrize(
        "more", [{"metadata": {"a": "b"}}, {"reason": "duplicate"}, {"expand": ["charge"]}], ids=str
    )
    async def test_one_parameter_more_is_other_parameters(self, sim: Sim, more: dict[str, Any]) -> None:
        charge = await sim.charge()
        await refund(sim, charge, amount=1500)
        assert (await refund(sim, charge, amount=1500, **more)).error["message"] == OTHER_PARAMETERS

    async def test_same_key_other_charge_is_refused(self, sim: Sim) -> None:
        await refund(sim, await sim.charge())
        assert (await refund(sim, await sim.charge())).error["message"] == OTHER_PARAMETERS

    async def test_other_parameters_after_a_stored_refusal_are_refused_too(self, sim: Sim) -> None:
        charge = await sim.charge()
        assert (await refund(sim, charge, amount=9000)).status == 400
        assert (await refund(sim, charge, amount=5000)).error["type"] == "idempotency_error"

    async def test_same_key_other_endpoint_is_refused(self, sim: Sim) -> None:
        charge = await sim.charge()
        await refund(sim, charge)
        other = await sim.call("POST /v1/customers", idempotency_key=KEY, name="A person")
        assert other.status == 400
        assert other.error == {
            "type": "idempotency_error",
            "message": (
                "Keys for idempotent requests can only be used for the same endpoint they were first used for "
                f"('/v1/customers' vs '/v1/refunds'). Try using a key other than '{KEY}' if you meant to execute a "
                "different request."
            ),
        }
        assert (await sim.call("GET /v1/customers"))["data"] == []

    async def test_another_object_is_another_endpoint(self, sim: Sim) -> None:
        charge = await sim.charge()
        one, two = [(await sim.call("POST /v1/refunds", charge=charge, amount=1))["id"] for _ in range(2)]
        await sim.call(f"POST /v1/refunds/{one}", idempotency_key=KEY, metadata={"a": "b"})
        other = await sim.call(f"POST /v1/refunds/{two}", idempotency_key=KEY, metadata={"a": "b"})
        assert f"('/v1/refunds/{two}' vs '/v1/refunds/{one}')" in other.error["message"]


class TestConcurrentUse:
    async def _slow(self, sim: Sim) -> None:
        await faults(sim, {"kind": "latency", "operation": "POST /v1/refunds", "milliseconds": 20, "times": 1})

    async def test_the_second_of_two_calls_gets_409_and_one_refund_is_made(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._slow(sim)
        first, second = await asyncio.gather(refund(sim, charge), refund(sim, charge))
        assert (first.status, second.status) == (200, 409)
        assert second.error["code"] == "idempotency_key_in_use"
        assert second.error["doc_url"] == "https://stripe.com/docs/error-codes/idempotency-key-in-use"
        assert_first(second)
        assert len(await refunds_of(sim, charge)) == 1
        # The 409 was not stored: what the key holds is the first call's answer.
        assert_replay(first, await refund(sim, charge))

    async def test_other_parameters_meanwhile_get_409_too(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._slow(sim)
        first, second = await asyncio.gather(refund(sim, charge, amount=1), refund(sim, charge, amount=2))
        assert (first.status, second.status) == (200, 409)

    async def test_the_key_is_free_again_after_a_cancelled_call(self, sim: Sim) -> None:
        charge = await sim.charge()
        await self._slow(sim)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(refund(sim, charge, amount=1), 0.001)
        again = await refund(sim, charge, amount=1)
        assert again.status == 200
        assert len(await refunds_of(sim, charge)) == 1

    async def test_the_same_key_of_another_account_does_not_conflict(self, sim: Sim) -> None:
        account = (await sim.call("POST /v1/accounts", type="standard"))["id"]
        await faults(sim, {"kind": "latency", "operation": "POST /v1/customers", "milliseconds": 20})
        one, other = await asyncio.gather(
            sim.call("POST /v1/customers", idempotency_key=KEY),
            sim.call("POST /v1/customers", idempotency_key=KEY, account=account),
        )
        assert (one.status, other.status) == (200, 200)
        assert one["id"] != other["id"]


class TestPruning:
    async def test_a_key_is_kept_for_24_hours(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await refund(sim, charge, amount=1500)
        await sim.move(24 * HOUR - 1)
        assert_replay(first, await refund(sim, charge, amount=1500))
        assert len(await refunds_of(sim, charge)) == 1

    async def test_after_24_hours_the_same_key_makes_a_second_refund(self, sim: Sim) -> None:
        charge = await sim.charge()
        first = await refund(sim, charge, amount=1500)
        await sim.move(24 * HOUR)
        second = await refund(sim, charge, amount=1500)
        assert_first(second)
        assert second["id"] != first["id"]
        assert len(await refunds_of(sim, charge)) == 2
        # The key now holds the second answer, for another day.
        await sim.move(24 * HOUR - 1)
        assert_replay(second, await refund(sim, charge, amount=1500))

    async def test_a_replay_does_not_prolong_a_key(self, sim: Sim) -> None:
        charge = await sim.charge()
        await refund(sim, charge, amount=1500)
        await sim.move(23 * HOUR)
        await refund(sim, charge, amount=1500)
        await sim.move(HOUR)
        assert_first(await refund(sim, charge, amount=1500))

    async def test_after_24_hours_other_parameters_are_taken(self, sim: Sim) -> None:
        charge = await sim.charge()
        await refund(sim, charge, amount=1500)
        await sim.move(24 * HOUR)
        assert (await refund(sim, charge, amount=1501)).status == 200

    async def test_all_keys_are_pruned_on_command(self, sim: Sim) -> None:
        charge = await sim.charge()
        for key in ("k1", "k2"):
            await refund(sim, charge, key, amount=1)
        assert (await sim.control("POST /_sim/idempotency/prune")).json == {"pruned": 2}
        assert_first(await refund(sim, charge, "k1", amount=1))

    async def test_only_old_keys_are_pruned_if_so_told(self, sim: Sim) -> None:
        charge = await sim.charge()
        await refund(sim, charge, "old", amount=1)
        await sim.move(10 * HOUR)
        young = await refund(sim, charge, "young", amount=1)
        pruned = await sim.control("POST /_sim/idempotency/prune", {"older_than_seconds": 5 * HOUR})
        assert pruned.json == {"pruned": 1}
        assert_first(await refund(sim, charge, "old", amount=1))
        assert (await refund(sim, charge, "young", amount=1)).body == young.body


class TestScope:
    """A key is unique within an account."""

    async def test_the_same_key_in_another_account_is_another_call(self, sim: Sim) -> None:
        account = (await sim.call("POST /v1/accounts", type="standard"))["id"]
        one = await sim.call("POST /v1/customers", idempotency_key=KEY)
        other = await sim.call("POST /v1/customers", idempotency_key=KEY, account=account)
        assert_first(other)
        assert one["id"] != other["id"]
        again = await sim.call("POST /v1/customers", idempotency_key=KEY, account=account)
        assert_replay(other, again)

    async def test_two_secrets_of_one_account_share_its_keys(self, sim: Sim) -> None:
        await sim.control("POST /_sim/keys", {"secret": "sk_test_second"})
        charge = await sim.charge()
        first = await refund(sim, charge)
        again = await sim.call("POST /v1/refunds", key="sk_test_second", idempotency_key=KEY, charge=charge)
        assert_replay(first, again)


class TestChosenByTheSimulator:
    """Nobody has confirmed these of Stripe."""

    async def test_the_409_has_the_type_and_sentence_from_memory(self, sim: Sim) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": "latency", "operation": "POST /v1/refunds", "milliseconds": 20})
        _, second = await asyncio.gather(refund(sim, charge), refund(sim, charge))
        text = (
            "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
            f"twice, and the other request is still going through): {KEY}. Please try again later."
        )
        assert (second.error["type"], second.error["message"]) == ("idempotency_error", text)
        await faults(sim, {"kind": "conflict", "operation": "POST /v1/refunds"})
        assert (await refund(sim, charge)).error == second.error

    async def test_a_setting_gives_the_409_the_general_type(self, sim: Sim) -> None:
        await sim.control("POST /_sim/settings", {"conflict_as_idempotency_error": False})
        await faults(sim, {"kind": "conflict", "operation": "POST /v1/refunds"})
        reply = await refund(sim, await sim.charge())
        assert (reply.status, reply.error["type"], reply.error["code"]) == (
            409,
            "invalid_request_error",
            "idempotency_key_in_use",
        )

    @pytest.mark.parametrize("key", ["", "   ", "k" * 256], ids=["empty", "blank", "256 characters"])
    async def test_a_key_that_is_empty_or_too_long_is_refused(self, sim: Sim, key: str) -> None:
        charge = await sim.charge()
        reply = await refund(sim, charge, key)
        text = "Idempotency keys must be between 1 and 255 characters long."
        assert (reply.status, reply.error) == (400, {"type": "invalid_request_error", "message": text})
        assert await refunds_of(sim, charge) == []

    async def test_the_same_key_in_the_other_mode_is_another_call(self, sim: Sim) -> None:
        one = await sim.call("POST /v1/customers", idempotency_key=KEY)
        other = await sim.call("POST /v1/customers", key=LIVE, idempotency_key=KEY)
        assert_first(other)
        assert one["id"] != other["id"]

    async def test_the_first_answer_names_itself_as_the_original(self, sim: Sim) -> None:
        first = await refund(sim, await sim.charge())
        assert first.headers["original-request"] == first.headers["request-id"]

    async def test_a_404_for_an_unknown_charge_is_stored(self, sim: Sim) -> None:
        first = await refund(sim, "ch_unknown")
        assert first.status == 404
        assert_replay(first, await refund(sim, "ch_unknown"))

    @pytest.mark.parametrize("kind", ["error_before", "lock_timeout", "rate_limit", "unauthorized", "forbidden"])
    async def test_trouble_before_execution_leaves_the_key_free(self, sim: Sim, kind: str) -> None:
        charge = await sim.charge()
        await faults(sim, {"kind": kind, "operation": "POST /v1/refunds", "times": 1})
        assert (await refund(sim, charge, amount=1)).status in {401, 403, 429, 500}
        reply = await refund(sim, charge, amount=2)
        assert reply.status == 200
        assert_first(reply)

    async def test_an_unknown_version_leaves_the_key_free(self, sim: Sim) -> None:
        charge = await sim.charge()
        bad = await sim.call("POST /v1/refunds", idempotency_key=KEY, version="2019-01-01", charge=charge)
        assert bad.status == 400
        assert_first(await refund(sim, charge))

    async def test_how_long_keys_are_kept_is_a_setting(self, sim: Sim) -> None:
        await sim.control("POST /_sim/settings", {"idempotency_hours": 1})
        charge = await sim.charge()
        await refund(sim, charge, amount=1)
        await sim.move(HOUR)
        assert_first(await refund(sim, charge, amount=1))
