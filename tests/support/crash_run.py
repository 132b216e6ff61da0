"""Crash runs: real processes pay a file of refunds against a real simulator, and are killed, stopped, and misled about the time.

The product's own word counts for nothing here: the simulator's audit says what was paid double, not paid, or never asked.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random  # noqa: TID251  # from the seed of the test
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from refundry.infra.db import sqlite_url
from refundry.infra.settings import PaySettings
from tests.support.forked import Process
from tests.support.server import Server

# A generous bound for anything that is waited for: a stuck run fails with a message, and not with a test's time-out.
DEADLINE_SECONDS = 240.0
POLL_SECONDS = 0.02
# By then another worker has to have gone on.
TAKE_OVER_SECONDS = 30.0
HOUR = 3600.0
# What a run may take that is paced, or stopped again and again.
PACED_SECONDS = 1200.0
# Calls that a killed process had under way may still arrive: only what comes after them is the other's.
IN_FLIGHT = PaySettings().flight_max
# A clock stays wrong for at least so many refunds; and before a kill, right for so many that each intent dated by the wrong one is written.
JUMP_LASTS, RIGHT_BEFORE_KILL = 10, IN_FLIGHT


@dataclass
class Shop:
    """A simulator with charges, and a file that asks for some of their money back."""

    server: Server
    file: Path
    obligations: list[dict[str, Any]]

    def refunds(self) -> int:
        """Count the refunds that Stripe has made."""
        calls = self.server.control("GET /_sim/calls")
        return int(calls["operations"].get("POST /v1/refunds", {}).get("calls", 0))

    def judge(self) -> None:
        """Hold what was paid against what was asked.

        Raises:
            AssertionError: Something was paid double, not paid, never asked for, or beyond its charge.
        """
        audit = self.server.control("POST /_sim/audit", {"obligations": self.obligations})
        told = {name: audit[name][:5] for name in ("problems", "paid_double", "not_paid", "never_asked")}
        assert not any(told.values()), json.dumps(told, indent=1)
        assert audit["paid"] == len(self.obligations)


@contextlib.contextmanager
def shop(folder: Path, rows: int, *, seed: int, faults: list[dict[str, Any]] | None = None) -> Iterator[Shop]:
    """Open a shop: `rows` rows over two thirds as many orders, so that some orders get two refunds."""
    chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
    orders = max(rows * 2 // 3, 1)
    amounts = [chance.randrange(2_000, 90_000) for _ in range(orders)]
    charges = [
        {"order_id": f"o{at}", "amount_minor": amount, "currency": "gbp", "created": 1_780_000_000 + at}
        for at, amount in enumerate(amounts)
    ]
    file = folder / "refunds.csv"
    obligations = []
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["ticket_id", "order_id", "amount_minor", "currency"])
        for at in range(rows):
            order = at % orders
            amount = amounts[order] // 3 + at // orders
            writer.writerow([f"t{at}", f"o{order}", amount, "gbp"])
            obligations.append({"charge": f"o{order}", "amount": amount, "ticket": f"t{at}", "name": f"t{at}"})
    with Server("--seed", str(seed), "--state", str(folder / "stripe.db"), start=None) as server:
        server.control("POST /_sim/settings", {"opening_balance": 10**12})
        server.control("POST /_sim/load", {"charges": charges})
        plan = faults if faults is not None else [{"kind": "latency", "operation": "*", "low": 2, "high": 30}]
        server.control("POST /_sim/faults", {"seed": seed, "rules": plan})
        yield Shop(server, file, obligations)


@dataclass
class House:
    """An installation: one database, any number of processes.

    Args:
        folder: Its state directory.
        shop: Whom it serves.
        postgres: The database's address; SQLite in the state directory without.
        settings: Further settings of its processes, which win.
    """

    folder: Path
    shop: Shop
    postgres: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    clock_file: Path | None = None

    def environment(self) -> dict[str, str]:
        """Tell the settings of its processes."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}  # noqa: TID251
        return kept | {
            "STRIPE_SECRET_KEY": "sk_test_sim",
            "REFUNDRY_STRIPE__API_BASE": self.shop.server.url,
            "REFUNDRY_STRIPE__LIMITS": "none",
            "REFUNDRY_STATE_DIR": str(self.folder),
            "REFUNDRY_PAY__ABSENCE_WAIT": "2",
            "REFUNDRY_PAY__ABSENCE_GAP": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **({"REFUNDRY_DATABASE_URL": self.postgres} if self.postgres else {}),
            **self.settings,
        }

    def run(self, *flags: str, right: bool = False) -> Process:
        """Start a process that pays the file; where clocks jump, its own does too, unless it is to be right."""
        arguments = ("batch", "run", str(self.shop.file), "--yes", "--json", *flags)
        return self.start(*arguments) if right else self.begin(*arguments)

    def begin(self, *arguments: str) -> Process:
        """Start `refundry` with these arguments; where clocks jump, its own does too."""
        return self._started(arguments, self.clock_file)

    def start(self, *arguments: str) -> Process:
        """Start `refundry` with these arguments, by the right time."""
        return self._started(arguments, None)

    def _started(self, arguments: tuple[str, ...], clock: Path | None) -> Process:
        at = self.folder / str(len(self.processes))
        process = Process(arguments, self.environment(), at.with_suffix(".out"), at.with_suffix(".log"), clock)
        self.processes.append(process)
        return process

    def finish(self, process: Process, code: int = 0, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """Wait for a process to have paid everything, or to end with another exit code; tells its `--json`.

        Raises:
            AssertionError: It did not end, or with another exit code.
        """
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still running after {seconds:.0f} s: {self.logs()}") from None
        assert process.returncode == code, f"exit {process.returncode}, not {code}: {out} {self.logs()}"
        read: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return read

    def logs(self) -> str:
        """Tell what the processes said."""
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))

    def end(self) -> None:
        """End what is still running."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


@contextlib.contextmanager
def house(
    shop_: Shop, *, postgres: str | None = None, jumping: bool = False, settings: dict[str, str] | None = None
) -> Iterator[House]:
    """Open an installation of its own."""
    with tempfile.TemporaryDirectory(prefix="refundry-crash-") as folder:
        opened = House(Path(folder), shop_, postgres, settings or {})
        if jumping:
            opened.clock_file = Path(folder) / "clock"
            opened.clock_file.write_text("0")
        try:
            yield opened
        finally:
            opened.end()


def wait_until(
    what: str, true: Callable[[], bool], seconds: float = DEADLINE_SECONDS, *, every: float = POLL_SECONDS
) -> float:
    """Wait for a condition, which is looked at `every` so many seconds; tells how long it took.

    Raises:
        AssertionError: It did not come true in time.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(every)  # noqa: TID251  # between two looks at another process
    return time.monotonic() - began


