"""The simulator as a real process that may be killed, and goes on with its file afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.support.sim import KEY, START

END_SECONDS = 20
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


class Process:
    """A running simulator.

    Args:
        running: Its process, which has said where it listens.
    """

    def __init__(self, running: subprocess.Popen[str]) -> None:
        """Read its first line."""
        assert running.stdout is not None
        self.running = running
        line = running.stdout.readline()
        if not line:
            raise AssertionError(f"it ended with {running.wait()}: {running.communicate()[1]}")
        self.url: str = json.loads(line)["address"]
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """End it as a power cut would."""
        self.running.kill()
        assert self.ended() == -signal.SIGKILL

    def ended(self) -> int:
        """Wait until it has ended; tells its exit code."""
        return self.running.wait(END_SECONDS)

    def said(self) -> str:
        """Tell what it wrote to its error output, after its end."""
        assert self.running.stderr is not None
        return self.running.stderr.read()

    def session(self) -> aiohttp.ClientSession:
        """Open a client that holds the test key."""
        return aiohttp.ClientSession(self.url, headers=AUTHORIZED, timeout=aiohttp.ClientTimeout(total=END_SECONDS))


@contextmanager
def simulator(*flags: str, state: Path | None = None) -> Iterator[Process]:
    """Start a simulator on a free port, and see that it is gone at the end."""
    kept = ["--state", str(state)] if state else []
    command = [sys.executable, "-m", "stripesim", "--port", "0", "--start", str(START), *kept, *flags]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603  # our own
    try:
        yield Process(running)
    finally:
        running.kill()
        running.communicate(timeout=END_SECONDS)
