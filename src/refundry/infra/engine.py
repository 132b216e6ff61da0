"""The engine: DBOS delivers wake-ups, and recovers those that were lost with a process. Rows are the truth, never its tables.

A wake-up carries an account and a lane and nothing else. Run twice, the second finds nothing to do; lost, the sweeper enqueues
another. DBOS's limiter, schedules and recovery of work are not used (`docs/adr/0003-rows-are-the-truth.md` says why).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions

from refundry.infra.db import (
    ENGINE_CLIENT_POOL_SIZE,
    ENGINE_POOL_SIZE,
    IDLE_UNIT_SECONDS,
    Database,
    DatabaseUnusable,
    Unit,
    unusable,
)
from refundry.kernel.lane import Lane

# Pinned: by default DBOS hashes the code, and any deployment would strand what is queued.
VERSION = "1"
WAKE = "refundry_wake"
# How many wake-ups one process takes at once, by lane. Each only begins the work of its lane, so that no account waits behind others.
AT_ONCE = 4
# Each look costs some five milliseconds of processor time, and what looks for due rows to wake up for looks once a second.
POLL_SECONDS = {Lane.DESK: 0.25, Lane.BULK: 0.5}
# The sweeper of every process enqueues under the name of the present window, so that one window has one wake-up.
WINDOW_SECONDS = 5.0
KEEP_SECONDS = 3600.0
# DBOS's threads for messages between workflows, which we have none of: on SQLite its end waits for one of them, a second by default, and
# on Postgres another looks a hundred times a second.
IDLE_THREADS_SECONDS = 0.1

Wake = Callable[[str, Lane], None]
# What wake-ups of this process call; set by `Engine.launch`, since DBOS knows functions by name.
_handlers: list[Wake] = []


def _refundry_wake(account: str, lane: str) -> None:
    for handler in _handlers:
        handler(account, Lane(lane))


class Engine:
    """Wake-ups for one process.

    Args:
        database: Ours; DBOS keeps its tables beside ours.
        executor: A name that no other living process has.
    """

    def __init__(self, database: Database, executor: str) -> None:
        """Prepare; nothing runs before `launch`."""
        self._database = database
        self._executor = executor
        self._guard: sa.Connection | None = None
        self._engine: sa.Engine | None = None
        self.client = self._client()

    @property
    def _url(self) -> str:
        # DBOS wants the address without a driver's name.
        return self._database.url.replace("postgresql+psycopg://", "postgresql://")

    def _client(self) -> DBOSClient:
        # Its errors are tracebacks of a full disk or a lost database, which whoever works meets and tells in a sentence.
        logging.getLogger("dbos").setLevel(logging.CRITICAL)
        # Its function for processes that only enqueue does the same, but tells an error on stdout, which is ours.
        with self._in_words():
            DBOS.migrate(self._url)
            if self._database.postgres:
                return DBOSClient(system_database_url=self._url, system_database_pool_size=ENGINE_CLIENT_POOL_SIZE)
            self._engine = _sqlite_engine(self._url)
            return DBOSClient(system_database_engine=self._engine)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            raise unusable(error, self._database.engine.url.render_as_string()) from error

    def launch(self, wake: Wake) -> None:
        """Begin to take wake-ups; `wake` is called in a thread of the engine's, and has to return at once.

        Raises:
            DatabaseUnusable: `executor_taken`: another living process has this name, and would recover this one's work. Others: it
                cannot be written.
        """
        self._take_name()
        _handlers[:] = [wake]
        config = DBOSConfig(
            name="refundry",
            system_database_url=self._url,
            application_version=VERSION,
            executor_id=self._executor,
            run_migrations=True,
            sys_db_idle_transaction_timeout_sec=IDLE_UNIT_SECONDS,
            sys_db_pool_size=ENGINE_POOL_SIZE,
            notification_listener_polling_interval_sec=IDLE_THREADS_SECONDS,
            notification_coalesce_sec=IDLE_THREADS_SECONDS,
            console_log_level="CRITICAL",
        )
        if self._engine is not None:
            config["system_database_engine"] = self._engine
        DBOS(config=config)
        DBOS.workflow(name=WAKE)(_refundry_wake)
        with self._in_words():
            DBOS.launch()
            for lane, seconds in POLL_SECONDS.items():
                DBOS.register_queue(lane.value, worker_concurrency=AT_ONCE, polling_interval_sec=seconds)

    def _take_name(self) -> None:
        """Hold the executor's name on Postgres for as long as this process lives; on SQLite the file lock does."""
        if not self._database.postgres:
            return
        number = int.from_bytes(hashlib.sha256(self._executor.encode()).digest()[:7])
        self._guard = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        taken = self._guard.execute(sa.text("SELECT pg_try_advisory_lock(:number)"), {"number": number}).scalar_one()
        if not taken:
            self._guard.close()
            self._guard = None
            raise DatabaseUnusable(
                f"another process works under the name {self._executor}: give each worker a name of its own",
                code="executor_taken",
            )

    def enqueue(self, unit: Unit, account: str, lane: Lane, name: str) -> None:
        """Enqueue a wake-up in the transaction that makes its rows due. The same name twice is one wake-up."""
        options = EnqueueOptions(
            workflow_name=WAKE, queue_name=lane.value, app_version=VERSION, workflow_id=f"{account}/{lane}/{name}"
        )
        self.client.enqueue_in_transaction(unit.connection, options, account, lane.value)

    def forget_old(self, before_ms: int) -> int:
        """Delete finished wake-ups, which DBOS would keep for ever; tells how many."""
        found = self.client.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"], load_input=False, load_output=False, limit=1000
        )
        old = [w.workflow_id for w in found if (w.created_at or 0) < before_ms]
        if old:
            self.client.delete_workflows(old)
        return len(old)

    def stop(self) -> None:
        """Take no more wake-ups; those that run were told to end by whoever calls this."""
        DBOS.destroy()
        _handlers.clear()
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.client.destroy()
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self._engine is not None:
            self._engine.dispose()


def _sqlite_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: object, _: object) -> None:
        connection.isolation_level = "IMMEDIATE"  # type: ignore[attr-defined]  # sqlite3's own
        for pragma in ("busy_timeout=30000", "foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute("PRAGMA " + pragma)  # type: ignore[attr-defined]  # the same

    return engine
