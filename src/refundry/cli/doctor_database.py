"""What the doctor sees of the database, and of the work that stands in it. It is opened so that nothing can be changed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from refundry import bootstrap, migrations
from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState
from refundry.cli import doctor_machine, doctor_waits, output, session
from refundry.cli.doctor_findings import Area, Finding, Level, of_error
from refundry.inbox import service as inbox
from refundry.inbox.model import Source
from refundry.infra import inspection
from refundry.infra.db import PROCESS_CONNECTIONS_MAX, Unit
from refundry.infra.inspection import Inspected, PostgresFacts
from refundry.infra.settings import Settings
from refundry.kernel.clock import SystemClock
from refundry.kernel.errors import RefundryError
from refundry.refunds import service as refunds
from refundry.refunds.model import State

WHY = "everything is kept there"
# Older servers are out of support since November 2024, and nobody tries Refundry with them.
POSTGRES_MIN = 130_000
# A sweeper wakes every second, so what has been due for a minute has nobody who works on it.
OVERDUE_SECONDS = 60.0
NAMED_MAX = 3


@dataclass(slots=True)
class Seen:
    """What was seen.

    Args:
        findings: In the order to be told.
        accounts: Whom the database belongs to.
        ahead: How far the database's clock is ahead of ours, in seconds; `None` where that was not seen or cannot differ.
        webhook_ages: How many seconds ago the last event came by webhook, by the account's name; without those that none came for.
    """

    findings: list[Finding] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    ahead: float | None = None
    webhook_ages: dict[str, float] = field(default_factory=dict)


def look(settings: Settings) -> Seen:
    """Look at the database, as far as it can be read."""
    seen = Seen()
    try:
        file = doctor_machine.database_file(settings)
        if file is not None:
            seen.findings += _sqlite(settings, file)
            # Of a folder that may not be looked into, even that a file exists cannot be asked.
            if any(finding.level is Level.WRONG for finding in seen.findings) or not file.exists():
                return seen
        database = Inspected(settings.database, SystemClock())
    except RefundryError as error:
        seen.findings.append(of_error(Area.DATABASE, "database", error, WHY))
        return seen
    try:
        _tables(settings, database, seen)
    except RefundryError as error:
        seen.findings.append(of_error(Area.DATABASE, "database", error, WHY))
    finally:
        database.close()
    return seen


def _tables(settings: Settings, database: Inspected, seen: Seen) -> None:
    facts: PostgresFacts | None = None
    if database.postgres:
        with database.reading() as unit:
            facts = inspection.postgres_facts(unit)
        seen.ahead = database.offset
        seen.findings += _postgres(facts)
    found = migrations.version(database)
    with database.reading() as unit:
        others = migrations.others_tables(unit)
    seen.findings.append(_of_others(others) if others else _schema(found))
    if others or found != migrations.newest():
        return
    with database.reading() as unit:
        seen.accounts = accounts.known(unit)
        executing = _workers(settings, facts)
        seen.findings.append(executing)
        for account in seen.accounts:
            about = session.about(account.id, several=len(seen.accounts) > 1)
            seen.findings += _work(unit, account, about, nobody=executing.code == "nobody_executes")
            seen.findings += doctor_waits.of_account(unit, account, settings, about)
            last = inbox.last_received(unit, account.name, Source.WEBHOOK)
            if last is not None:
                seen.webhook_ages[account.name] = unit.now - last
        seen.findings += _breaks(unit)
        seen.findings += doctor_waits.of_messages(unit, settings)


# The database itself


def _sqlite(settings: Settings, file: Path) -> Iterator[Finding]:
    try:
        place = inspection.place_of(file)
        if place.network:
            yield Finding(
                Area.DATABASE, "database", f"{file} lies on a network file system ({place.kind})", Level.WRONG, "database_on_network",
                "locks do not hold there from one machine to another: two workers could execute at once, and the file can be damaged",
                "set REFUNDRY_STATE_DIR to a local disk, or REFUNDRY_DATABASE_URL to a Postgres",
            )  # fmt: skip
        if not file.exists():
            yield Finding(Area.DATABASE, "database", f"SQLite, {file} (made at first use)")
            return
        if file.parent != settings.folder:
            yield doctor_machine.disk(place)
        ahead = inspection.written_ahead(file)
        if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)):
            yield Finding(
                Area.DATABASE, "database", f"{file} can only be read by this user", Level.WRONG, "database_read_only",
                "nothing can be accepted or paid", f"make it writable, with its folder: chmod u+w {shlex.quote(str(file))}",
            )  # fmt: skip
            return
    except OSError as error:
        said = f"{file} cannot be read ({error.strerror})"
        yield Finding(
            Area.DATABASE, "database", said, Level.WRONG, "database_unreachable", WHY, "make it readable for this user"
        )
        return
    # Every process of ours opens it with synchronous=FULL, which is a matter of the process and not of the file.
    said = f"SQLite, {file}, written through to the disk at every commit"
    if ahead:
        yield Finding(Area.DATABASE, "database", said)
    else:
        yield Finding(
            Area.DATABASE, "database", f"{said}, without a write-ahead log", Level.NOTE, "database_journal",
            "who reads and who writes wait for each other", "nothing: the next command turns it on, unless the disk cannot do it",
        )  # fmt: skip


def _postgres(facts: PostgresFacts) -> Iterator[Finding]:
    yield Finding(
        Area.DATABASE,
        "database",
        f"Postgres {facts.version}, time zone {facts.timezone} (of no matter: times are kept in UTC)",
    )
    if facts.number < POSTGRES_MIN:
        yield Finding(
            Area.DATABASE, "database", f"Postgres {facts.version} is out of support", Level.WARNING, "database_version",
            "Refundry is not tried with it", "upgrade the server to a version that is supported",
        )  # fmt: skip
    if facts.standby:
        yield Finding(
            Area.DATABASE, "database", "this server is a standby: it can only be read", Level.WRONG, "database_read_only",
            "nothing can be accepted or paid", "set REFUNDRY_DATABASE_URL to the primary server",
        )  # fmt: skip
    if facts.read_only:
        yield Finding(
            Area.DATABASE, "database", "default_transaction_read_only is on: it can only be read", Level.WRONG, "database_read_only",
            "nothing can be accepted or paid", _reset(facts, "default_transaction_read_only", "off", facts.read_only),
        )  # fmt: skip
    for name, source in facts.unsafe.items():
        yield Finding(
            Area.DATABASE, "durability", f"{name} is off", Level.WRONG, "database_not_durable",
            "a power cut can take back what was committed: a refund could be sent whose attempt nobody remembers",
            _reset(facts, name, "on", source),
        )  # fmt: skip
    if not facts.unsafe:
        yield Finding(Area.DATABASE, "durability", "what is committed is on the disk")
    free = facts.connections_max - facts.connections_used
    said = f"{facts.connections_used} of {facts.connections_max} in use; a worker takes up to {PROCESS_CONNECTIONS_MAX}"
    if free >= PROCESS_CONNECTIONS_MAX:
        yield Finding(Area.DATABASE, "connections", said)
    else:
        yield Finding(
            Area.DATABASE, "connections", said, Level.WARNING, "database_connections", "one more worker may find no connection, and wait",
            "raise max_connections, or run fewer workers",
        )  # fmt: skip


def _reset(facts: PostgresFacts, name: str, value: str, source: str) -> str:
    """Tell the statement that mends a setting: one of a role or a database stands above the server's own."""
    if source == "command line":
        return f"start the server without {name} on its command line"
    reset = {
        "global": "ALTER ROLE ALL",
        "database": f"ALTER DATABASE {facts.database}",
        "user": f"ALTER ROLE {facts.role}",
        "database user": f"ALTER ROLE {facts.role} IN DATABASE {facts.database}",
    }.get(source)
    said = f"{reset} RESET {name};" if reset else f"ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();"
    return f"as its administrator: {said}"


