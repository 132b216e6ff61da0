"""How long a person waits: for `refundry --help`, and for `refundry serve` to say that it is ready. Medians of several runs."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bench import results
from bench.product import Product, product
from bench.shop import shop

HELPS, SERVES = 9, 5
HELP_SECONDS, SERVE_SECONDS = 0.4, 2.0
LOOK_SECONDS, PATIENCE_SECONDS = 0.005, 60


def helped() -> float:
    """Time one `refundry --help`, as the installed program."""
    program = Path(sys.executable).with_name("refundry")
    began = time.monotonic()
    subprocess.run([program, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def served(house: Product) -> float:
    """Time one `refundry serve` until its `/health` answers 200."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = house.start("serve", "--port", str(port))
    try:
        while not healthy(port):
            assert time.monotonic() - running.began < PATIENCE_SECONDS, running.out.with_suffix(".log").read_text()
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - running.began
    finally:
        running.process.terminate()
        running.process.wait()


def healthy(port: int) -> bool:
    """Tell whether a server answers that all is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main(*_: str) -> None:
    """Measure, print, and keep."""
    helps = sorted(helped() for _ in range(HELPS))
    with shop(1) as opened, product(opened.address) as house:
        # The first start makes the database.
        first = served(house)
        serves = sorted(served(house) for _ in range(SERVES))
    figures = {
        "help_seconds": [round(seconds, 3) for seconds in helps],
        "serve_seconds": [round(seconds, 3) for seconds in serves],
        "serve_first_seconds": round(first, 3),
    }
    aims = [
        results.Aim("refundry --help, median seconds", round(statistics.median(helps), 3), most=HELP_SECONDS),
        results.Aim(
            "refundry serve, median seconds until ready", round(statistics.median(serves), 3), most=SERVE_SECONDS
        ),
    ]
    results.write("startup", {**figures, "aims": results.show(aims)})
