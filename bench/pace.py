"""How close the product comes to Stripe's limits, and how even its calls are.

The simulator has the limits, 80 ms for reads and 250 ms for writes; rows name charges. The share of a budget is what head-room leaves
of it. The times at which calls passed are the simulator's. Beside it runs the plain script that people write: one row after the
other, with looks before each refund and a sleep after it.

Variants that are far from filling the machine run side by side.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from bench import results, sim
from bench.product import Ended, Product, product
from bench.shop import ACCOUNT, REFUND, Shop, latency, shop
from refundry.infra.pace import CUT

ROWS = 1_000
# Enough to be still at work a minute after the limit is back.
ROWS_DROP = 1_700
ROWS_PLAIN = 100
PLAIN_SLEEP_SECONDS = 0.05
READS, WRITES = latency(80, "GET *"), latency(250, "POST *")
HEADROOM = 0.10
ENDPOINT, SANDBOX = 25.0, 25.0
SHARE = ENDPOINT * (1 - HEADROOM)
OTHERS_PER_SECOND = ENDPOINT / 2
DROPPED = "global=20,endpoint=5,search=4"
DROP_AFTER_REFUNDS, DROP_SECONDS = 300, 60.0
# Over so long a rate counts as reached again.
AGAIN_SECONDS, AGAIN = 10.0, 0.95
REACHED, LIMITED, LIMITED_AMONG_OTHERS, RECOVERED_SECONDS = 0.97, 0.001, 0.02, 60.0
# Beside others the rate goes to and fro between what a cut leaves of the limit's rest, and all of that. The others' own calls pass
# all the same.
LEFT_LEAST, LEFT_MOST, OTHERS_PASSED = CUT, 1.0, 0.95
WINDOW_SECONDS = 0.1
MISSING, LIMITER = 404, "Stripe-Rate-Limited-Reason"


def rate(moments: list[float]) -> float:
    """Tell calls per second from the first call to the last."""
    return (len(moments) - 1) / (moments[-1] - moments[0])


def largest(moments: Iterable[float], seconds: float) -> int:
    """Tell the most calls in any window of so many seconds."""
    inside: deque[float] = deque()
    most = 0
    for moment in moments:
        inside.append(moment)
        while inside[0] <= moment - seconds:
            inside.popleft()
        most = max(most, len(inside))
    return most


def pays(opened: Shop, house: Product, rows: int) -> Ended:
    """Pay a file of so many rows."""
    file = opened.file("rows", opened.charges[:rows])
    ended = house.run("batch", "run", str(file), "--yes", "--json")
    assert ended.told["paid"] == rows, ended.told
    return ended


def figures(moments: list[float], share: float, opened: Shop, ended: Ended) -> dict[str, float]:
    """Tell what every variant tells: of the calls on the budget that binds, and of all."""
    limited, calls = ended.told["rate_limited"], sum(len(times) for times in opened.times().values())
    return {
        "calls_per_second": round(rate(moments), 2),
        "of_share": round(rate(moments) / share, 4),
        "limited_share": round(limited / (calls + limited), 5),
        "largest_tenth": largest(moments, WINDOW_SECONDS),
        "largest_tenth_of_share": round(largest(moments, WINDOW_SECONDS) / (share * WINDOW_SECONDS), 2),
        "largest_second": largest(moments, 1.0),
        "seconds_in_all": round(ended.seconds, 1),
        "cpu_ms_per_refund": round(1000 * ended.cpu_seconds / ended.told["paid"], 1),
    }


def live() -> dict[str, float]:
    """Pay at the limits of a live account, where the refunds themselves bind."""
    with shop(ROWS, READS, WRITES, limits="live") as opened, product(opened.address, limits="live") as house:
        ended = pays(opened, house, ROWS)
        opened.audited(ROWS)
        return figures(opened.times()[REFUND], SHARE, opened, ended)


def sandbox() -> dict[str, float]:
    """Pay at the limits of a sandbox, where all calls together bind."""
    with shop(ROWS, READS, WRITES, limits="sandbox") as opened, product(opened.address, limits="sandbox") as house:
        ended = pays(opened, house, ROWS)
        opened.audited(ROWS)
        everything = sorted(moment for name, times in opened.times().items() if name != ACCOUNT for moment in times)
        return figures(everything, SANDBOX * (1 - HEADROOM), opened, ended)


def others() -> dict[str, float]:
    """Pay while another program takes half of what the limit allows, evenly and whatever it is told."""
    with shop(ROWS, READS, WRITES, limits="live") as opened, product(opened.address, limits="live") as house:
        ends = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            theirs = pool.submit(asyncio.run, _traffic(opened.address, ends))
            ended = pays(opened, house, ROWS)
            ends.set()
        opened.audited(ROWS)
        passed, asked = opened.times()[REFUND], theirs.result()
        got = sum(asked.values())
        # What passed is told by the simulator, and who asked by those who did: a call that neither knows would make a wrong rate.
        assert len(passed) == ROWS + got, f"{len(passed)} calls passed: {ROWS} of ours, and {got} of theirs"
        # Settled: the second half of the run.
        half = (passed[0] + passed[-1]) / 2
        ours = sum(moment >= half for moment in passed) - sum(went for moment, went in asked.items() if moment >= half)
        per_second = ours / (passed[-1] - half)
        left = ENDPOINT - OTHERS_PER_SECOND
        return {
            "calls_per_second": round(per_second, 2),
            "of_what_is_left": round(per_second / left, 3),
            "others_passed_share": round(got / len(asked), 3),
            "limited_share": round(ended.told["rate_limited"] / ended.told["stripe_calls"], 4),
            "seconds_in_all": round(ended.seconds, 1),
        }


async def _traffic(address: str, ends: threading.Event) -> dict[float, bool]:
    """Ask for refunds of charges that are not there, so that nothing but the limit is used; tells when, and which passed the limit."""
    asked: dict[float, bool] = {}
    async with aiohttp.ClientSession(address, headers={"Authorization": f"Bearer {sim.KEY}"}) as session:

        async def ask(charge: str) -> None:
            moment = time.monotonic()
            async with session.post("/v1/refunds", data={"charge": charge}) as answer:
                asked[moment] = answer.status == MISSING
                assert asked[moment] or LIMITER in answer.headers, f"{charge}: {answer.status} {await answer.text()}"

        began, count, tasks = time.monotonic(), 0, list[asyncio.Task[None]]()
        while not ends.is_set():
            # Each of another charge: who asks for one while it is still being asked for is told to wait for its lock, also by a 429.
            task = asyncio.create_task(ask(f"ch_of_another_{count}"))
            tasks.append(task)
            count += 1
            await asyncio.sleep(max(0.0, began + count / OTHERS_PER_SECOND - time.monotonic()))
        await asyncio.gather(*tasks)
    return asked


def drop() -> dict[str, float]:
    """Pay while the limit drops to a fifth for a minute and comes back."""
    with shop(ROWS_DROP, READS, WRITES, limits="live") as opened, product(opened.address, limits="live") as house:
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(pays, opened, house, ROWS_DROP)
            while not run.done() and len(opened.times().get(REFUND, [])) < DROP_AFTER_REFUNDS:
                time.sleep(0.5)
            opened.control("POST /_sim/limits", {"limits": DROPPED})
            dropped = time.monotonic()
            time.sleep(DROP_SECONDS)
            opened.control("POST /_sim/limits", {"limits": "live"})
            back = time.monotonic()
            ended = run.result()
        opened.audited(ROWS_DROP)
        passed = opened.times()[REFUND]
        during = [moment for moment in passed if dropped + DROP_SECONDS / 2 <= moment < back]
        return {
            "of_the_fifth": round(2 * len(during) / DROP_SECONDS / (ENDPOINT / 5), 3),
            "recovered_seconds": round(_again(passed, back), 1),
            "limited_share": round(ended.told["rate_limited"] / ended.told["stripe_calls"], 4),
            "seconds_in_all": round(ended.seconds, 1),
        }


def _again(passed: list[float], back: float) -> float:
    """Tell after how many seconds the rate begins to be as it was; to the end of the run, if it never is."""
    after = [moment for moment in passed if moment >= back]
    needed = AGAIN * SHARE * AGAIN_SECONDS
    for at, moment in enumerate(after):
        if sum(moment <= other < moment + AGAIN_SECONDS for other in after[at : at + 2 * int(needed)]) >= needed:
            return moment - back
    return max(RECOVERED_SECONDS * 2, passed[-1] - back)


def plain() -> dict[str, float]:
    """Pay as a script does that a person writes for the occasion: retrieve, list, retrieve, create, sleep."""
    with shop(ROWS_PLAIN, READS, WRITES, limits="live") as opened:
        place = urlsplit(opened.address)
        assert place.hostname is not None
        line = http.client.HTTPConnection(place.hostname, place.port or 80)
        headers = {"Authorization": f"Bearer {sim.KEY}", "Content-Type": "application/x-www-form-urlencoded"}

        def call(method: str, path: str, body: str | None = None) -> Any:
            line.request(method, path, body, headers)
            return json.load(line.getresponse())

        began = time.monotonic()
        for charge in opened.charges:
            call("GET", f"/v1/charges/{charge}")
            call("GET", f"/v1/refunds?charge={charge}")
            call("GET", f"/v1/charges/{charge}")
            call("POST", "/v1/refunds", urlencode({"charge": charge, "amount": 100}))
            time.sleep(PLAIN_SLEEP_SECONDS)
        seconds = time.monotonic() - began
        opened.audited(ROWS_PLAIN)
        return {"calls_per_second": round(ROWS_PLAIN / seconds, 2)}


def together(**variants: Callable[[], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Run variants side by side."""
    with ThreadPoolExecutor(len(variants)) as pool:
        running = {name: pool.submit(variant) for name, variant in variants.items()}
        return {name: run.result() for name, run in running.items()}


