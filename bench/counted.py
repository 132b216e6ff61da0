"""The `refundry` program, with its commits counted: `python -m bench.counted FILE batch run …`.

FILE gets the count, and the most memory that it held, at its end, as JSON. Counted is every commit of a unit that may write; those of
units that only read, and those of the wake-up engine, are not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sqlalchemy as sa

from bench.memory import peak_megabytes
from refundry.cli.main import run
from refundry.infra.http import unit_open


def main(arguments: list[str]) -> None:
    """Count, and run the command."""
    path, count = Path(arguments[0]), 0

    @sa.event.listens_for(sa.Engine, "commit")
    def committed(connection: sa.Connection) -> None:
        nonlocal count
        count += unit_open.get() and not connection.get_execution_options().get("refundry_reads", False)

    sys.argv = ["refundry", *arguments[1:]]
    try:
        run()
    finally:
        path.write_text(json.dumps({"commits": count, "peak_megabytes": peak_megabytes()}))


if __name__ == "__main__":
    main(sys.argv[1:])
