"""A witness of the machine: tells in which moments it computed far slower than else, whoever used it.

A virtual machine may be slowed down by its host, without a word in its own counters: a loop that needs no memory, no disk and nobody's answer
then takes ten times the processor time for a tenth of a second. What is timed meanwhile says little about the program.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# A piece takes about a tenth of a millisecond, so that the watching itself takes a fortieth of one core.
PIECE, EVERY_SECONDS, SLOW = 2000, 0.004, 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen.

    Args:
        moments: The slow ones, from the piece before to the end of the last slow piece, in seconds of this machine's monotonic clock.
        seconds: How long was watched.
    """

    moments: list[tuple[float, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Tell the share of the time that was slow."""
        return sum(end - start for start, end in self.moments) / sum(self.seconds)

    def touched(self, moment: float) -> bool:
        """Tell whether a moment was slow, or so soon after a slow one that half a load has not made up for it yet."""
        return any(start <= moment <= end + (end - start) for start, end in self.moments)

    def overlapped(self, begin: float, finish: float) -> bool:
        """Tell whether any of a time was slow."""
        return any(start <= finish and begin <= end for start, end in self.moments)


def _piece() -> float:
    began = time.thread_time()
    total = 0
    for number in range(PIECE):
        total += number & 7
    return time.thread_time() - began


def _watch(pipe: Any) -> None:  # one end of a pipe
    pieces: list[tuple[float, float, float]] = []
    last = time.monotonic()
    while not pipe.poll(EVERY_SECONDS):
        took = _piece()
        now = time.monotonic()
        pieces.append((last, now, took))
        last = now
    pipe.send(pieces)


def _moments(pieces: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Join the slow pieces that follow each other."""
    slow = SLOW * statistics.median(took for _, _, took in pieces)
    moments: list[tuple[float, float]] = []
    for start, end, took in pieces:
        if took > slow:
            if moments and start <= moments[-1][1]:
                moments[-1] = (moments[-1][0], end)
            else:
                moments.append((start, end))
    return moments


@contextmanager
def watching(seen: Seen) -> Iterator[None]:
    """Watch from a process of its own, and add what it sees."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_watch, args=(there,))
    process.start()
    try:
        yield
    finally:
        here.send(None)
        pieces = here.recv()
        process.join()
    seen.moments.extend(_moments(pieces))
    seen.seconds.append(pieces[-1][1] - pieces[0][0])
