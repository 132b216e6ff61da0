"""`refundry sim`: the Stripe simulator alone, for trials and for programs of one's own."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

app = typer.Typer(help="The Stripe simulator.", no_args_is_help=True)


@app.command("serve", epilog="example: refundry sim serve --port 12111 --limits sandbox --load online-retail")
def serve(
    *,
    port: Annotated[int, typer.Option(help="Where it listens on this machine; 0 takes a free port.")] = 12111,
    seed: Annotated[int, typer.Option(help="What ids and every chance are derived from.")] = 1,
    limits: Annotated[str, typer.Option(help="live, sandbox, none, or global=100,endpoint=25.")] = "none",
    load: Annotated[
        str | None, typer.Option(metavar="FILE", help="Charges to begin with: a CSV file, or online-retail.")
    ] = None,
    state: Annotated[str | None, typer.Option(metavar="FILE", help="Keep its state here, and go on with it.")] = None,
) -> None:
    """Run the simulator until Ctrl-C; the key is sk_test_sim. It moves no money."""
    flags = ["--port", str(port), "--seed", str(seed), "--limits", limits]
    flags += ["--load", load] if load else []
    flags += ["--state", state] if state else []
    sys.stdout.flush()
    # This process becomes the simulator, so that whoever ends it ends that.
    os.execv(sys.executable, [sys.executable, "-m", "stripesim", *flags])  # noqa: S606  # our own program