def _of_others(tables: list[str]) -> Finding:
    return Finding(
        Area.DATABASE, "version", f"there are tables of another program where ours would be: {_list(tables[:NAMED_MAX], len(tables))}",
        Level.WRONG, "database_of_other_program", "Refundry leaves them alone, and keeps nothing there",
        "set REFUNDRY_DATABASE_URL to a database for Refundry alone",
    )  # fmt: skip


def _schema(found: str | None) -> Finding:
    newest = migrations.newest()
    if found == newest:
        return Finding(Area.DATABASE, "version", f"{found}, as this program needs it")
    if found is None:
        return Finding(Area.DATABASE, "version", "none yet; the next command makes the tables")
    if found in migrations.known():
        said = f"{found}; this program needs {newest}"
        why = "workers of an older Refundry stop when the tables change under them"
        do = "end them, then: refundry db upgrade (any other command upgrades too)"
        return Finding(Area.DATABASE, "version", said, Level.NOTE, "database_older", why, do)
    said, why = f"{found} is of a newer Refundry", "this program does not know what stands in it, and leaves it alone"
    return Finding(Area.DATABASE, "version", said, Level.WRONG, "database_newer", why, "start the newer Refundry")


# The work in it


def _workers(settings: Settings, facts: PostgresFacts | None) -> Finding:
    nobody = Finding(
        Area.WORK, "worker", "nobody executes at the moment", Level.NOTE, "nobody_executes",
        "what waits is paid by the next command that pays, or by a process that stays", "refundry serve, or refundry worker",
    )  # fmt: skip
    if facts is not None:
        hosts = sorted({host or "the server's own machine" for host in facts.workers})
        told = "1 process" if len(facts.workers) == 1 else f"{len(facts.workers)} processes"
        return Finding(Area.WORK, "worker", f"{told} executing, connected from {', '.join(hosts)}") if hosts else nobody
    lock = bootstrap.lock_of(settings)
    if lock is None or not lock.taken():
        return nobody
    return Finding(
        Area.WORK, "worker", f"process {lock.holder() or '?'} executes; others watch, and take over when it ends"
    )


