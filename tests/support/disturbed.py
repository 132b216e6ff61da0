"""Processes that are disturbed at drawn moments: killed, stopped, misled about the time. What they work on is the caller's."""

from __future__ import annotations

import random  # noqa: TID251  # from the seed of the test
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tests.support.crash_run import HOUR, RIGHT_BEFORE_KILL, House, Shop, those_are_over, wait_until
from tests.support.forked import Process

JUMP_SECONDS = 25 * HOUR
# Looks at the counts of the simulator cost it something, and it has calls to answer.
# Longer than a process takes to begin, and than an attempt in doubt waits for its first looks.
STILL_SECONDS = 20.0
LOOK = 0.02


class Kind(StrEnum):
    """What is done to a process."""

    KILL = "kill"
    STOP = "stop"
    JUMP = "jump"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is done to whom works, and how often.

    Args:
        kills: `kill -9`, and another process in its place.
        stops: SIGSTOP for a while, then SIGCONT.
        jumps: A wall clock that is wrong by 25 hours for a while, ahead and behind by turns, on machines whose database is right.
        stop_seconds: How long a stop lasts.
    """

    kills: int = 0
    stops: int = 0
    jumps: int = 0
    stop_seconds: float = 1.0

    def drawn(self, chance: random.Random) -> list[Kind]:
        """Put all of it in some order."""
        all_ = [Kind.KILL] * self.kills + [Kind.STOP] * self.stops + [Kind.JUMP] * self.jumps
        return chance.sample(all_, len(all_))


def calls(shop: Shop, *operations: str) -> int:
    """Count the calls that Stripe has let pass: of these operations, of all without."""
    by_account = shop.server.control("GET /_sim/calls/accounts")["accounts"]
    counted = [pair for callers in by_account.values() for made in callers.values() for pair in made.items()]
    return sum(count for operation, count in counted if not operations or operation in operations)


def disturb(
    house: House,
    crew: list[Process],
    start: Callable[[], Process],
    trouble: Trouble,
    *,
    progress: Callable[[], int],
    within: tuple[int, int],
    seed: int,
    moved: float = 0.0,
    from_start: bool = False,
) -> None:
    """Disturb one process of a crew after the other, at moments that are drawn.

    Args:
        house: Whose processes.
        crew: Those that work; one that is killed is replaced in it.
        start: Starts one that goes on.
        trouble: What is done.
        progress: A count that grows as they work.
        within: Of what the count is to be drawn: from, and below.
        seed: Of all that is drawn.
        moved: By how many seconds everybody's clock was moved before, Stripe's too.
        from_start: A process that is started again begins from the start, and so does its count.
    """
    chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
    kinds = trouble.drawn(chance)
    moments, begun = [chance.randrange(*within) for _ in kinds], 0
    if not from_start:
        moments.sort()
    for number, (moment, kind) in enumerate(zip(moments, kinds, strict=True)):
        _reached(begun + moment, crew, progress)
        at = chance.randrange(len(crew))
        if kind is Kind.KILL:
            kill(crew[at])
            begun = progress() if from_start else 0
            crew[at] = start()
        elif kind is Kind.STOP:
            crew[at].send_signal(signal.SIGSTOP)
            time.sleep(trouble.stop_seconds)  # noqa: TID251  # the stop itself is what is tried
            crew[at].send_signal(signal.SIGCONT)
        else:
            # What a kill has left in doubt is looked at by the right time too, and one that was started anew has begun by it: by a wrong
            # one it waits for an hour.
            those_are_over(house, crew)
            _goes_on(progress() + 1, crew, progress)
            set_clock(house, moved, wrong_by=(-1) ** number * JUMP_SECONDS)
            _goes_on(progress() + max((within[1] - within[0]) // 50, 1), crew, progress)
            set_clock(house, moved)
            # What is on its way while the clock is wrong can for a day neither be sent again nor be proven absent, if its process is killed.
            _goes_on(progress() + RIGHT_BEFORE_KILL, crew, progress)
            those_are_over(house, crew)


def kill(process: Process) -> None:
    """`kill -9`."""
    process.kill()
    process.wait()


def set_clock(house: House, moved: float, *, wrong_by: float = 0.0) -> None:
    """Set the wall clock of an installation's processes; its database stays right.

    Args:
        house: The installation.
        moved: By how much the time of everybody was moved, in seconds.
        wrong_by: By how much it is wrong besides.
    """
    assert house.clock_file is not None
    house.clock_file.write_text(f"{moved + wrong_by} {moved}")


def _goes_on(moment: int, crew: list[Process], progress: Callable[[], int]) -> None:
    """Wait for a count, or until it has stood still for a while: a day's money may be spent by now, and then nothing more is sent."""
    last, since = progress(), time.monotonic()

    def reached() -> bool:
        nonlocal last, since
        now = progress()
        if now != last:
            last, since = now, time.monotonic()
        still = time.monotonic() - since > STILL_SECONDS
        return now >= moment or still or all(process.poll() is not None for process in crew)

    wait_until(f"call {moment}", reached, every=LOOK)


def _reached(moment: int, crew: list[Process], progress: Callable[[], int]) -> None:
    def reached() -> bool:
        return progress() >= moment or all(process.poll() is not None for process in crew)

    wait_until(f"call {moment}", reached, every=LOOK)
