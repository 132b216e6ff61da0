"""`--account`, for commands that are about one account."""

from __future__ import annotations

from typing import Annotated

import typer

AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="ACCT",
        help="Which account: acct_…, the beginning of it, or its name in the settings. Only needed with several.",
    ),
]
