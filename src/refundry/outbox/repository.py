"""The outbox's statements: each is for many messages at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.infra.db import Unit
from refundry.outbox.model import OPEN, Delivery, DeliveryState, Kind, Message, OrderTold, Place, Queue, Wanted
from refundry.outbox.tables import outbox_deliveries, outbox_keys, outbox_messages

_b = sa.bindparam
m, d, k = outbox_messages.c, outbox_deliveries.c, outbox_keys.c
_earlier = outbox_deliveries.alias("earlier")
_OPEN: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{state.value}'") for state in OPEN]
_WAITING = d.state == sa.literal_column(f"'{DeliveryState.WAITING.value}'")
_BLOCKED = sa.exists().where(
    _earlier.c.target == d.target,
    _earlier.c.ordering_key == d.ordering_key,
    _earlier.c.number < d.number,
    _earlier.c.state.in_(_OPEN),
)


def _insert(unit: Unit, table: sa.Table) -> Any:  # noqa: ANN401  # each dialect's own
    return postgresql.insert(table) if unit.postgres else sqlite.insert(table)


def hold_keys(unit: Unit, keys: Iterable[str], *, make: Iterable[str]) -> dict[str, OrderTold]:
    """Hold ordering keys until the unit is over: others that write for them wait.

    Args:
        unit: The open unit.
        keys: Those that are held where they are there.
        make: Those of them that are made where they are not.

    Returns:
        What was told of each that is held.
    """
    names, new = sorted(set(keys)), sorted(set(make))
    if new:
        statement = _insert(unit, outbox_keys).on_conflict_do_nothing()
        unit.connection.execute(statement, [{"ordering_key": name} for name in new])
    # In one order, so that two units never wait for each other.
    held = sa.select(outbox_keys).where(k.ordering_key.in_(names)).order_by(k.ordering_key).with_for_update()
    return {row.ordering_key: OrderTold(row.version, row.told) for row in unit.connection.execute(held)}


def rename_keys(unit: Unit, names: Mapping[str, str], targets: Iterable[str]) -> None:
    """Keep what is not over yet under some ordering keys in order with others from now on; the old keys are held, and go.

    Args:
        unit: The open unit.
        names: By the old name, the new.
        targets: Where messages go.
    """
    wanted = sorted(targets)
    for old, new in sorted(names.items()):
        theirs = (d.target.in_(wanted), d.ordering_key == old, d.state.in_(_OPEN))
        moved = sa.update(outbox_deliveries).where(*theirs).values(ordering_key=new).returning(d.number)
        numbers = set(unit.connection.execute(moved).scalars())
        if numbers:
            unit.connection.execute(sa.update(outbox_messages).where(m.number.in_(numbers)).values(ordering_key=new))
    unit.connection.execute(sa.delete(outbox_keys).where(k.ordering_key.in_(sorted(names))))


def save_told(unit: Unit, told: Mapping[str, OrderTold]) -> None:
    """Write what was told of orders; their keys are held."""
    statement = sa.update(outbox_keys).where(k.ordering_key == _b("the_key"))
    values = [{"the_key": key, "new_told": one.told, "new_version": one.version} for key, one in told.items()]
    unit.connection.execute(statement.values(told=_b("new_told"), version=_b("new_version")), values)


def write(unit: Unit, messages: Sequence[Message], wanted: Wanted) -> None:
    """Write messages and their deliveries, in order; those that are there already stay as they are."""
    values = [
        {
            "id": one.id, "account": one.account, "kind": one.kind.value, "version": one.version, "order_id": one.order_id,
            "ordering_key": one.ordering_key, "payload": json.dumps(one.payload, ensure_ascii=False),
            "created_at": one.created_at,
        }
        for one in messages
    ]  # fmt: skip
    unit.connection.execute(_insert(unit, outbox_messages).on_conflict_do_nothing(index_elements=["id"]), values)
    columns = ["target", "number", "ordering_key", "state", "tries", "due_at", "told", "leased_until"]
    for target, kinds in wanted.items():
        theirs = [one.id for one in messages if one.kind in kinds]
        if not theirs:
            continue
        some = sa.select(
            sa.literal(target), m.number, m.ordering_key, sa.literal(DeliveryState.WAITING.value), sa.literal(0), m.created_at,
            sa.literal(""), sa.literal(0.0, sa.Double),
        ).where(m.id.in_(theirs)).order_by(m.number)  # fmt: skip
        # "WHERE true" parts the select from the conflict clause, which SQLite could else not tell from a join.
        unit.connection.execute(_insert(unit, outbox_deliveries).from_select(columns, some).on_conflict_do_nothing())


def due(unit: Unit, target: str) -> bool:
    """Tell whether anything can be delivered to a target now."""
    free = (d.target == target, _WAITING, d.due_at <= unit.now, d.leased_until <= unit.now, ~_BLOCKED)
    return unit.connection.execute(sa.select(d.number).where(*free).limit(1)).first() is not None


def claim(
    unit: Unit, target: str, lease: str, *, until: float, most: int, untried_first: bool = False
) -> list[Delivery]:
    """Take what is due under a lease: of each ordering key the first that is not over, and nobody else's.

    What has been due for the longest comes first; or, if there is any, what was never tried.
    """
    free = (d.target == target, _WAITING, d.due_at <= unit.now, d.leased_until <= unit.now, ~_BLOCKED)
    chosen = sa.select(d.number).where(*free).order_by(d.due_at, d.number).limit(most).with_for_update(skip_locked=True)
    # Not by sorting: a long outage has let some hundred thousand fall due, and others wait to write meanwhile.
    numbers = list(unit.connection.execute(chosen.where(d.tries == 0)).scalars()) if untried_first else []
    numbers = numbers or list(unit.connection.execute(chosen).scalars())
    if not numbers:
        return []
    mine = sa.update(outbox_deliveries).where(d.target == target, d.number.in_(numbers))
    unit.connection.execute(mine.values(lease=lease, leased_until=until))
    return _read(unit, sa.and_(d.target == target, d.number.in_(numbers)), d.number)


def free_all(unit: Unit, target: str) -> int:
    """End all leases on a target's messages; tells how many there were."""
    leased = sa.update(outbox_deliveries).where(d.target == target, _WAITING, d.lease.is_not(None))
    return unit.connection.execute(leased.values(lease=None, leased_until=0.0)).rowcount


