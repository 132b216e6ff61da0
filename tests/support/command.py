"""Runs `refundry` as a user does: as a process of its own, with settings in its environment."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refundry.cli import main as cli
from tests.support import logs
from tests.support.server import Server

# What runs that long is stuck: on an idle machine a command takes a few seconds, and the whole sample half a minute.
DEADLINE_SECONDS = 240.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Read its one JSON object."""
        assert self.out.count("\n") == 1, f"one line was to be on stdout: {self.out!r} {self.err}"
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Read the error of `--json`."""
        return self.json["error"]


@dataclass
class Installation:
    """A database and a key; any number of processes.

    Args:
        folder: Its state directory.
        url: Where Stripe is; `None` for the real address, which no test may call.
        more: Further settings.
    """

    folder: Path
    url: str | None
    more: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Tell the settings of its processes, and nothing else of ours."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}  # noqa: TID251
        told = {"STRIPE_SECRET_KEY": "sk_test_sim", "REFUNDRY_STATE_DIR": str(self.folder)}
        if self.url is not None:
            told |= {"REFUNDRY_STRIPE__API_BASE": self.url, "REFUNDRY_STRIPE__LIMITS": "none"}
        return {name: value for name, value in (kept | told | self.more).items() if value}

    def start(self, *arguments: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-m", "refundry", *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=before,  # noqa: PLW1509  # tests start one process at a time
        )

    def run(self, *arguments: str, before: Callable[[], None] | None = None) -> Ended:
        """Run a command to its end."""
        return ended(self.start(*arguments, before=before))

    def ask(self, *arguments: str) -> Ended:
        """Ask a command that only reads, or refuses, inside the test's process."""
        return inside(self.environment(), *arguments)


def inside(environment: Mapping[str, str], *arguments: str) -> Ended:
    """Run a command inside this process: starting another one takes longer than the answer of one that only reads, or refuses."""
    kept, out, err = dict(os.environ), io.StringIO(), io.StringIO()  # noqa: TID251  # settings come from there
    os.environ.clear()  # noqa: TID251  # the same
    os.environ.update(environment)  # noqa: TID251  # the same
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(arguments)
    finally:
        os.environ.clear()  # noqa: TID251  # the same
        os.environ.update(kept)  # noqa: TID251  # the same
        # Ours goes to what that command wrote to.
        logs.set_back()
    return Ended(code, out.getvalue(), err.getvalue())


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for a command's end.

    Raises:
        AssertionError: It does not end.
    """
    try:
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {DEADLINE_SECONDS:.0f} s: {out} {err}") from None
    return Ended(process.returncode, out, err)


def wait_for(what: str, true: Callable[[], bool]) -> None:
    """Wait for a condition on another process.

    Raises:
        AssertionError: It did not come true in time.
    """
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < DEADLINE_SECONDS, f"{what} did not happen"
        time.sleep(POLL_SECONDS)  # noqa: TID251  # between two looks at another process


@dataclass
class Shop:
    """A simulator with `size` charges of orders `o0`, `o1`, …, each of 100.00 GBP."""

    server: Server
    size: int

    @classmethod
    def opened(cls, server: Server, size: int) -> Shop:
        """Fill a simulator."""
        charges = [
            {"order_id": f"o{at}", "amount_minor": 10_000, "currency": "gbp", "created": 1_780_000_000 + at}
            for at in range(size)
        ]
        server.control("POST /_sim/settings", {"opening_balance": 10**12})
        server.control("POST /_sim/load", {"charges": charges})
        return cls(server, size)

    def file(self, path: Path, order: list[int] | None = None, **edits: str) -> Path:
        """Write a file with a row for each order: 10.00 plus a penny per number, one ticket each; `o3="7.77"` edits an amount."""
        with path.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["ticket_id", "order_id", "amount", "currency"])
            for at in order if order is not None else range(self.size):
                writer.writerow([f"T-{at}", f"o{at}", edits.get(f"o{at}", f"10.{at:02}"), "gbp"])
        return path

    def refunds(self) -> int:
        """Count the refunds that Stripe has."""
        return sum(len(line["refunds"]) for line in self.server.control("GET /_sim/audit")["charges"])

    def judge(self) -> None:
        """See that every order was refunded exactly once, by Stripe's own books.

        Raises:
            AssertionError: Something was paid double, not paid, or never asked for.
        """
        wanted = [{"charge": f"o{at}", "amount": 1000 + at, "ticket": f"T-{at}"} for at in range(self.size)]
        audit = self.server.control("POST /_sim/audit", {"obligations": wanted})
        told = {name: audit[name] for name in ("problems", "paid_double", "not_paid", "never_asked")}
        assert not any(told.values()), json.dumps(told, indent=1)
        assert audit["paid"] == self.size
