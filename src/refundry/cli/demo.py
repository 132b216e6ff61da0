"""`refundry demo`: the simulator with a real shop's half year, the sample batch, and the proof that the books agree."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.output import AsJson


def demo(
    *,
    once: Annotated[bool, typer.Option("--once", help="End when the batch is done; keep nothing.")] = False,
    rows: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first rows of the sample.")] = None,
    seed: Annotated[int, typer.Option(help="What the simulator's ids are derived from.")] = 1,
    limits: Annotated[
        str, typer.Option(help="Stripe's pace: live, sandbox, none, or global=100,endpoint=25.")
    ] = "none",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where /health and /metrics are, if it stays.")] = 8080,
    as_json: AsJson = False,
) -> int:
    """Pay a real shop's credit notes in a simulator, and compare the books. No money moves."""
    from refundry.cli import demo_run

    return demo_run.run(demo_run.Wanted(once=once, rows=rows, seed=seed, limits=limits, port=port), as_json=as_json)
