"""Runs `python -m stripesim` as a process of its own, on a free port of loopback, for tests that need a socket."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

START = 1_790_000_000
# A healthy process ends in a few milliseconds; this long it may take on a machine with much else to do.
STOP_SECONDS = 60
# Far more than an answer takes, also of a large audit on a busy machine.
ANSWER_SECONDS = 60.0


class Server:
    """A simulator in another process. Its clock stands until `move` is called, unless `start` is `None`.

    Args:
        *flags: Further flags of the command.
        start: Where its clock stands, in epoch seconds.
    """

    def __init__(self, *flags: str, start: int | None = START) -> None:
        """Keep the command; `with` starts it."""
        clock = [] if start is None else ["--start", str(start)]
        self.command = [sys.executable, "-m", "stripesim", "--port", "0", *clock, *flags]
        self.first: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait for its first line: then it listens."""
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise AssertionError(f"the simulator ended with {self._process.returncode}: {errors}")
        self.first = json.loads(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and see that it ended well."""
        assert self._process is not None
        self._process.terminate()
        _, errors = self._process.communicate(timeout=STOP_SECONDS)
        assert self._process.returncode == 0, f"the simulator ended with {self._process.returncode}: {errors}"

    @property
    def url(self) -> str:
        """Tell its address."""
        return str(self.first["address"])

    @property
    def account(self) -> str:
        """Tell the platform's account."""
        return str(self.first["account"])

    def control(self, operation: str, body: Any = None) -> Any:
        """Call the control API, `POST /_sim/clock`; tells the JSON that it answered.

        Raises:
            AssertionError: It was refused.
        """
        method, path = operation.split(" ")
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, raw, {"Content-Type": "application/json"}, method=method)  # noqa: S310  # loopback
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310  # loopback
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise AssertionError(f"{operation}: {refusal.code} {refusal.read().decode()}") from refusal

    def move(self, seconds: float) -> None:
        """Let its time pass, and what falls due happen."""
        self.control("POST /_sim/clock", {"move_seconds": seconds})

    @contextmanager
    def turning_away(self, *, after: int) -> Iterator[None]:
        """Make so many refunds, and turn away each further call until the end: whoever pays is in the middle for so long, however slow the machine is.

        It is a limit of the charge's own: it cuts no pace and leaves nothing in doubt, and half a second later the row is sent again.
        """
        rule = {"kind": "rate_limit", "reason": "resource-specific", "operation": "POST /v1/refunds", "skip": after}
        self.control("POST /_sim/faults", {"rules": [rule]})
        try:
            yield
        finally:
            self.control("DELETE /_sim/faults")

    def remember(self) -> None:
        """Keep the state to go back to."""
        self.control("POST /_sim/snapshots/clean", {})

    def forget(self) -> None:
        """Go back to the state that was kept."""
        self.control("POST /_sim/snapshots/clean/restore", {})
