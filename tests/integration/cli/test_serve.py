"""A server that cannot listen says where, why, and what to choose instead; one whose Postgres is away goes on once it is back."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refundry.cli import work as work_of
from refundry.cli.serving import until_interrupted
from refundry.cli.work import Work, working
from refundry.infra import loop
from refundry.infra import settings as settings_of
from refundry.infra.db import DatabaseUnusable
from refundry.worker import catch_up, follower
from refundry.worker.catch_up import CatchUp
from refundry.worker.follower import Follower
from refundry.worker.main import Worker
from tests.integration.cli.conftest import Run
from tests.support import logs
from tests.support.database import PostgresServer
from tests.support.server import Server

pytestmark = pytest.mark.integration
DEADLINE_SECONDS = 60.0


def test_a_port_that_is_taken_is_named(refundry: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = refundry("serve", "--port", str(port))
    assert told.code == 2
    assert f"error: 127.0.0.1:{port} cannot be listened on (Address already in use): choose another --port" in told.err
    assert "[port_taken]" in told.err
    assert not (tmp_path / "state").exists()


def test_a_host_that_is_not_this_machine_is_named(refundry: Run) -> None:
    told = refundry("serve", "--host", "192.0.2.1", "--port", "0")
    assert told.code == 2
    assert "error: --host 192.0.2.1 is no IPv4 address of this machine" in told.err
    assert "[host_wrong]" in told.err


@pytest.fixture
def away(stripe: Server, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Postgres that a process of these settings uses, and that can be taken down."""
    with postgres.made() as address:
        for name, value in {
            "STRIPE_SECRET_KEY": "sk_test_sim",
            "REFUNDRY_STRIPE__API_BASE": stripe.url,
            "REFUNDRY_STATE_DIR": str(tmp_path / "state"),
            "REFUNDRY_DATABASE_URL": address,
        }.items():
            monkeypatch.setenv(name, value)
        yield address
    logging.getLogger("dbos").handlers.clear()
    logs.set_back()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a process that stays looks for itself: `began`, and `failed` where the database was away."""
    held_accounts, seen = Work.held_accounts, list[str]()

    async def looked(work: Work) -> dict[str, str]:
        seen.append("began")
        try:
            return await held_accounts(work)
        except DatabaseUnusable:
            seen.append("failed")
            raise

    monkeypatch.setattr(Work, "held_accounts", looked)
    return seen


async def until_true(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not true():  # noqa: ASYNC110  # what is waited for is in other threads
            await asyncio.sleep(0.01)


def test_a_process_that_stays_outlives_a_postgres_that_is_away_for_longer_than_a_command_waits(
    away: str, postgres: PostgresServer, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is a minute, of tries a second apart.
    monkeypatch.setattr(work_of, "LOST_SECONDS", 0)

    async def go() -> bool:
        async with working(settings_of.read(), every=True) as work:
            staying = asyncio.create_task(until_interrupted(work, None))
            await work.worker.executing.wait()
            with postgres.down(away):
                await until_true(lambda: looks.count("failed") > 1 or staying.done())
            stays = not staying.done()
            work.interrupt()
            await staying
            return stays

    assert loop.run(go())


def test_a_process_that_stays_ends_when_it_is_told_to_though_postgres_is_away(
    away: str, postgres: PostgresServer, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wait that nobody would see the end of.
    monkeypatch.setattr(work_of, "LOST_SECONDS", 10**6)

    async def go() -> None:
        async with working(settings_of.read(), every=True) as work:
            staying = asyncio.create_task(until_interrupted(work, None))
            await work.worker.executing.wait()
            with postgres.down(away):
                before = looks.count("began")
                await until_true(lambda: looks.count("began") > before)
                work.interrupt()
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await staying

    loop.run(go())


def test_a_postgres_that_is_away_is_said_once_and_so_is_that_it_is_back(
    away: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failed, said = Counter[str](), list[str]()

    def counted(where: type, name: str) -> None:
        real = getattr(where, name)

        async def tried(*given: Any) -> Any:
            try:
                return await real(*given)
            except DatabaseUnusable:
                failed[where.__name__] += 1
                raise

        monkeypatch.setattr(where, name, tried)

    for where, name in ((Worker, "_swept"), (Follower, "turn"), (CatchUp, "turn")):
        counted(where, name)
    # Else the third try comes a minute after the first.
    for module in (follower, catch_up):
        monkeypatch.setattr(module, "LOST_SECONDS", 0.1)

    def told(what: str) -> int:
        said.append(capfd.readouterr().out)
        return "".join(said).count(what)

    async def go() -> None:
        async with working(settings_of.read(), every=True) as work:
            await work.worker.executing.wait()
            with postgres.down(away):
                await until_true(lambda: len(failed) == 3 and min(failed.values()) >= 3)
            await until_true(lambda: told("database.found") == 1)

    loop.run(go())
    counts = {what: told(what) for what in ("database.lost", "follow.interrupted", "catch_up.interrupted")}
    # A connection that is cut off in the middle is another trouble than a server that is not there.
    assert counts["database.lost"] == 1
    assert all(count <= 2 for count in counts.values()), counts
