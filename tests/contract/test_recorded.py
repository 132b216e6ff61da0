"""The answers that were recorded from Stripe's own sandbox (`stripe/recorded.json`) are what the simulator answers."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import openapi
from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.contract

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "stripe" / "recorded.json").read_text())
ID = re.compile(r"\b(?:ch|re|pi|txn|cus|pm|du)_\w+")
# Moments; a test card of the sandbox expires in the year after the recording.
TIMES = {"created", "available_on", "due_by", "exp_year"}
# What card networks and banks make up for each payment: other characters, of the same kind and number.
DRAWN = {"authorization_code", "network_transaction_id", "fingerprint", "reference"}
# What the recorders blackened; a text has to stand there.
BLACKENED = {"<redacted>", "…"}


class Comparison:
    """Tells where an answer is not the recorded one.

    Ignored, and nothing else: which id an object has, as long as one recorded id always stands for one answered id of the
    same prefix, in texts too (so links and sentences name the right objects); the value of the whole numbers in `TIMES`;
    the characters of the texts in `DRAWN`; texts that the recorders blackened; the order of members. A member that is
    missing, added, null instead of absent, or of another type is a difference.
    """

    def __init__(self) -> None:
        self.answered_of: dict[str, str] = {}
        self.recorded_of: dict[str, str] = {}

    def differences(self, recorded: Any, answered: Any, path: str = "") -> list[str]:
        if type(recorded) is not type(answered):
            return [f"{path}: recorded {recorded!r}, answered {answered!r}"]
        if isinstance(recorded, dict):
            found = [f"{path}.{name}: recorded, not answered" for name in recorded.keys() - answered.keys()]
            found += [f"{path}.{name}: answered, not recorded" for name in answered.keys() - recorded.keys()]
            for name in sorted(recorded.keys() & answered.keys()):
                found += self.differences(recorded[name], answered[name], f"{path}.{name}")
            return found
        if isinstance(recorded, list):
            if len(recorded) != len(answered):
                return [f"{path}: recorded {len(recorded)} entries, answered {len(answered)}"]
            pairs = enumerate(zip(recorded, answered, strict=True))
            return [line for at, (one, other) in pairs for line in self.differences(one, other, f"{path}[{at}]")]
        same = self._texts(recorded, answered, path) if isinstance(recorded, str) else recorded == answered
        if same or (isinstance(recorded, int) and self._last(path) in TIMES):
            return []
        return [f"{path}: recorded {recorded!r}, answered {answered!r}"]

    @staticmethod
    def _last(path: str) -> str:
        return path.rpartition(".")[2]

    def _texts(self, recorded: str, answered: str, path: str) -> bool:
        if recorded in BLACKENED:
            return answered != ""
        if self._last(path) in DRAWN:
            digits = recorded.isdigit()
            return len(recorded) == len(answered) and answered.isalnum() and answered.isdigit() == digits
        ours, theirs = ID.findall(answered), ID.findall(recorded)
        return ID.sub("#", recorded) == ID.sub("#", answered) and all(map(self._same_object, theirs, ours))

    def _same_object(self, recorded: str, answered: str) -> bool:
        return (
            recorded.partition("_")[0] == answered.partition("_")[0]
            and self.answered_of.setdefault(recorded, answered) == answered
            and self.recorded_of.setdefault(answered, recorded) == recorded
        )


def assert_recorded(recorded: Any, answered: Any, comparison: Comparison | None = None) -> None:
    assert (comparison or Comparison()).differences(recorded, answered) == []


# The comparison itself


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body.pop("receipt_number"), [".receipt_number: recorded, not answered"]),
        (lambda body: body.update(description=None), [".description: answered, not recorded"]),
        (lambda body: body.update(amount="1500"), [".amount: recorded 1500, answered '1500'"]),
        (lambda body: body.update(amount=1501), [".amount: recorded 1500, answered 1501"]),
        (lambda body: body.update(created=None), [".created: recorded 1789920626, answered None"]),
        (lambda body: body.update(reason=None), [".reason: recorded 'duplicate', answered None"]),
        (lambda body: body["destination_details"]["card"].pop("type"), [".destination_details.card.type: recorded, not answered"]),
        (lambda body: body.update(charge="py_1"), [".charge: recorded 'ch_3UHnJtHIBYZYyePr0OHvLnhd', answered 'py_1'"]),
    ],
)  # fmt: skip
def test_the_comparison_finds_a_difference(change: Callable[[Any], object], told: list[str]) -> None:
    recorded = RECORDED["refund_create_partial_by_charge"]["body"]
    answered = copy.deepcopy(recorded)
    change(answered)
    assert Comparison().differences(recorded, answered) == told


def test_the_comparison_sees_that_a_link_names_another_object() -> None:
    recorded = {"charge": "ch_1", "message": "Charge ch_1 has already been refunded."}
    answered = {"charge": "ch_8", "message": "Charge ch_9 has already been refunded."}
    assert len(Comparison().differences(recorded, answered)) == 1
    assert (
        Comparison().differences(recorded, {"charge": "ch_8", "message": "Charge ch_8 has already been refunded."})
        == []
    )


def test_the_comparison_holds_drawn_texts_to_their_kind() -> None:
    assert Comparison().differences({"reference": "5365998173386208"}, {"reference": "1"}) != []
    assert Comparison().differences({"reference": "5365998173386208"}, {"reference": "536599817338620x"}) != []
    assert Comparison().differences({"reference": "5365998173386208"}, {"reference": "0000000000000001"}) == []


# Refund, charge, lists


async def _customer(sim: Sim) -> str:
    return str((await sim.call("POST /v1/customers", name="A person"))["id"])


async def _charge(sim: Sim, amount: int = 5000, **more: Any) -> str:
    customer = await _customer(sim)
    return await sim.charge(amount, customer=customer, description="scenario 05 charge", **more)


async def test_a_partial_refund_and_its_charge_are_answered_as_recorded(sim: Sim) -> None:
    recorded, comparison = RECORDED["refund_create_partial_by_charge"], Comparison()
    charge = await _charge(sim)
    await sim.booked()
    refund = await sim.call("POST /v1/refunds", **recorded["request"]["params"] | {"charge": charge})
    assert refund.status == recorded["status"]
    assert_recorded(recorded["body"], refund.json, comparison)
    after = await sim.call(f"GET /v1/charges/{charge}")
    assert_recorded(RECORDED["charge_after_partial_refund"], after.json, comparison)


async def test_the_acquirers_reference_is_there_a_few_seconds_later(sim: Sim) -> None:
    refund = await sim.call("POST /v1/refunds", charge=await _charge(sim), amount=1500)
    await sim.move(6)
    later = await sim.call(f"GET /v1/refunds/{refund['id']}")
    assert_recorded(RECORDED["refund_destination_details_a_few_seconds_later"], later["destination_details"])


async def _listed(sim: Sim, refunds: int) -> tuple[str, list[str]]:
    charge = await _charge(sim)
    made = []
    for _ in range(refunds):
        made.append((await sim.call("POST /v1/refunds", charge=charge, amount=100))["id"])
        await sim.move(1)
    return charge, made[::-1]


def _assert_envelope(name: str, answered: dict[str, Any]) -> None:
    """Hold a list against a recorded one whose entries the recorders left out."""
    assert_recorded(RECORDED[name] | {"data": []}, answered | {"data": []})


async def test_a_list_of_one_charges_refunds_has_the_recorded_envelope(sim: Sim) -> None:
    charge, newest_first = await _listed(sim, 2)
    listed = await sim.call("GET /v1/refunds", charge=charge)
    assert [refund["id"] for refund in listed["data"]] == newest_first
    _assert_envelope("refund_list_filtered_by_charge_envelope", listed.json)


async def test_a_charges_own_list_of_refunds_has_the_recorded_envelope(sim: Sim) -> None:
    charge, newest_first = await _listed(sim, 2)
    listed = await sim.call(f"GET /v1/charges/{charge}/refunds")
    assert [refund["id"] for refund in listed["data"]] == newest_first
    assert listed["url"] == f"/v1/charges/{charge}/refunds"
    _assert_envelope("charge_refunds_scoped_list_envelope", listed.json)


async def test_refunds_expanded_into_a_charge_have_the_recorded_envelope(sim: Sim) -> None:
    charge, newest_first = await _listed(sim, 1)
    inline = (await sim.call(f"GET /v1/charges/{charge}", expand=["refunds"]))["refunds"]
    assert [refund["id"] for refund in inline["data"]] == newest_first
    assert inline["url"] == f"/v1/charges/{charge}/refunds"
    _assert_envelope("charge_expand_refunds_inline_envelope", inline)


# Errors


async def _over_refund(sim: Sim) -> Reply:
    charge = await _charge(sim)
    intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
    for amount in (1500, 1000):
        await sim.call("POST /v1/refunds", charge=charge, amount=amount)
    return await sim.call("POST /v1/refunds", payment_intent=intent, amount=3000)


async def _already_refunded(sim: Sim) -> Reply:
    charge = await _charge(sim)
    await sim.call("POST /v1/refunds", charge=charge)
    return await sim.call("POST /v1/refunds", charge=charge, amount=1)


async def _uncaptured(sim: Sim) -> Reply:
    return await sim.call("POST /v1/refunds", charge=await _charge(sim, capture_method="manual"), amount=100)


async def _disputed_charge(sim: Sim) -> str:
    await _settles_in_cad(sim)
    charge = await sim.charge(6000, card="pm_card_createDispute")
    await sim.move(1)
    return charge


async def _settles_in_cad(sim: Sim) -> None:
    await sim.control("POST /_sim/settlement", {"currency": "usd", "into": "cad", "rate_millionths": 1_398_500})


async def _disputed(sim: Sim) -> Reply:
    return await sim.call("POST /v1/refunds", charge=await _disputed_charge(sim), amount=100)


async def _cancel_succeeded(sim: Sim) -> Reply:
    refund = await sim.call("POST /v1/refunds", charge=await _charge(sim))
    return await sim.call(f"POST /v1/refunds/{refund['id']}/cancel")


async def _scoped_refund_of_another(sim: Sim) -> Reply:
    refund = await sim.call("POST /v1/refunds", charge=await _charge(sim))
    return await sim.call(f"GET /v1/charges/{await _charge(sim)}/refunds/{refund['id']}")


async def _closed_dispute(sim: Sim) -> Reply:
    charge = await _disputed_charge(sim)
    dispute = (await sim.call(f"GET /v1/charges/{charge}/dispute"))["id"]
    await sim.call(f"POST /v1/disputes/{dispute}/close")
    return await sim.call(f"POST /v1/disputes/{dispute}/close")


async def _no_dispute(sim: Sim) -> Reply:
    return await sim.call(f"GET /v1/charges/{await _charge(sim)}/dispute")


ERRORS: dict[str, Callable[[Sim], Awaitable[Reply]]] = {
    "over_refund": _over_refund,
    "already_refunded": _already_refunded,
    "neither_charge_nor_intent": lambda sim: sim.call("POST /v1/refunds", amount=100),
    "unknown_charge": lambda sim: sim.call("POST /v1/refunds", charge="ch_unknown0000000000000000"),
    "uncaptured": _uncaptured,
    "disputed": _disputed,
    "cancel_succeeded_refund": _cancel_succeeded,
    "scoped_refund_of_another_charge": _scoped_refund_of_another,
    "bad_integer": lambda sim: sim.call("GET /v1/charges", limit="abc"),
    "unknown_parameter": lambda sim: sim.call("POST /v1/customers", wat=1),
    "unknown_nested_parameter": lambda sim: sim.call("POST /v1/customers", invoice_settings={"nope": 1}),
    "bad_cursor": lambda sim: sim.call("GET /v1/customers", starting_after="cus_aaa"),
    "both_cursors": lambda sim: sim.call("GET /v1/customers", starting_after="cus_aaa", ending_before="cus_bbb"),
    "dispute_already_closed": _closed_dispute,
    "no_dispute_for_charge": _no_dispute,
    "unknown_dispute": lambda sim: sim.call("GET /v1/disputes/du_nope"),
}


def test_every_recorded_error_has_its_test() -> None:
    assert ERRORS.keys() == RECORDED["errors"].keys()
    assert len(ERRORS) == 16


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_is_answered_as_recorded(sim: Sim, name: str) -> None:
    recorded = RECORDED["errors"][name]
    reply = await ERRORS[name](sim)
    assert reply.status == recorded["status"]
    assert_recorded(recorded["body"], reply.json)


# Disputes and balance transactions


def _with_evidence() -> Any:
    names = openapi.spec()["components"]["schemas"]["dispute_evidence"]["properties"]
    evidence = dict.fromkeys(names) | {"enhanced_evidence": {}}
    assert (
        f"<{len(evidence)} fields, all null except enhanced_evidence {{}}>"
        == RECORDED["dispute_needs_response"]["evidence"]
    )
    return RECORDED["dispute_needs_response"] | {"evidence": evidence}


async def test_a_chargeback_settled_in_another_currency_is_answered_as_recorded(sim: Sim) -> None:
    comparison, charge = Comparison(), await _disputed_charge(sim)
    dispute = await sim.call(f"GET /v1/charges/{charge}/dispute")
    assert_recorded(_with_evidence(), dispute.json, comparison)
    await sim.control(f"POST /_sim/disputes/{dispute['id']}/win")
    won = await sim.call(f"GET /v1/disputes/{dispute['id']}")
    assert len(won["balance_transactions"]) == 2
    assert_recorded(RECORDED["dispute_won_adds_reversal_row"], won["balance_transactions"][1], comparison)


async def _row(sim: Sim, source: str) -> dict[str, Any]:
    rows = (await sim.call("GET /v1/balance_transactions", source=source))["data"]
    assert len(rows) == 1
    row: dict[str, Any] = rows[0]
    assert isinstance(row.pop("id"), str)
    assert isinstance(row.pop("created"), int)
    assert row.pop("available_on") % 86_400 == 0  # a midnight, UTC
    return row


async def test_a_refunds_balance_transaction_is_as_the_recorders_describe_it(sim: Sim) -> None:
    charge = await _charge(sim, currency="cad")
    refund = await sim.call("POST /v1/refunds", charge=charge, amount=1400)
    described = RECORDED["balance_transaction_of_a_refund_as_described_by_the_recorders"] | {
        "currency": "cad",
        "description": "REFUND FOR CHARGE (scenario 05 charge)",
        "source": refund["id"],
    }
    assert_recorded(described, await _row(sim, refund["id"]))


async def test_a_charges_balance_transaction_is_as_the_recorders_describe_it(sim: Sim) -> None:
    charge = await _charge(sim, 4400, currency="cad")
    await sim.booked()
    row = await _row(sim, charge)
    assert row.pop("currency") == "cad"
    described = copy.deepcopy(RECORDED["balance_transaction_of_a_charge_as_described_by_the_recorders"])
    assert 0 < row["fee"] < 4400
    described["fee_details"][0]["amount"] = described["fee"] = row["fee"]
    described |= {"net": 4400 - row["fee"], "description": "scenario 05 charge", "source": charge}
    assert_recorded(described, row)


# Replays


async def test_a_replayed_post_carries_the_recorded_headers(sim: Sim) -> None:
    recorded = RECORDED["replayed_post_headers_2026-08-13"]
    charge = await _charge(sim)
    first = await sim.call("POST /v1/refunds", idempotency_key="8d3f.1", charge=charge)
    again = await sim.call("POST /v1/refunds", idempotency_key="8d3f.1", charge=charge)
    assert again.status == recorded["status"]
    assert again.headers.keys() == recorded["headers"].keys()
    assert again.headers["idempotent-replayed"] == recorded["headers"]["idempotent-replayed"]
    assert again.headers["idempotency-key"] == "8d3f.1"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert again.headers["request-id"] != first.headers["request-id"]
    for name in ("request-id", "original-request"):
        assert re.fullmatch(r"req_\w{14}", again.headers[name])
        assert re.fullmatch(r"req_\w{14}", recorded["headers"][name])
