"""The simulator as a process of its own, found and spoken to without importing any of it; it never outlives its command."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from refundry.kernel.errors import RefundryError

KEY = "sk_test_sim"
# A healthy one ends at once; this long it may take on a busy machine before it is killed.
STOP_SECONDS = 10.0
ANSWER_SECONDS = 60.0
PARENT_DEATH = 1


class SimulatorFailed(RefundryError):  # noqa: N818
    """The simulator could not be started, or does not answer."""

    code = "simulator_failed"


def sample(name: str) -> Path:
    """Find a file of the sample shop.

    Raises:
        SimulatorFailed: The simulator is not installed.
    """
    found = importlib.util.find_spec("stripesim")
    path = Path(found.origin).parent / "scenarios" / "online_retail" / name if found and found.origin else None
    if path is None or not path.is_file():
        raise SimulatorFailed(
            "the sample shop is not there: this installation of Refundry is incomplete, install it again"
        )
    return path


class Simulator:
    """A running simulator.

    Args:
        *flags: Of `python -m stripesim`.
    """

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        self.account = ""

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-m", "stripesim", "--port", "0", *self._flags],
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C in the terminal goes to the whole group: the simulator has to answer until our last call is back.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # no thread runs yet
        )
        try:
            first = self._process.stdout.readline() if self._process.stdout else ""
            told = _first(first)
            self.address, self.account = told["address"], told["account"]
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """End it."""
        self.end()

    def end(self) -> None:
        """End it, whatever state it is in; may be called again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def audit(self) -> dict[str, Any]:
        """Read what its own books say.

        Raises:
            SimulatorFailed: It does not answer.
        """
        try:
            with urllib.request.urlopen(f"{self.address}/_sim/audit", timeout=ANSWER_SECONDS) as answer:  # noqa: S310  # loopback
                read: dict[str, Any] = json.load(answer)
        except (OSError, ValueError) as error:
            raise SimulatorFailed(f"the simulator's books cannot be read ({error})") from error
        return read


def _first(line: str) -> dict[str, Any]:
    if not line:
        raise SimulatorFailed("the simulator did not start; what it said stands above")
    read: dict[str, Any] = json.loads(line)
    return read


def _die_with_parent() -> None:
    """Let the kernel end the simulator with us, also when we are killed without a word."""
    import ctypes

    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGTERM)
