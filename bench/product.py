"""The product as a user runs it: the `refundry` program in a process of its own, set up by its environment.

It is started by `bench.counted`, which is the same program with one listener that counts commits, and tells the peak of its memory
at its end. The processor time is that of the whole process, in itself and in the system, as the operating system tells it at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import sim

ROOT = Path(__file__).parents[1]
KEPT = {"PATH", "HOME", "LANG"}


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Args:
        code: Its exit code.
        told: What it wrote as `--json`.
        seconds: How long it ran, from its start to its end.
        cpu_seconds: How long it computed.
        peak_megabytes: The most memory that it held; zero of one that was killed.
        commits: How many units it committed that may write; likewise.
    """

    code: int
    told: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    commits: int


@dataclass
class Running:
    """A process that runs."""

    process: subprocess.Popen[bytes]
    began: float
    out: Path

    def end(self) -> Ended:
        """Wait for its end."""
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self.began
        text = self.out.read_text()
        counts = self.out.with_suffix(".counts")
        counted = json.loads(counts.read_text()) if counts.exists() else {}
        return Ended(
            self.process.returncode,
            json.loads(text) if text.startswith("{") else {},
            seconds,
            used.ru_utime + used.ru_stime,
            counted.get("peak_megabytes", 0.0),
            counted.get("commits", 0),
        )


@dataclass
class Product:
    """An installation: one database, any number of processes.

    Args:
        folder: Its state directory.
        address: Stripe's, which is the simulator's.
        limits: What it takes for its limits.
        postgres: The database's address; SQLite in the state directory without.
        more: Further settings.
    """

    folder: Path
    address: str
    limits: str = "none"
    postgres: str | None = None
    more: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Tell the settings of its processes."""
        kept = {name: value for name, value in os.environ.items() if name in KEPT}
        database = {"REFUNDRY_DATABASE_URL": self.postgres} if self.postgres else {}
        settings = {
            "STRIPE_SECRET_KEY": sim.KEY,
            "REFUNDRY_STRIPE__API_BASE": self.address,
            "REFUNDRY_STRIPE__LIMITS": self.limits,
            "REFUNDRY_STATE_DIR": str(self.folder),
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        }
        return kept | settings | database | self.more

    def start(self, *arguments: str) -> Running:
        """Start `refundry` with these arguments."""
        out = self.folder / f"{len(self.processes)}.out"
        log = out.with_suffix(".log")
        command = [sys.executable, "-m", "bench.counted", str(out.with_suffix(".counts")), *arguments]
        with out.open("w") as told, log.open("w") as said:
            began = time.monotonic()
            process = subprocess.Popen(command, env=self.environment(), stdout=told, stderr=said)
        self.processes.append(process)
        return Running(process, began, out)

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Ended:
        """Run `refundry` with these arguments to its end.

        Raises:
            AssertionError: It ended otherwise than it should.
        """
        running = self.start(*arguments)
        return self.checked(running, running.end(), codes)

    def checked(self, running: Running, ended: Ended, codes: tuple[int, ...] = (0,)) -> Ended:
        """See that a process ended as it should."""
        log = running.out.with_suffix(".log").read_text()[-2000:]
        assert ended.code in codes, f"exit {ended.code}: {running.out.read_text()[-500:]} {log}"
        return ended

    def bytes_on_disk(self) -> int:
        """Tell the size of the SQLite database, its write-ahead log included."""
        return sum(path.stat().st_size for path in self.folder.glob("refundry.db*"))


@contextmanager
def product(address: str, *, limits: str = "none", postgres: str | None = None, **more: str) -> Iterator[Product]:
    """Open an installation of its own; `more` are further settings, as `REFUNDRY_PAY__SLICE`."""
    with tempfile.TemporaryDirectory(prefix="refundry-bench-") as folder:
        opened = Product(Path(folder), address, limits, postgres, more)
        try:
            yield opened
        finally:
            for process in opened.processes:
                if process.returncode is None:
                    process.kill()
                    process.wait()
