"""The statements on events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.inbox.model import TRIES_MAX, Event, Key, Search, Source, State
from refundry.inbox.rules import STRANGE
from refundry.inbox.tables import inbox_events
from refundry.infra.db import Hot, Unit

t = inbox_events.c
_b = sa.bindparam
NAMES = tuple(column.name for column in inbox_events.c)
BARE = tuple(column for column in inbox_events.c if column.name != "raw")
# SQLite binds some thirty thousand values to a statement.
IDS_MAX = 1000


def _insert(*, postgres: bool) -> Any:  # noqa: ANN401  # each database has a class of its own
    make: Any = postgresql.insert(inbox_events) if postgres else sqlite.insert(inbox_events)
    return make.on_conflict_do_nothing(index_elements=["account", "id"])


_ADD = {postgres: Hot(_insert(postgres=postgres)) for postgres in (False, True)}
_TOLD = {postgres: _insert(postgres=postgres).returning(t.id) for postgres in (False, True)}
_PUT_IN = "new_"


def _begins(column: sa.ColumnElement[str], begin: str) -> sa.ColumnElement[bool]:
    # Written out, since what goes to the driver as it is has no values but those of its rows.
    first: sa.ColumnElement[int] = sa.literal_column("1")
    length: sa.ColumnElement[int] = sa.literal_column(str(len(begin)))
    return sa.func.substr(column, first, length) == sa.literal_column(f"'{begin}'", sa.Text)


# Ignored because it was of nobody who is served where it came in, and not by a person: what a person ignores is due at the moment of that.
_STRANGE = sa.and_(
    t.state == sa.literal_column(f"'{State.IGNORED}'", sa.Text),
    t.due_at == t.received_at,
    sa.or_(*(_begins(t.why, begin) for begin in STRANGE)),
)
# Not by the insert's own ON CONFLICT DO UPDATE: on Postgres that would lock every event that comes again, in another order than whoever
# applies them.
_TAKE_IN = Hot(
    sa.update(inbox_events)
    .where(t.account == _b(f"{_PUT_IN}account"), t.id == _b(f"{_PUT_IN}id"), _STRANGE)
    .values({name: _b(f"{_PUT_IN}{name}", type_=t[name].type) for name in NAMES if name not in {"account", "id"}})
)


def _values(events: Iterable[Event]) -> list[dict[str, Any]]:
    # In one order, so that two processes that hear of the same events do not wait for each other.
    return [{name: getattr(event, name) for name in NAMES} for event in sorted(events, key=lambda event: event.key)]


def _take_in(unit: Unit, values: Iterable[dict[str, Any]]) -> int:
    """Put events that are followed in the place of those that were a stranger's before; tells how many."""
    followed = [
        {f"{_PUT_IN}{name}": value for name, value in row.items()}
        for row in values
        if row["state"] is not State.IGNORED
    ]
    return _TAKE_IN.many(unit.connection, followed) if followed else 0


def add(unit: Unit, events: Iterable[Event]) -> None:
    """Add events; those that are there already are left as they are, unless they were a stranger's and are not now."""
    values = _values(events)
    # All are new nearly always, and then this is one statement.
    if _ADD[unit.postgres].many(unit.connection, values) != len(values):
        _take_in(unit, values)


def insert(unit: Unit, events: Iterable[Event]) -> int:
    """Add events as `add` does, and tell how many are new to those that are followed, which costs the database a little more."""
    values = _values(events)
    if not values:
        return 0
    new = len(unit.connection.execute(_TOLD[unit.postgres], values).all())
    return new if new == len(values) else new + _take_in(unit, values)


def _event(row: sa.Row[Any]) -> Event:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for it
    return Event(**values | {"source": Source(row.source), "state": State(row.state)})


_WAITING = sa.literal_column(f"'{State.WAITING}'", sa.Text)
_PARKED = sa.literal_column(f"'{State.PARKED}'", sa.Text)
_DUE = {
    raw: sa.select(*(inbox_events.c if raw else BARE))
    .where(t.account == _b("the_account"), t.state == _WAITING, t.due_at <= _b("the_now"))
    .order_by(t.due_at, t.id)
    .limit(_b("most"))
    for raw in (False, True)
}


def due(unit: Unit, account: str, most: int, *, raw: bool) -> list[Event]:
    """Read the events that are due, the oldest first."""
    values = {"the_account": account, "the_now": unit.now, "most": most}
    return [_event(row) for row in unit.connection.execute(_DUE[raw], values)]


def next_due(unit: Unit, account: str) -> float | None:
    """Tell when the first waiting event is due."""
    statement = sa.select(sa.func.min(t.due_at)).where(t.account == account, t.state == _WAITING)
    moment: float | None = unit.connection.execute(statement).scalar()
    return moment


def _slices(keys: Iterable[Key]) -> Iterable[tuple[str, list[str]]]:
    by_account: dict[str, list[str]] = {}
    for account, event in sorted(keys):
        by_account.setdefault(account, []).append(event)
    for account, ids in by_account.items():
        for at in range(0, len(ids), IDS_MAX):
            yield account, ids[at : at + IDS_MAX]


