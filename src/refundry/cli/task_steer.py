"""Tasks shown and resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from refundry import bootstrap
from refundry.bootstrap import Desk
from refundry.cli import output, refund_told, session
from refundry.follow import service as follow
from refundry.gateways.base import GatewayError, Look, Trouble
from refundry.infra import loop
from refundry.infra.db import Unit
from refundry.kernel.errors import UsageError
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from refundry.refunds.rules import Clocks
from refundry.tasks import service as tasks
from refundry.tasks.model import How, Kind, Task, TaskForbids

Work = Callable[[Unit], None]

AT_STRIPE = frozenset({How.REPLACE, How.CANCEL, How.PAID_BY, How.NOT_PAID})


def show_all(
    kinds: Sequence[str], account: str | None, *, every: bool, limit: int, after: str | None, as_json: bool
) -> int:
    """Show a page of tasks.

    Raises:
        UsageError: `task_kind_unknown`, `place_unknown`.
    """
    with session.local(account) as local, local.database.reading() as unit:
        found, now = tasks.page(unit, local.name, kinds, limit, resolved=every, after=after), unit.now
        counts, overdue = tasks.counts(unit, local.name), tasks.overdue(unit, local.name)
    more = found[-1].id if len(found) == limit else None
    if as_json:
        told = {"tasks": [facts(task, now) for task in found], "open": {kind.value: n for kind, n in counts.items()}}
        output.as_json({**told, "overdue": overdue, "next": more})
        return output.PARTLY if overdue else output.DONE
    if not found:
        output.line("There are none.")
        return output.DONE
    rows = [
        [task.id, task.kind.value, _amount(task), output.lasting(now - task.opened_at), _due(task, now), task.refund or task.charge]
        for task in found
    ]  # fmt: skip
    output.table(["task", "kind", "amount", "age", "due", "about"], rows, right=(2, 3))
    told_of = output.counted(sum(counts.values()), "open task") + (
        f", {output.number(overdue)} overdue" if overdue else ""
    )
    output.say(f"{told_of}; `refundry task show ID` says what to do")
    if more is not None:
        output.say(f"more: --after {more}")
    return output.PARTLY if overdue else output.DONE


def _due(task: Task, now: float) -> str:
    if task.resolved_at is not None:
        return str(task.how)
    return (
        f"overdue by {output.lasting(now - task.due_at)}"
        if task.due_at < now
        else f"in {output.lasting(task.due_at - now)}"
    )


def _amount(task: Task) -> str:
    return output.money(task.amount_minor, task.currency)


def facts(task: Task, now: float) -> dict[str, Any]:
    """Write one for `--json`; amounts in minor units, times in epoch seconds."""
    return {
        "task_id": task.id, "account": task.account, "kind": task.kind.value, "request": task.request, "refund": task.refund,
        "charge": task.charge, "amount": task.amount_minor, "currency": task.currency, "text": task.text,
        "options": [how.value for how in task.options], "opened_at": task.opened_at, "age_seconds": now - task.opened_at,
        "due_at": task.due_at, "overdue": task.resolved_at is None and task.due_at < now, "resolved_at": task.resolved_at,
        "resolved_by": task.resolved_by, "how": task.how.value if task.how else None, "note": task.note,
        "replacement": task.replacement, "first_by": task.first_by, "first_at": task.first_at,
    }  # fmt: skip


def show(task_id: str, *, as_json: bool) -> int:
    """Show one."""
    with session.local() as local, local.database.reading() as unit:
        task, now = tasks.need(unit, task_id), unit.now
    return _told(task, now, as_json=as_json)


def _told(task: Task, now: float, *, as_json: bool) -> int:
    if as_json:
        output.as_json(facts(task, now))
        return output.DONE
    output.line(output.wrapped(task.text))
    for name, value in (
        ("task", task.id), ("kind", task.kind.value), ("request", task.request), ("refund", task.refund), ("charge", task.charge),
        ("amount", _amount(task)), ("opened", f"{output.moment(task.opened_at)}, {output.lasting(now - task.opened_at)} ago"),
        ("due", None if task.resolved_at else f"{output.moment(task.due_at)}, {_due(task, now)}"),
        ("not_paid", f"said {output.moment(task.first_at)} by {task.first_by}" if task.first_at else None),
        ("resolved", f"{output.moment(task.resolved_at)} by {task.resolved_by}: {task.how}" if task.resolved_at else None),
        ("note", task.note), ("replaced by", task.replacement),
    ):  # fmt: skip
        if value:
            output.line(f"  {name:12} {value}")
    if task.options and task.kind is Kind.OUTCOME_UNKNOWN:
        output.say(f"if its refund is there: refundry task resolve {task.id} --how paid_by --refund ID")
        said = "if you say too that there is none" if task.first_at else "if there is none, as two people have to say"
        output.say(f"{said}: refundry task resolve {task.id} --how not_paid --note TEXT")
    elif task.options:
        *others, last = task.options
        ways = f"{', '.join(others)} or {last}" if others else last
        # Without bars, which a shell would take for pipes, and run the first choice.
        output.say(f"to resolve it, with {ways} for HOW: refundry task resolve {task.id} --how HOW --note TEXT")
    return output.DONE


def resolve(task_id: str, how: str, note: str, refund: str, *, as_json: bool) -> int:
    """Resolve one; exit code 3, if a second person has to confirm it.

    Raises:
        UsageError: `task_option_wrong`: there is no such way.
    """
    if how not in {known.value for known in How} - {How.OVER.value}:
        text = f"--how {how:.80} is none: {', '.join(one for one in How if one is not How.OVER)}"
        raise UsageError(text, code="task_option_wrong", option="--how")
    if How(how) in AT_STRIPE:
        return loop.run(_at_stripe(task_id, How(how), note, refund, as_json=as_json))
    with session.local() as local, local.database.unit() as unit:
        tasks.check(tasks.need(unit, task_id), How(how), note, refund)
        task, now = tasks.resolve(unit, task_id, How(how), session.person(), note), unit.now
    return _told(task, now, as_json=as_json)


async def _at_stripe(task_id: str, how: How, note: str, refund: str, *, as_json: bool) -> int:
    """Resolve one by what has to be looked up or done at Stripe."""
    async with bootstrap.desk(session.settings()) as desk:
        task = await desk.writer.put(lambda unit: tasks.need(unit, task_id))
        tasks.check(task, how, note, refund)
        if how is How.NOT_PAID:
            work = await _not_paid(desk, task, note)
        else:
            work = await _by_refund(desk, task, how, note, refund or task.refund or "")
        await desk.writer.put(work)
        # Read anew: what the request has become may have ended the task, and does so with the commit.
        done, now = await desk.writer.put(lambda unit: (tasks.need(unit, task_id), unit.now))
        request = await desk.writer.put(lambda unit: refunds.need(unit, done.replacement or task.request or ""))
    _told(done, now, as_json=as_json)
    if not as_json:
        output.line(output.wrapped(refund_told.sentence(request)))
    return output.DONE if done.resolved_at is not None else output.PARTLY


async def _by_refund(desk: Desk, task: Task, how: How, note: str, refund: str) -> Work:
    """Read a refund at Stripe, or cancel it; tells what is to be kept of that."""
    gateway, began_at = desk.seat_of(task.account).gateway, desk.clock.now() + desk.database.offset
    seen = await (gateway.cancel_refund(refund) if how is How.CANCEL else gateway.refund(refund, Lane.DESK))

    def work(unit: Unit) -> None:
        match how:
            case How.CANCEL:
                tasks.resolve(unit, task.id, how, session.person(), note)
                refunds.found(unit, task.account, seen)
            case How.PAID_BY:
                tasks.paid_by(unit, task.id, seen, began_at, session.person(), note)
            case _:
                tasks.replace_failed(unit, task.id, seen, began_at, session.person(), note)

    return work


async def _not_paid(desk: Desk, task: Task, note: str) -> Work:
    """Look at the charge; tells what is to be kept of a person's word that it was not paid, which that look may belie."""
    seat, began = desk.seat_of(task.account), desk.clock.boot_seconds()
    look: Look | None = None
    try:
        look = await seat.gateway.look(task.charge, Lane.DESK)
    except GatewayError as error:
        # A charge that Stripe does not know, as once test data were deleted, has no refund either.
        if error.trouble is not Trouble.NOT_FOUND:
            raise
    if look is not None:
        look = replace(look, began_at=look.began_at + desk.database.offset)

    def work(unit: Unit) -> None:
        if look is not None and not follow.take_look(unit, task.account, look, seat.access.order_key):
            raise TaskForbids(
                f"{task.charge} has just changed at Stripe: try again", code="look_overtaken", task=task.id
            )
        if refunds.need(unit, task.request or "").state is State.OUTCOME_UNKNOWN:
            since, stripe = desk.clock.boot_seconds() - began, seat.gateway.stripe_now()
            then = Clocks(desk.clock.now() - since, unit.now - since, None if stripe is None else stripe - since)
            tasks.say_not_paid(unit, task.id, then, session.person(), note)

    return work
