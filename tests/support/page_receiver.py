"""The receiver of the docs as a process, run as a reader would run it."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import ports
from tests.support.command import wait_for
from tests.support.page_code import python_of

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # opens only this receiver


@contextlib.contextmanager
def receiver(folder: Path) -> Iterator[str]:
    """Run the receiver of the docs; tells its address."""
    program = folder / "receiver.py"
    program.write_text(python_of("docs/features/orders.md", "By a call"))
    with ports.kept() as port:
        with (folder / "receiver.log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603  # the docs' own program
                [sys.executable, str(program), SECRET, str(port)], cwd=folder, stdout=log, stderr=log
            )
        try:
            # Whoever tells it before would take it for down, and rest.
            wait_for("the receiver of the docs", lambda: answers(port) or process.poll() is not None)
            assert process.poll() is None, (folder / "receiver.log").read_text()
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Tell whether somebody listens at a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def asked(folder: Path, query: str) -> list[tuple[object, ...]]:
    """Ask the receiver's database."""
    with contextlib.closing(sqlite3.connect(folder / "shop.db", timeout=30)) as shop:
        try:
            return shop.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # it has not made its tables yet
