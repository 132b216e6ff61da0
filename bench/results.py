"""Where figures are kept: one JSON file for each measurement, with the machine and the commit that they come from."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Tell what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = sum(line.startswith("processor") for line in lines)
    return {"cpu": cpu, "cores": cores, "system": platform.platform(terse=True), "python": platform.python_version()}


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
        "machine": machine(),
        "figures": figures,
    }
    path.write_text(json.dumps(told, indent=2) + "\n")
    return path
