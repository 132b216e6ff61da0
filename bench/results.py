"""Where figures are kept: one JSON file for each measurement, with the machine and the commit that they come from."""

import hashlib
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "results"
STEADY_SECONDS, STEADY_HASHES, STEADY_BODY, SLOW = 3.0, 600, b"x" * 1500, 1.5


@dataclass(frozen=True)
class Aim:
    """What a figure should be, and what it was. Nothing fails by it: other work on the machine would make it fail.

    Args:
        name: What is measured.
        reached: The figure.
        least: It should be at least this.
        most: It should be at most this.
    """

    name: str
    reached: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """Tell whether it is as it should be."""
        return (self.least is None or self.reached >= self.least) and (self.most is None or self.reached <= self.most)

    def told(self) -> dict[str, Any]:
        """Tell it for the file of figures."""
        aim = {"at_least": self.least} if self.least is not None else {"at_most": self.most}
        return {"name": self.name, **aim, "reached": self.reached, "met": self.met}


def show(aims: Sequence[Aim]) -> list[dict[str, Any]]:
    """Print the aims and what was reached; tells them for the file of figures."""
    words = [
        (
            a.name,
            f"at least {a.least:g}" if a.least is not None else f"at most {a.most:g}",
            f"{a.reached:g}",
            "" if a.met else "missed",
        )
        for a in aims
    ]
    table(("", "aim", "reached", ""), words)
    return [aim.told() for aim in aims]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a small table."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        first, rest = (
            line[0].ljust(widths[0]),
            [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)],
        )
        print("  ".join([first, *rest]).rstrip())


def machine() -> dict[str, Any]:
    """Tell what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = sum(line.startswith("processor") for line in lines)
    return {"cpu": cpu, "cores": cores, "system": platform.platform(terse=True), "python": platform.python_version()}


def steadiness() -> dict[str, float]:
    """Tell how steadily the machine computes when nothing else does: a virtual one may be held up, and all that is timed on it with it.

    The same piece of work, of about a millisecond, again and again for some seconds: the share of the time that went to pieces which
    took half as long again as the middle one, and how many times as long the longest took.
    """
    took: list[float] = []
    ends = time.perf_counter() + STEADY_SECONDS
    while (began := time.perf_counter()) < ends:
        for _ in range(STEADY_HASHES):
            hashlib.sha256(STEADY_BODY).digest()
        took.append(time.perf_counter() - began)
    middle = statistics.median(took)
    slow = sum(seconds for seconds in took if seconds > SLOW * middle)
    return {"held_up_share": round(slow / sum(took), 3), "longest_of_middle": round(max(took) / middle, 1)}


def commit() -> str:
    """Tell the commit, with a plus when the tree differs from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "src", "bench"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


def write(name: str, figures: dict[str, Any]) -> Path:
    """Keep the figures of one measurement; the last run wins."""
    HERE.mkdir(exist_ok=True)
    path = HERE / f"{name}.json"
    told = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine() | {"steadiness": steadiness()},
        "figures": figures,
    }
    path.write_text(json.dumps(told, indent=2) + "\n")
    return path
