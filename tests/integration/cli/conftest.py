"""Runs commands inside the test, against a simulator in a process of its own."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from refundry.cli.main import main
from tests.support import logs
from tests.support.server import Server

Run = Callable[..., "Told"]
# A process builds its commands once; built anew for each of the many that a test process runs, that is a fifth of their time.
built = cache(typer.main.get_command)
# They see first whether they may, before they make a database.
LOOK_FIRST = {"doctor", "serve"}


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return self.json["error"]


@pytest.fixture(scope="module")
def stripe() -> Iterator[Server]:
    with Server(start=None) as server:
        server.control("POST /_sim/settings", {"opening_balance": 10**12})
        charges = [
            {"order_id": f"o{at}", "amount_minor": 10_000, "currency": "gbp", "created": 1_780_000_000 + at}
            for at in range(12)
        ]
        server.control("POST /_sim/load", {"charges": charges})
        server.remember()
        yield server


@pytest.fixture
def refundry(
    stripe: Server,
    tmp_path: Path,
    sqlite_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Run a command; further settings by name, `None` takes one away."""
    stripe.forget()
    state = tmp_path / "state"
    monkeypatch.setattr(typer.main, "get_command", built)
    usual = {
        "STRIPE_SECRET_KEY": "sk_test_sim",
        "REFUNDRY_STRIPE__API_BASE": stripe.url,
        "REFUNDRY_STRIPE__LIMITS": "none",
        "REFUNDRY_STATE_DIR": str(state),
    }

    def run(*arguments: str, **settings: str | None) -> Told:
        if arguments and arguments[0] not in LOOK_FIRST and not state.exists():
            # Others begin with an upgrade of an empty database, which `tests/integration/migrations` and the processes of `tests/e2e` try.
            state.mkdir(mode=0o700)
            shutil.copyfile(sqlite_file, state / "refundry.db")
        with monkeypatch.context() as patch:
            for name, value in {**usual, **settings}.items():
                patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
            capfd.readouterr()
            code = main(arguments)
        # The engine logs to the standard error of its first start, which was that command's.
        logging.getLogger("dbos").handlers.clear()
        # Ours goes to the standard error of that command, which is closed with the test.
        logs.set_back()
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return Told(code, out, err)

    return run


@pytest.fixture
def refunds_of(stripe: Server) -> Callable[[], int]:
    """Count the refunds that Stripe has."""
    return lambda: sum(len(line["refunds"]) for line in stripe.control("GET /_sim/audit")["charges"])
