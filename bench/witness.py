"""A witness of the machine: tells in which moments it computed far slower than else, or not at all, whoever used it.

A virtual machine may be slowed down by its host, without a word in its own counters: a loop that needs no memory, no disk and nobody's answer
then takes ten times the processor time for a tenth of a second. Or the host takes a core away for a while, which counts as no processor time of
that loop, and is told as stolen. What is timed meanwhile says little about the program.
"""

from __future__ import annotations

import multiprocessing
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A piece takes about a tenth of a millisecond, so that the watching itself takes a fortieth of one core.
PIECE, EVERY_SECONDS, SLOW = 2000, 0.004, 3.0
# Of a hundredth of a second each, as the system counts what was stolen of a core: two that follow each other are a moment that can be felt.
STOLEN_TICKS = 2
# From when to when it was, the processor time of its work, and the ticks that were stolen of one core meanwhile.
Piece = tuple[float, float, float, int]


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


def _stolen() -> list[int]:
    """Tell how much of each core the host has kept for itself so far, in ticks (proc_stat(5), the eighth figure)."""
    lines = Path("/proc/stat").read_text().splitlines()
    return [int(line.split()[8]) for line in lines if re.match(r"cpu\d", line)]


def _watch(pipe: Any) -> None:  # one end of a pipe
    pieces: list[Piece] = []
    last, before = time.monotonic(), _stolen()
    while not pipe.poll(EVERY_SECONDS):
        took = _piece()
        now, stolen = time.monotonic(), _stolen()
        pieces.append((last, now, took, max(after - ticks for after, ticks in zip(stolen, before, strict=True))))
        last, before = now, stolen
    pipe.send(pieces)


def _moments(pieces: list[Piece]) -> list[tuple[float, float]]:
    """Join the slow pieces that follow each other."""
    slow = SLOW * statistics.median(took for _, _, took, _ in pieces)
    moments: list[tuple[float, float]] = []
    for start, end, took, stolen in pieces:
        if took > slow or stolen >= STOLEN_TICKS:
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
