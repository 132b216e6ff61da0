"""Opening tasks with their causes, and resolving them by a person's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refundry.audit import service as audit
from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID
from refundry.disputes import service as disputes
from refundry.disputes.model import OPEN, Dispute
from refundry.infra.db import Database, Unit
from refundry.kernel import ids
from refundry.kernel.actor import SYSTEM, Actor
from refundry.kernel.errors import UsageError
from refundry.kernel.lane import Lane
from refundry.kernel.money import Money
from refundry.kernel.outcome import SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.model import Concern, RefundRequest, State
from refundry.refunds.rules import Clocks
from refundry.tasks import repository
from refundry.tasks.model import (
    DISPUTE_PATIENCE,
    NOTE_NEEDED,
    PATIENCE,
    How,
    Kind,
    Task,
    TaskChoiceWrong,
    TaskForbids,
    TaskUnknown,
    task_id,
)
from refundry.tasks.rules import FAILED, double_loss, ended_by, moment, opened_by, unsure


def attach(database: Database) -> None:
    """Have tasks opened and ended in the commit of their cause."""
    database.at_commit(refunds.CONCERNS, _flush)


def _flush(unit: Unit, concerns: list[Concern]) -> None:
    # One after the other: a refund may ask its customer, be answered, and ask again within one unit.
    for concern in concerns:
        if (over := ended_by(concern)) is not None:
            repository.end_all(unit, [over], str(SYSTEM))
        after = concern.change.after if concern.change is not None else None
        alive = _alive(unit, concern.charge, after.id) if after is not None and after.state in FAILED else None
        if (task := opened_by(concern, unit.now, alive)) is not None:
            repository.open_all(unit, [task])
            if task.due_at >= unit.now + DISPUTE_PATIENCE:
                _hasten(unit, concern.charge, disputes.of_charge(unit, concern.charge))


def _alive(unit: Unit, charge_id: str, request: str) -> SeenRefund | None:
    """Tell a refund that carries a request's id and whose money is out."""
    charge = charges.find(unit, charge_id)
    seen = charge.refunds if charge is not None else ()
    return next((one for one in seen if not one.over and one.metadata.get(REQUEST_ID) == request), None)


def weigh(unit: Unit, account: str, charge: str) -> None:
    """See whether a charge was given back twice, by refunds and by chargebacks, and have a person told; or that it is not any more."""
    found = disputes.lost_twice(unit, charge)
    if found is None:
        return
    loss, currency, known = found
    _hasten(unit, charge, known)
    if loss.amount_minor:
        repository.open_all(unit, [double_loss(account, charge, loss, currency, known, unit.now)])
    else:
        repository.end_all(unit, [task_id(Kind.DOUBLE_LOSS, account, charge)], str(SYSTEM))


def _hasten(unit: Unit, charge: str, known: Sequence[Dispute]) -> None:
    """Have what waits for the end of disputes done soon, once they are all decided."""
    if known and not any(dispute.phase in OPEN for dispute in known):
        repository.hasten(unit, charge, FAILED.values(), unit.now + PATIENCE[Kind.REFUND_FAILED])


def complete(unit: Unit, account: str) -> None:
    """Open the tasks about requests of unknown outcome that are missing, and end those that are open without such a request.

    A program from before there were such tasks may have worked on while the database was upgraded. For whoever executes.
    """
    unknown = refunds.many(unit, refunds.unknown(unit, account).values()).values()
    wanted = {task.id: task for task in (unsure(request, unit.now) for request in unknown)}
    there = {task.id: task for task in repository.open_of(unit, account, Kind.OUTCOME_UNKNOWN)}
    odd = [(wanted | there)[one] for one in wanted.keys() ^ there.keys()]
    for task in sorted(odd, key=lambda one: (one.charge, one.id)):
        # Held, and read again: another process may have moved it, or opened its task, at this moment.
        charges.hold_still(unit, task.charge)
        request = refunds.find(unit, task.request or "", hold=True)
        stands = request is not None and request.state is State.OUTCOME_UNKNOWN and unsure(request, 0.0).id == task.id
        if not stands:
            repository.end_all(unit, [task.id], str(SYSTEM))
        elif repository.find(unit, task.id) is None:
            repository.open_all(unit, [task])


# What a person does


def need(unit: Unit, task: str, *, hold: bool = False) -> Task:
    """Read a task.

    Raises:
        TaskUnknown: There is none.
    """
    found = repository.find(unit, task, hold=hold)
    if found is None:
        raise TaskUnknown(f"there is no task {task:.80}: `refundry task list` shows those that are open", task=task)
    return found