def main(*_: str) -> None:
    """Measure, print, and keep."""
    told = together(live=live, plain=plain) | together(sandbox=sandbox, others=others, drop=drop)
    told["live"]["against_plain"] = round(told["live"]["calls_per_second"] / told["plain"]["calls_per_second"], 1)
    names = list(dict.fromkeys(name for figure in told.values() for name in figure))
    results.table(("", *told), [(name, *(figure.get(name, "") for figure in told.values())) for name in names])
    aims = [
        aim
        for name in ("live", "sandbox")
        for aim in (
            results.Aim(f"{name}: calls/s of the share", told[name]["of_share"], least=REACHED),
            results.Aim(f"{name}: 429s among the calls", told[name]["limited_share"], most=LIMITED),
            results.Aim(f"{name}: largest 100 ms, of the share", told[name]["largest_tenth_of_share"], most=2.0),
        )
    ]
    aims += [
        results.Aim("others: 429s among the calls", told["others"]["limited_share"], most=LIMITED_AMONG_OTHERS),
        results.Aim("others: calls/s of what is left", told["others"]["of_what_is_left"], least=LEFT_LEAST),
        results.Aim("others: no more than is left", told["others"]["of_what_is_left"], most=LEFT_MOST),
        results.Aim("others: their calls that pass", told["others"]["others_passed_share"], least=OTHERS_PASSED),
        results.Aim("drop: seconds until 0.95 again", told["drop"]["recovered_seconds"], most=RECOVERED_SECONDS),
    ]
    results.write("pace", {**told, "aims": results.show(aims)})
