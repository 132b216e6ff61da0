"""The simulator dies at bad moments: what it had acknowledged is there when it comes back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.integration.stripesim.process import Process, simulator

pytestmark = pytest.mark.integration
LOAD = "order_id,amount_minor,currency\n" + "".join(f"o{at},100000,gbp\n" for at in range(8))


async def loaded(session: aiohttp.ClientSession) -> list[str]:
    async with session.post("/_sim/load", data=LOAD, headers={"Content-Type": "text/csv"}) as answer:
        assert answer.status == 200, await answer.text()
    async with session.get("/v1/charges", params={"limit": "100"}) as answer:
        return [charge["id"] for charge in (await answer.json())["data"]]


async def refund(session: aiohttp.ClientSession, charge: str, key: str) -> tuple[int, str, bool]:
    data = {"charge": charge, "amount": "5", "metadata[refundry_request_id]": key}
    async with session.post("/v1/refunds", data=data, headers={"Idempotency-Key": key}) as answer:
        body = await answer.json()
        return answer.status, body.get("id", ""), "Idempotent-Replayed" in answer.headers


async def audited(session: aiohttp.ClientSession) -> dict[str, str]:
    """See that the books are in order; tells the refund that each request got."""
    async with session.get("/_sim/audit") as answer:
        audit = await answer.json()
    assert audit["ok"], audit["problems"]
    refunds = [refund for line in audit["charges"] for refund in line["refunds"]]
    return {refund["metadata"]["refundry_request_id"]: refund["id"] for refund in refunds}


async def test_a_kill_amid_a_stream_of_refunds_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    state, acknowledged, sent = tmp_path / "state", {}, set()
    with simulator(state=state) as first:
        async with first.session() as session:
            charges = await loaded(session)
            enough = asyncio.Event()

            async def worker(number: int) -> None:
                for at in range(100_000):
                    key = f"w{number}.{at}"
                    sent.add((charges[number], key))
                    status, made, _ = await refund(session, charges[number], key)
                    assert status == 200
                    acknowledged[key] = made
                    if len(acknowledged) > 150:
                        enough.set()

            workers = [asyncio.create_task(worker(number)) for number in range(len(charges))]
            await enough.wait()
            first.kill()
            ends = await asyncio.gather(*workers, return_exceptions=True)
            assert all(isinstance(end, aiohttp.ClientError) for end in ends), ends
    with simulator(state=state) as second:
        async with second.session() as session:
            there = await audited(session)
            assert acknowledged.items() <= there.items()
            assert there.keys() <= {key for _, key in sent}
            for charge, key in sent:
                status, made, replayed = await refund(session, charge, key)
                assert (status, replayed) == (200, key in there)
                assert made == there.get(key, made)
            assert (await audited(session)).keys() == {key for _, key in sent}


@pytest.mark.parametrize("how", ["fault", "control"])
async def test_an_ordered_crash_keeps_what_was_done_and_happens_once(how: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    rule = {"kind": "crash", "operation": "POST /v1/refunds", "at": [2]}
    with simulator(state=state) as first:
        async with first.session() as session:
            charge = (await loaded(session))[0]
            async with session.post("/_sim/faults", json={"rules": [rule] if how == "fault" else []}) as answer:
                assert answer.status == 200
            kept = (await refund(session, charge, "one"))[1]
            with pytest.raises(aiohttp.ClientError):
                await (refund(session, charge, "two") if how == "fault" else session.post("/_sim/crash"))
            assert first.ended() == -signal.SIGKILL
    with simulator(state=state) as second:
        async with second.session() as session:
            there = await audited(session)
            assert there["one"] == kept
            assert ("two" in there) == (how == "fault"), "it was done before the crash, and nobody was told"
            # The plan goes on where it was: it does not crash again at the second call of this life.
            assert await refund(session, charge, "one") == (200, kept, True)
            status, made, replayed = await refund(session, charge, "two")
            assert (status, replayed) == (200, how == "fault")
            assert await audited(session) == {"one": kept, "two": made}


async def test_an_orderly_end_keeps_clock_faults_counts_and_settings(tmp_path: Path) -> None:
    async def told(process: Process) -> list[object]:
        async with process.session() as session:
            out: list[object] = []
            for path in ("clock", "faults", "settings", "webhooks/plan"):
                async with session.get(f"/_sim/{path}") as answer:
                    out.append(await answer.json())
            return out

    state = tmp_path / "state"
    with simulator(state=state) as first:
        async with first.session() as session:
            bodies = {
                "clock": {"move_seconds": 12_345},
                "settings": {"overdraft": 7, "arn_delay": 1.5},
                "webhooks/plan": {"seed": 4, "rules": [{"kind": "lost", "probability": 0.5}]},
                "faults": {"seed": 5, "rules": [{"kind": "error_before", "every": 2, "operation": "GET *"}]},
            }
            for path, body in bodies.items():
                async with session.post(f"/_sim/{path}", json=body) as answer:
                    assert answer.status == 200, await answer.text()
            async with session.get("/v1/balance") as answer:
                assert answer.status == 200
        before = await told(first)
        first.running.send_signal(signal.SIGTERM)
        assert first.ended() == 0
    with simulator(state=state) as second:
        assert await told(second) == before
        async with second.session() as session, session.get("/v1/balance") as answer:
            assert answer.status == 500, "the second call since the plan was made"