def moments(shop_: Shop, count: int, seed: int) -> list[int]:
    """Draw moments, as numbers of calls to `POST /v1/refunds`, spread over the whole run."""
    chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
    most = len(shop_.obligations) - 5
    return sorted(chance.randrange(0, most) for _ in range(count))


def kill_the_only_process(shop_: Shop, house_: House, kills: int, seed: int) -> dict[str, Any]:
    """`kill -9` the only process again and again, start another each time, and let the last one finish."""
    process = house_.run()
    for moment in moments(shop_, kills, seed):
        reached = lambda at=moment, p=process: shop_.refunds() >= at or p.poll() is not None  # noqa: E731
        wait_until(f"refund {moment}", reached)
        process.kill()
        process.wait()
        process = house_.run()
    told = house_.finish(process)
    shop_.judge()
    return told


def kill_one_of_two(shop_: Shop, house_: House, seed: int, *, how: signal.Signals = signal.SIGKILL) -> float:
    """Kill or stop one of two processes in the middle; the other has to go on without any help.

    Returns:
        How long it took, in seconds, until the next refund was made.
    """
    first, second = house_.run(), house_.run()
    moment = moments(shop_, 1, seed)[0] // 2 + 5
    wait_until(f"refund {moment}", lambda: shop_.refunds() >= moment)
    # On SQLite one of them executes, and it is that one which has to go: it made the refunds so far.
    victim, other = (first, second) if _executes(house_, first) else (second, first)
    victim.send_signal(how)
    seen = shop_.refunds()
    if how is signal.SIGSTOP and house_.postgres is None:
        # A stopped process keeps its lock, as a living one would: nobody takes over, and nothing is lost.
        assert other.poll() is None
        victim.send_signal(signal.SIGCONT)
    took = wait_until("the next refund", lambda: shop_.refunds() > seen + IN_FLIGHT or other.poll() is not None)
    house_.finish(other)
    if how is signal.SIGSTOP:
        victim.send_signal(signal.SIGCONT)
        house_.finish(victim)
    shop_.judge()
    return took


def _executes(house_: House, process: Process) -> bool:
    if house_.postgres:
        return True
    locks = list(house_.folder.glob("*.lock"))
    return bool(locks) and locks[0].read_text().strip() == str(process.pid)


def stop_the_only_process(shop_: Shop, house_: House, seed: int, seconds: float, times: int = 1) -> None:
    """SIGSTOP the only process in the middle for a while, as a laptop that sleeps, then let it go on."""
    process = house_.run()
    for moment in moments(shop_, times, seed):
        wait_until(f"refund {moment}", lambda at=moment: shop_.refunds() >= at)  # type: ignore[misc]
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)  # noqa: TID251  # the stop itself is what is tried
        process.send_signal(signal.SIGCONT)
    house_.finish(process)
    shop_.judge()