_OF = (t.account == _b("the_account"), t.id.in_(_b("ids", expanding=True)))
_TO = sa.update(inbox_events).where(*_OF, t.state.in_(_b("before", expanding=True)))
_MOVE = _TO.values(state=_b("after"), tries=0, due_at=_b("the_due"), why=_b("the_why"))
_PARK = (
    sa.update(inbox_events)
    .where(*_OF, t.state == _WAITING)
    .values(state=_PARKED, why=sa.case((t.why == "", _b("the_why", type_=sa.Text)), else_=t.why))
)
_APPLY = _TO.values(state=_b("after"), why="")
_PUT_OFF = (
    sa.update(inbox_events)
    .where(*_OF, t.state == _WAITING)
    .values(
        tries=t.tries + 1,
        due_at=_b("the_due"),
        why=_b("the_why"),
        state=sa.case((t.tries + 1 >= TRIES_MAX, _PARKED), else_=_WAITING),
    )
)


def applied(unit: Unit, keys: Iterable[Key]) -> int:
    """Note that waiting events were applied; tells how many were waiting."""
    values = {"before": [State.WAITING], "after": State.APPLIED}
    return sum(
        unit.connection.execute(_APPLY, values | {"the_account": account, "ids": ids}).rowcount
        for account, ids in _slices(keys)
    )


def put_off(unit: Unit, keys: Iterable[Key], due_at: float, why: str) -> None:
    """Let waiting events wait longer, or park those that have waited often enough."""
    for account, ids in _slices(keys):
        unit.connection.execute(_PUT_OFF, {"the_account": account, "ids": ids, "the_due": due_at, "the_why": why})


def park(unit: Unit, keys: Iterable[Key], why: str) -> None:
    """Park waiting events, for the reason that stands there already, or else for this one."""
    for account, ids in _slices(keys):
        unit.connection.execute(_PARK, {"the_account": account, "ids": ids, "the_why": why})


def move(unit: Unit, keys: Iterable[Key], before: Sequence[State], after: State, why: str) -> int:
    """Bring events from some states to another, their tries forgotten; tells how many there were."""
    values = {"before": before, "after": after, "the_due": unit.now, "the_why": why}
    return sum(
        unit.connection.execute(_MOVE, values | {"the_account": account, "ids": ids}).rowcount
        for account, ids in _slices(keys)
    )


def forget(unit: Unit, before: float, most: int) -> int:
    """Delete the oldest events that are over and came before then; tells how many."""
    # Not the bare column: by the index on states SQLite would read and sort all that are over, for each slice.
    over = sa.func.coalesce(t.state, "").in_([State.APPLIED.value, State.IGNORED.value])
    old = sa.select(t.account, t.id).where(t.received_at < before, over).order_by(t.received_at, t.id).limit(most)
    # The state is asked for twice: a person may have one applied again while this waits for its row.
    statement = sa.delete(inbox_events).where(sa.tuple_(t.account, t.id).in_(old), over)
    return unit.connection.execute(statement).rowcount


def of_id(unit: Unit, event: str) -> list[Event]:
    """Read the events of an id, with their bodies: one for each account that it was stored for."""
    statement = sa.select(inbox_events).where(t.id == event).order_by(t.account)
    return [_event(row) for row in unit.connection.execute(statement)]


def page(unit: Unit, search: Search, most: int, after: Event | None) -> list[Event]:
    """Read the events that a search finds, the last received first, from the one after `after` on."""
    wanted = [
        (t.account, search.account), (t.object_id, search.object_id), (t.charge, search.charge), (t.state, search.state),
    ]  # fmt: skip
    statement = sa.select(*BARE).where(*(column == value for column, value in wanted if value is not None))
    if search.type is not None:
        begins, star, _ = search.type.partition("*")
        # By its letters, not by where it sorts: that is up to the collation of a database.
        of_type = sa.func.substr(t.type, 1, len(begins)) == begins if star else t.type == begins
        statement = statement.where(of_type)
    if after is not None:
        later = sa.and_(t.received_at == after.received_at, t.id < after.id)
        statement = statement.where(sa.or_(t.received_at < after.received_at, later))
    statement = statement.order_by(t.received_at.desc(), t.id.desc()).limit(most)
    return [_event(row) for row in unit.connection.execute(statement)]


def counts(unit: Unit, account: str | None) -> dict[State, int]:
    """Count events by state."""
    statement = sa.select(t.state, sa.func.count()).group_by(t.state)
    if account is not None:
        statement = statement.where(t.account == account)
    found = {State(state): count for state, count in unit.connection.execute(statement)}
    return {state: found.get(state, 0) for state in State}


def open_counts(unit: Unit, account: str) -> dict[State, int]:
    """Count the events of an account that wait or are parked: those that are over, which may be a million, are not read."""
    open_ = (State.WAITING, State.PARKED)
    statement = sa.select(t.state, sa.func.count()).where(t.account == account, t.state.in_([s.value for s in open_]))
    found = {State(state): count for state, count in unit.connection.execute(statement.group_by(t.state))}
    return {state: found.get(state, 0) for state in open_}


def oldest_waiting(unit: Unit, account: str | None) -> float | None:
    """Tell when the waiting event that came first was received."""
    statement = sa.select(sa.func.min(t.received_at)).where(t.state == _WAITING)
    if account is not None:
        statement = statement.where(t.account == account)
    moment: float | None = unit.connection.execute(statement).scalar()
    return moment


def last_received(unit: Unit, account: str, source: Source | None) -> float | None:
    """Tell when the last event of an account came, in some way or in any."""
    if source is None:
        # Way by way: each is one step into an index, and all of them together would be a sort of every event.
        return max((at for way in Source if (at := last_received(unit, account, way)) is not None), default=None)
    statement = sa.select(t.received_at).where(t.account == account, t.source == source.value)
    moment: float | None = unit.connection.execute(statement.order_by(t.received_at.desc()).limit(1)).scalar()
    return moment
