"""Stripe loses answers, fails, limits and forgets, and people do the same work by hand.

Nothing is paid twice, nothing is left out, and the report tells the truth about every row. The cases are in
`tests/support/fault_run.py`; over 2,000 rows, each on both databases: `make soak ARGS="faults"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fault_run
from tests.support.database import PostgresServer
from tests.support.fault_run import CASES, Case

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROWS = 40
KINDS = ("sqlite", "postgres")


def _small() -> Iterator[object]:
    """Alternate the databases; the most dangerous cases are run on both."""
    for at, case in enumerate(CASES):
        for kind in KINDS if case.both else (KINDS[at % len(KINDS)],):
            yield pytest.param(case, kind, id=f"{case.name}-{kind}")


@pytest.mark.parametrize(("case", "kind"), list(_small()))
def test_every_row_is_paid_once_and_told_as_it_is(
    tmp_path: Path, case: Case, kind: str, request: pytest.FixtureRequest
) -> None:
    server: PostgresServer | None = request.getfixturevalue("postgres") if kind == "postgres" else None
    fault_run.play(case, tmp_path, ROWS, seed=31, server=server)