def kill_again_and_again_one_of_two(shop_: Shop, house_: House, seed: int, times: int) -> float:
    """`kill -9` one of two processes in the middle, start another in its place, and so on; the other has to go on without any help.

    Returns:
        How long it took at most, in seconds, until the next refund was made.
    """
    one, other = house_.run(), house_.run()
    longest = 0.0
    for moment in moments(shop_, times, seed):
        wait_until(f"refund {moment}", lambda at=moment: shop_.refunds() >= at)  # type: ignore[misc]
        wait_until("one that executes", lambda p=one, q=other: _executes(house_, p) or _executes(house_, q))  # type: ignore[misc]
        victim, other = (one, other) if _executes(house_, one) else (other, one)
        victim.kill()
        victim.wait()
        seen = shop_.refunds()
        left = min(seen + IN_FLIGHT, len(shop_.obligations) - 1)
        going = lambda p=other, n=left: shop_.refunds() > n or p.poll() is not None  # noqa: E731
        longest = max(longest, wait_until("the next refund", going))
        one = house_.run()
    for process in (one, other):
        house_.finish(process)
    shop_.judge()
    return longest


def stop_again_and_again_one_of_two(shop_: Shop, house_: House, seed: int, seconds: float, times: int) -> None:
    """SIGSTOP one of two processes for a while, then let it go on, then the other; meanwhile on Postgres the other pays.

    On SQLite a stopped process keeps its lock, as a living one would: nobody takes over, and nothing is lost.

    Raises:
        AssertionError: The other took longer to go on than it may.
    """
    one, other = house_.run(), house_.run()

    def reached(refunds: int) -> bool:
        return shop_.refunds() >= refunds or (one.poll() is not None and other.poll() is not None)

    for moment in moments(shop_, times, seed):
        wait_until(f"refund {moment}", lambda at=moment: reached(at), PACED_SECONDS)  # type: ignore[misc]
        victim, other = (one, other) if _executes(house_, one) else (other, one)
        victim.send_signal(signal.SIGSTOP)
        seen = shop_.refunds()
        if house_.postgres:
            going = lambda p=other, n=seen: shop_.refunds() > n + JUMP_LASTS or p.poll() is not None  # noqa: E731
            took = wait_until("the next refund", going)
            assert took < TAKE_OVER_SECONDS, (
                f"after {seen} refunds the other went on after {took:.1f} s: {house_.logs()}"
            )
        time.sleep(seconds)  # noqa: TID251  # the stop itself is what is tried
        victim.send_signal(signal.SIGCONT)
        one, other = other, victim
    for process in (one, other):
        house_.finish(process, seconds=PACED_SECONDS)
    shop_.judge()


def on_their_way(house_: House) -> set[str]:
    """Tell the requests whose intent is written and whose outcome is not."""
    url = house_.postgres or sqlite_url(house_.folder / "refundry.db")
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT id FROM refund_requests WHERE state = 'submitting'")
            return set(found.scalars())
    finally:
        engine.dispose()


def those_are_over(house_: House, crew: Sequence[Process]) -> None:
    """Wait for what is on its way now: on a machine that is busy with other things one of a hundred may be much later than the rest."""
    these = on_their_way(house_)

    def over() -> bool:
        return not these & on_their_way(house_) or all(process.poll() is not None for process in crew)

    wait_until("the end of what was on its way", over)


def jump_the_clock(shop_: Shop, house_: House, seed: int, seconds: float, times: int = 1) -> None:
    """Set the wall clock of a running process wrong in the middle, and right again, and so on; each time it is right after both ways, another goes on."""
    assert house_.clock_file is not None
    process = house_.run()
    for number, moment in enumerate(moments(shop_, times, seed)):
        kill = number % 4 == 3
        _jump(shop_, house_, process, moment, seconds, number, RIGHT_BEFORE_KILL if kill else JUMP_LASTS)
        if kill:
            # While the clock is right: what is on its way when it is wrong can for a day neither be sent again nor proven absent.
            those_are_over(house_, [process])
            process.kill()
            process.wait()
            process = house_.run()
            # What the kill has left in doubt is looked at by the right time too: by a wrong one it waits for an hour.
            those_are_over(house_, [process])
    house_.finish(process)
    shop_.judge()


def jump_the_clock_of_one_of_two(shop_: Shop, house_: House, seed: int, seconds: float, times: int) -> None:
    """Set the wall clock of one of two processes wrong and right again and again, then kill it; the other, whose clock is right, goes on."""
    wrong = house_.run()
    wait_until("that it executes", lambda: shop_.refunds() > 0)
    other = house_.run(right=True)
    for number, moment in enumerate(moments(shop_, times, seed)):
        last = number == times - 1
        _jump(shop_, house_, wrong, moment, 0.0 if last else seconds, number, RIGHT_BEFORE_KILL if last else JUMP_LASTS)
    those_are_over(house_, [wrong])
    wrong.kill()
    wrong.wait()
    house_.finish(other)
    shop_.judge()


def _jump(shop_: Shop, house_: House, process: Process, moment: int, seconds: float, number: int, lasts: int) -> None:
    """Let the clock jump at a moment, to and fro and back by turns, and see that refunds go on."""
    assert house_.clock_file is not None
    wait_until(f"refund {moment}", lambda: shop_.refunds() >= moment or process.poll() is not None)
    house_.clock_file.write_text(str((seconds, 0.0, -seconds, 0.0)[number % 4]))
    more = min(shop_.refunds() + lasts, len(shop_.obligations) - 1)
    wait_until("some more refunds", lambda: shop_.refunds() >= more or process.poll() is not None)