def check(task: Task, how: How, note: str, refund: str = "") -> None:
    """See that a task may be resolved in a way.

    Args:
        task: The task.
        how: The way.
        note: What was said about it.
        refund: The refund that was named, for `paid_by`.

    Raises:
        TaskForbids: `task_resolved`.
        TaskChoiceWrong: `task_option_wrong`, `task_note_missing`, `task_refund_missing`.
    """
    if task.resolved_at is not None:
        raise TaskForbids(
            f"task {task.id} was resolved by {task.resolved_by} ({task.how}): nothing is left to do", task=task.id
        )
    if how not in task.options:
        raise TaskChoiceWrong(
            f"a task of kind {task.kind} cannot be resolved by {how}: choose {' or '.join(task.options)}", task=task.id
        )
    if how in NOTE_NEEDED and not note.strip():
        raise TaskChoiceWrong(
            f"{how} needs a note: say what was done, as in --note 'bank transfer of 24 November'",
            code="task_note_missing",
            task=task.id,
        )
    if how is How.PAID_BY and not refund:
        raise TaskChoiceWrong(
            "paid_by needs the refund that has paid it: name it as Stripe does, by --refund re_…",
            code="task_refund_missing",
            task=task.id,
        )
    if how is not How.PAID_BY and refund:
        raise TaskChoiceWrong(f"{how} takes no refund: --refund goes with --how paid_by", task=task.id)


def resolve(unit: Unit, task_id_: str, how: How, actor: Actor, note: str = "") -> Task:
    """Resolve a task by a choice that moves nothing here: what it says was done, or is not wanted any more.

    Raises:
        TaskUnknown: There is none.
        TaskForbids, TaskChoiceWrong: See `check`.
    """
    task = need(unit, task_id_, hold=True)
    check(task, how, note)
    return _resolved(unit, task, how, actor, note, None)


def replace_failed(
    unit: Unit, task_id_: str, now: SeenRefund, began_at: float, actor: Actor, note: str = ""
) -> RefundRequest:
    """Resolve a task by a new request that replaces the failed one, and goes through policy again.

    Args:
        unit: The open unit.
        task_id_: The task.
        now: The failed refund as Stripe shows it at this moment.
        began_at: When that read began, by the database's clock.
        actor: Who wants it.
        note: What they say.

    Raises:
        TaskUnknown: There is none.
        TaskForbids: `refund_not_over`: the refund is not failed or canceled at Stripe any more, or another one of its request is alive.
        TaskForbids, TaskChoiceWrong: See `check`.
    """
    task = need(unit, task_id_, hold=True)
    check(task, How.REPLACE, note)
    if not now.over or now.id != task.refund:
        raise TaskForbids(
            f"{now.id} is {now.status} at Stripe now, so that a second refund could pay it twice: nothing was changed",
            code="refund_not_over",
            task=task.id,
            refund=now.id,
        )
    old = refunds.need(unit, task.request or "")
    refunds.heard(unit, task.account, now, began_at)
    other = _alive(unit, task.charge, old.id)
    if other is not None:
        raise TaskForbids(
            f"{other.id} carries the id of this request too, and is {other.status} at Stripe: the customer gets that one, and a second refund "
            "would pay it twice: nothing was changed",
            code="refund_not_over",
            task=task.id,
            refund=other.id,
        )
    (received,) = refunds.receive(unit, [_again(old)], actor)
    _resolved(unit, task, How.REPLACE, actor, note, received.request.id)
    return received.request


def paid_by(
    unit: Unit, task_id_: str, refund: SeenRefund, began_at: float, actor: Actor, note: str = ""
) -> RefundRequest:
    """Resolve a task about an unknown outcome by naming the refund that has paid the request.

    Args:
        unit: The open unit.
        task_id_: The task.
        refund: As it was read at Stripe just now.
        began_at: When that read began, by the database's clock.
        actor: Who names it.
        note: What they say.

    Raises:
        TaskUnknown: There is none.
        TaskForbids, TaskChoiceWrong: See `check`.
        StateForbids: See `refunds.service.name_refund`.
    """
    task = _held_with_charge(unit, task_id_)
    check(task, How.PAID_BY, note, refund.id)
    # Before the request moves, which ends what is still open of it.
    _resolved(unit, task, How.PAID_BY, actor, note, None)
    request = refunds.name_refund(unit, task.request or "", refund, began_at, actor, note)
    weigh(unit, task.account, task.charge)
    return request