def pull_forward(unit: Unit, target: str, beyond: float) -> int:
    """Make due at once what is due later than `beyond`; tells how many there were."""
    late = sa.update(outbox_deliveries).where(d.target == target, _WAITING, d.due_at > beyond)
    return unit.connection.execute(late.values(due_at=unit.now)).rowcount


def delivered(unit: Unit, target: str, number: int, told: str) -> None:
    """Note that a target has taken a message, whoever holds it by now: it is so."""
    statement = sa.update(outbox_deliveries).where(d.target == target, d.number == number)
    values = {
        "state": DeliveryState.DELIVERED.value,
        "told": told,
        "delivered_at": unit.now,
        "lease": None,
        "leased_until": 0.0,
    }
    unit.connection.execute(statement.values(**values, tries=d.tries + 1))


def put_off(unit: Unit, delivery: Delivery, lease: str, told: str, *, due_at: float, park: bool) -> bool:
    """Note that a try has failed; tells whether it was still ours to note."""
    statement = sa.update(outbox_deliveries).where(
        d.target == delivery.target, d.number == delivery.number, d.lease == lease, _WAITING
    )
    state = DeliveryState.PARKED if park else DeliveryState.WAITING
    values = {"state": state.value, "told": told, "due_at": due_at, "lease": None, "leased_until": 0.0}
    return unit.connection.execute(statement.values(**values, tries=d.tries + 1)).rowcount == 1


def set_state(unit: Unit, some: Sequence[Delivery], state: DeliveryState, told: str, due_at: float) -> None:
    """Steer deliveries by hand: they begin anew, or end."""
    statement = sa.update(outbox_deliveries).where(d.target == _b("the_target"), d.number == _b("the_number"))
    values = {"state": state.value, "tries": 0, "due_at": due_at, "told": told, "lease": None, "leased_until": 0.0}
    unit.connection.execute(
        statement.values(**values), [{"the_target": one.target, "the_number": one.number} for one in some]
    )


def of_message(unit: Unit, message: str, *, hold: bool = False) -> list[Delivery]:
    """Read a message's deliveries; `hold` keeps others from changing them until the unit is over."""
    return _read(unit, m.id == message, d.target, hold=hold)


def message(unit: Unit, message_id: str) -> Message | None:
    """Read a message."""
    row = unit.connection.execute(sa.select(outbox_messages).where(m.id == message_id)).one_or_none()
    return _message(row) if row else None


