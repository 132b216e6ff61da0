"""Starts `refundry` in processes of its own that have read the program's code before: for a fresh one that takes longer than its work.

They are forked from one server for each test process, which does nothing but import. That a fresh one works too is tried by
`tests/support/command.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import connection
from pathlib import Path

from refundry.cli.main import run
from tests.support import jumping_clock

_context = multiprocessing.get_context("forkserver")
# With these come nearly all modules that paying, planning and serving need.
_context.set_forkserver_preload(["refundry.cli.batch_plan", "refundry.cli.serving", "refundry.migrations"])
# To start one asks all others whether they have ended, and of two threads that ask at once only one is told the exit code.
_alone = threading.Lock()


class Process:
    """One that runs `refundry` with these arguments; it is asked and ended like one of `subprocess`.

    Args:
        arguments: Of the command line.
        environment: All of its environment.
        out: Where its standard output goes.
        log: Where its standard error goes.
        clock: The file of `jumping_clock`; without, its clock is right.
    """

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], out: Path, log: Path, clock: Path | None
    ) -> None:
        """Start it."""
        self._arguments, self._out = arguments, out
        # One that is killed at once has said nothing.
        for path in (out, log):
            path.touch()
        self._process = _context.Process(target=_run, args=(arguments, dict(environment), out, log, clock))
        with _alone:
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Tell its exit code, less than zero for a signal; `None` while it runs."""
        with _alone:
            return self._process.exitcode

    def poll(self) -> int | None:
        """Tell its exit code, if it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: It did not end in time.
        """
        connection.wait([self._process.sentinel], timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; tells what it said on standard output."""
        self.wait(timeout)
        return self._out.read_text(), ""

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """End it politely."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)


def _run(arguments: tuple[str, ...], environment: dict[str, str], out: Path, log: Path, clock: Path | None) -> None:
    os.setsid()
    if sys.platform == "linux":
        # The server ends with the test's process, and the kernel this one with the server: also by a signal that nobody can catch.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    for path, stream in ((out, 1), (log, 2)):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    os.environ.clear()  # noqa: TID251  # as a fresh process has it
    os.environ.update(environment)  # noqa: TID251  # the same
    if clock is not None:
        jumping_clock.bend(clock)
    sys.argv = ["refundry", *arguments]
    run()