def say_not_paid(unit: Unit, task_id_: str, clocks: Clocks, actor: Actor, note: str) -> Task:
    """Say that a request of unknown outcome was not paid. The first person's word is kept, the second's ends the request.

    Args:
        unit: The open unit, which has taken in a complete look at the charge.
        task_id_: The task.
        clocks: When that look began.
        actor: Who says so.
        note: What they have seen.

    Returns:
        The task: still open after the first word, resolved after the second.

    Raises:
        TaskUnknown: There is none.
        TaskForbids: `too_early`; `refunds_not_shown`: by Stripe's sum so much was given back that it may be this one;
            `second_person_needed`: the same person has said so before.
        TaskForbids, TaskChoiceWrong: See `check`.
    """
    task = _held_with_charge(unit, task_id_)
    check(task, How.NOT_PAID, note)
    request = task.request or ""
    wait = refunds.sayable_in(unit, request, clocks)
    if wait > 0:
        raise TaskForbids(
            f"Stripe may still pay what was sent for request {request} under its key: not_paid can be said from {moment(unit.now + wait + 60)} "
            "on, 25 hours after the last send; nothing was changed",
            code="too_early",
            task=task.id,
            request=request,
        )
    if (charge := charges.find(unit, task.charge)) is not None and charge.not_shown_minor >= task.amount_minor:
        # Both people have looked at the same list, which may lack the very refund that they look for.
        hidden = Money(charge.not_shown_minor, charge.currency)
        raise TaskForbids(
            f"Stripe counts {hidden} as given back on {task.charge} beyond the refunds that it shows, and this may be the refund of request "
            f"{request}: ask Stripe's support which refund that is, and name it (paid_by), or try again once its refunds add up; nothing was changed",
            code="refunds_not_shown",
            task=task.id,
            request=request,
        )
    if task.first_by is None:
        repository.note_first(unit, task.id, str(actor), note)
        audit.record(unit, actor, "task.not_paid_said", request, {"task": task.id, "note": note, "why": note})
        return need(unit, task.id)
    # A directory may know one person by names that differ in their letters' case.
    if task.first_by.partition(":")[2].strip().casefold() == actor.name.strip().casefold():
        raise TaskForbids(
            f"{actor.name} has said so already: a second person has to confirm it by the same command, logged in to this machine as another user "
            "(people who share one, as in a container, count as one)",
            code="second_person_needed",
            task=task.id,
            request=request,
        )
    both = f"{task.note}; {note}"
    done = _resolved(unit, task, How.NOT_PAID, actor, both, None)
    refunds.say_not_paid(
        unit, request, actor, f"{task.first_by.partition(':')[2]} and {actor.name} say that it was not paid: {both}"
    )
    return done


def _held_with_charge(unit: Unit, task_id_: str) -> Task:
    """Read a task that is about to be resolved; its charge first, as everywhere, so that two units never wait for each other."""
    charges.hold_still(unit, need(unit, task_id_).charge)
    return need(unit, task_id_, hold=True)


def _again(old: RefundRequest) -> RefundRequest:
    account, _, mode = old.account.partition("|")
    # One request is replaced once: its replacement's name is made of its own, whoever asks for it and how often.
    key = f"replaces:{old.id}"
    content = replace(old.content, asked_minor=old.amount_minor)
    return RefundRequest(
        ids.request_id(account, mode, key), old.account, key, content, lane=Lane.DESK, replaces=old.id
    )  # fmt: skip


def _resolved(unit: Unit, task: Task, how: How, actor: Actor, note: str, replacement: str | None) -> Task:
    repository.resolve(unit, task.id, how, str(actor), note, replacement)
    facts = {"task": task.id, "kind": task.kind.value, "how": how.value, "note": note, "replacement": replacement}
    facts["why"] = f"{how.value}: {note}" if note else how.value
    audit.record(unit, actor, "task.resolved", task.request or task.refund or task.charge, facts)
    return need(unit, task.id)


def page(
    unit: Unit, account: str, kinds: Sequence[str], most: int, *, resolved: bool = False, after: str | None = None
) -> list[Task]:
    """Read the open tasks of an account, those that are due first at the top; with `resolved` all, the newest first.

    Args:
        unit: The open unit.
        account: Whose.
        kinds: Only these; all, if none is named.
        most: How many.
        resolved: Those that are resolved too.
        after: The task behind which to go on, which may be resolved by now.

    Raises:
        UsageError: `task_kind_unknown`, `place_unknown`.
    """
    known = {kind.value for kind in Kind}
    for kind in kinds:
        if kind not in known:
            raise UsageError(f"--kind {kind} is none: {', '.join(Kind)}", code="task_kind_unknown", option="--kind")
    place = None if after is None else repository.find(unit, after)
    if after is not None and place is None:
        raise UsageError(
            f"--after {after:.40} is no place in the list: take the `next` of the page before, a task's id",
            code="place_unknown",
            option="--after",
        )
    return repository.page(unit, account, [Kind(kind) for kind in kinds], most, resolved=resolved, after=place)


of_charge = repository.of_charge
counts = repository.counts
oldest_open = repository.oldest_open
overdue = repository.overdue