def page(
    unit: Unit,
    account: str | None,
    states: Sequence[DeliveryState],
    *,
    target: str | None = None,
    order: str | None = None,
    after: Place | None = None,
    most: int = 50,
) -> list[Delivery]:
    """Read deliveries, the newest message first and each by target; those that stand behind a place, if one is named."""
    wanted: list[sa.ColumnElement[bool]] = [sa.true()]
    for column, value in ((m.account, account), (d.target, target), (m.order_id, order)):
        if value is not None:
            wanted.append(column == value)
    if states:
        wanted.append(d.state.in_([state.value for state in states]))
    if after is not None:
        # A page may end between two targets of one message.
        number, last = after
        wanted.append(sa.or_(d.number < number, sa.and_(d.number == number, d.target > last)))
    return _read(unit, sa.and_(*wanted), d.number.desc(), most=most)


def behind(unit: Unit, delivery: Delivery) -> int:
    """Count what waits for this delivery to be over."""
    statement = sa.select(sa.func.count()).where(
        d.target == delivery.target, d.ordering_key == delivery.message.ordering_key, d.number > delivery.number, d.state.in_(_OPEN)
    )  # fmt: skip
    return int(unit.connection.execute(statement).scalar_one())


def counts(unit: Unit) -> dict[tuple[str, DeliveryState], int]:
    """Count the deliveries that are not over, by target and state."""
    statement = sa.select(d.target, d.state, sa.func.count()).where(d.state.in_(_OPEN)).group_by(d.target, d.state)
    return {(row[0], DeliveryState(row[1])): row[2] for row in unit.connection.execute(statement)}


def queues(unit: Unit) -> dict[str, Queue]:
    """Tell what each target was not told yet; those that were told everything are left out."""
    found = counts(unit)
    first = sa.select(d.target, sa.func.min(d.number).label("number")).where(_WAITING).group_by(d.target).subquery()
    oldest = (
        sa.select(d.target, d.told, m.created_at)
        .join(first, sa.and_(first.c.target == d.target, first.c.number == d.number))
        .join(outbox_messages, m.number == d.number)
    )
    waits = {row.target: row for row in unit.connection.execute(oldest)}
    return {
        target: Queue(
            found.get((target, DeliveryState.WAITING), 0), found.get((target, DeliveryState.PARKED), 0),
            waits[target].created_at if target in waits else None, waits[target].told if target in waits else "",
        )
        for target in sorted({target for target, _ in found})
    }  # fmt: skip


def forget(unit: Unit, before: float, after: int, most: int) -> tuple[int, int | None]:
    """Delete messages that were written before then and are over at all their targets since before then.

    Args:
        unit: The open unit.
        before: By the database's clock.
        after: Only those with a higher number are looked at.
        most: As many are looked at.

    Returns:
        How many were deleted, and from which number to go on; `None`, where younger ones begin.
    """
    page = sa.select(m.number, m.created_at).where(m.number > after).order_by(m.number).limit(most)
    seen = unit.connection.execute(page).all()
    old = [row.number for row in seen if row.created_at < before]
    if not old:
        return 0, None
    # When one was dropped stands in `due_at`.
    dropped = sa.and_(d.state == DeliveryState.DROPPED.value, d.due_at >= before)
    still = sa.select(d.number).where(d.number.in_(old), sa.or_(d.state.in_(_OPEN), d.delivered_at >= before, dropped))
    kept = set(unit.connection.execute(still).scalars())
    over = [number for number in old if number not in kept]
    # A person may have one sent again while this waits for its row: then that delivery stays, and the message with it.
    unit.connection.execute(sa.delete(outbox_deliveries).where(d.number.in_(over), d.state.not_in(_OPEN)))
    left = sa.exists().where(d.number == m.number)
    count = unit.connection.execute(sa.delete(outbox_messages).where(m.number.in_(over), ~left)).rowcount
    return count, seen[-1].number if len(seen) == most else None


def _read(
    unit: Unit,
    where: sa.ColumnElement[bool],
    *order: sa.ColumnElement[Any],
    most: int | None = None,
    hold: bool = False,
) -> list[Delivery]:
    statement = sa.select(outbox_messages, outbox_deliveries).join(outbox_deliveries, d.number == m.number).where(where)
    statement = statement.order_by(*order, d.target).limit(most)
    if hold:
        statement = statement.with_for_update(of=outbox_deliveries)
    return [_delivery(row) for row in unit.connection.execute(statement)]


def _delivery(row: Any) -> Delivery:  # noqa: ANN401  # a row
    return Delivery(
        row.number, row.target, _message(row), DeliveryState(row.state), row.tries, row.due_at, row.told, row.delivered_at
    )  # fmt: skip


def _message(row: Any) -> Message:  # noqa: ANN401  # a row
    return Message(
        row.id, row.account, Kind(row.kind), row.order_id, row.ordering_key, json.loads(row.payload), row.created_at, row.version
    )  # fmt: skip
