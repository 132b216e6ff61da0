"""`refundry serve` and `refundry worker`: processes that stay, and pay whatever falls due."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    *,
    host: Annotated[
        str, typer.Option(help="Where it listens; others than loopback are reached from outside.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 takes a free one.")] = 8080,
) -> int:
    """Work, and answer /health and /metrics, until Ctrl-C."""
    from refundry.cli import serving, session

    return serving.run(session.settings(), serving.Address(host, port))


def worker() -> int:
    """Work until Ctrl-C, beside others: on Postgres any number work at once; on SQLite one works and the others take over."""
    from refundry.cli import serving, session

    return serving.run(session.settings(), None)
