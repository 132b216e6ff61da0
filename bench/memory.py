"""How much memory a process took."""

from __future__ import annotations

from pathlib import Path

KIBIBYTES_PER_MEGABYTE = 1024


def peak_megabytes(process: int | None = None) -> float:
    """Tell the most memory that a process that runs ever held, in MB; this one's without an id.

    What the system tells of a process at its end (`ru_maxrss`) begins with the most that its starter had held.
    """
    status = Path(f"/proc/{process or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / KIBIBYTES_PER_MEGABYTE, 1)