def _work(unit: Unit, account: Account, about: str, *, nobody: bool) -> Iterator[Finding]:
    name = account.name
    if account.held_text:
        yield Finding(
            Area.WORK, "account", f"{account.id} ({account.mode}) is held: {account.held_text}", Level.WRONG, "key_refused",
            "nothing of it is paid", "mend the key in every process on this database, then start one of them again, or run the command again",
        )  # fmt: skip
    else:
        yield Finding(Area.WORK, "account", f"{account.id} ({account.mode})")
    count = refunds.counts(unit, name)
    waiting = sum(
        count.get(state, 0) for state in (State.RECEIVED, State.AWAITING_APPROVAL, State.APPROVED, State.SUBMITTING)
    )
    leased = refunds.leased(unit, name)
    said = f"{output.counted(sum(count.values()), 'request')}, {output.number(waiting)} waiting, {output.number(leased)} worked on now"
    overdue = _overdue(unit, name) if nobody and not leased else ""
    if overdue:
        yield Finding(
            Area.WORK, "requests", f"{said}; nobody {overdue}", Level.WARNING, "work_overdue",
            "accepted refunds are not paid", "refundry worker, or run the same batch again",
        )  # fmt: skip
    else:
        yield Finding(Area.WORK, "requests", said)
    yield from _stuck(unit, account, count, about)


def _overdue(unit: Unit, account: str) -> str:
    """Tell what nobody does though it is due; empty, if nothing is."""
    before = unit.now - OVERDUE_SECONDS
    due = refunds.next_due(unit, account)
    since = [batch.created_at for batch in batches.every(unit, account, [BatchState.ACCEPTED])]
    since = [at for at in [*since, *([] if due is None else [due])] if at < before]
    if since:
        return f"works on what has been due since {output.moment(min(since))}"
    # Rows in line have no time of their own: a process that executes gives each its turn.
    running = batches.every(unit, account, [BatchState.RUNNING])
    named = [f"{batch.id[:8]} ({batch.name})" for batch in running if _turn_has_come(unit, batch, before)]
    return f"sends what is due by its schedule: batch {_list(named[:NAMED_MAX], len(named))}" if named else ""


def _turn_has_come(unit: Unit, batch: Batch, before: float) -> bool:
    """Tell whether rows of a batch wait in line though its schedule lets them go."""
    if batch.schedule is None or max(batch.created_at, batch.schedule.start_at or 0) >= before:
        return False
    outlook = batches.outlook(unit, batch)
    return outlook is not None and outlook.due and batches.totals(unit, batch).in_line > 0


def _stuck(unit: Unit, account: Account, count: dict[State, int], about: str) -> Iterator[Finding]:
    if unknown := count.get(State.OUTCOME_UNKNOWN, 0):
        named = [
            request.id
            for _, request in refunds.page(unit, account.name, [State.OUTCOME_UNKNOWN], after=0, most=NAMED_MAX)
        ]
        yield Finding(
            Area.WORK, "unknown", f"{output.counted(unknown, 'request')} with an unknown outcome: {_list(named, unknown)}", Level.WARNING,
            "outcome_unknown", "Stripe may or may not have paid them, and nothing is sent again before a person has looked",
            f"refundry task list --kind outcome_unknown{about}",
        )  # fmt: skip
    paused = batches.every(unit, account.name, [BatchState.PAUSED])
    if paused:
        # Nobody has asked for a halt, so it is told first.
        paused.sort(key=lambda batch: not batch.course.halted)
        named = [
            f"{batch.id} ({batch.name}){f', halted: {batch.course.halted}' if batch.course.halted else ''}"
            for batch in paused[:NAMED_MAX]
        ]
        level = Level.WARNING if paused[0].course.halted else Level.NOTE
        yield Finding(
            Area.WORK, "paused", f"{len(paused)} paused: {_list(named, len(paused))}", level, "batch_paused",
            "its rows wait until it is resumed", f"refundry batch resume {paused[0].id}, or withdraw",
        )  # fmt: skip


def _breaks(unit: Unit) -> Iterator[Finding]:
    breaks = refunds.open_breaks(unit)
    if breaks:
        request, first = breaks[0]
        said = f"{output.counted(len(breaks), 'place')} where our books and Stripe's differ; the first: {first.text} [{first.code}]"
        why = "money may have been paid twice, or to nobody's order"
        yield Finding(Area.WORK, "breaks", said, Level.WARNING, "break_open", why, f"refundry refund show {request}")


def _list(named: list[str], count: int) -> str:
    return ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")
