"""What the doctor sees waiting: for a person, for a bank, for an order system, or to be followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from refundry import bootstrap
from refundry.accounts.model import Account
from refundry.cli import output
from refundry.cli.doctor_findings import Area, Finding, Level, of_error
from refundry.disputes.model import Dispute
from refundry.follow import rules
from refundry.follow import service as follow
from refundry.follow.model import Backlog, Feed
from refundry.infra import tracing
from refundry.infra.db import Unit
from refundry.infra.settings import Settings
from refundry.kernel.clock import SystemClock
from refundry.kernel.errors import RefundryError
from refundry.outbox import service as outbox
from refundry.outbox.model import Queue
from refundry.refunds import service as refunds

# A storm of 150,000 events is followed by then, at live limits with their charges coalesced; a longer wait has another reason.
EVENT_OVERDUE_SECONDS = 3600.0
# By then a receiver that was started anew is back, and what it has missed was sent again.
MESSAGE_OVERDUE_SECONDS = 3600.0
# So many missed turns of a feed that is asked at its slowest are no chance any more: an hour by the usual setting.
TURNS_MISSED = 4
NAMED_MAX = 3
DASHBOARD = "https://dashboard.stripe.com"


def targets(settings: Settings) -> Finding:
    """Tell which order systems are set."""
    try:
        made = bootstrap.targets_of(settings, SystemClock())
    except RefundryError as error:
        why = "no command starts before that is mended: nothing is paid, and nobody told"
        return of_error(Area.MACHINE, "orders", error, why)
    named = " and ".join(target.name for target in made)
    if flaw := _flaw_of_file(settings.orders.file):
        return Finding(
            Area.MACHINE, "orders", f"REFUNDRY_ORDERS__FILE cannot be written ({flaw})", Level.WRONG, "orders_file_unusable",
            "no command that pays goes on before that is mended", "name a file in a folder that exists and is yours, or -",
            "REFUNDRY_ORDERS__FILE",
        )  # fmt: skip
    if deaf := [name for name, kinds in bootstrap.wants_of(settings).by_target.items() if not kinds]:
        variable = "REFUNDRY_ORDERS__SQL_KINDS" if deaf == ["sql"] else "REFUNDRY_ORDERS__KINDS"
        return Finding(
            Area.MACHINE, "orders", f"{variable} names no kind of message, so {' and '.join(deaf)} is told of nothing", Level.WARNING,
            "message_kinds_none", "your order system does not hear of any refund", f"unset {variable}, or name some kinds, or all",
        )  # fmt: skip
    return Finding(Area.MACHINE, "orders", f"told by {named}" if named else "no order system is set to be told")


def _flaw_of_file(path: str | None) -> str:
    """Tell why messages could not be appended to a file, without making it; nothing, if they could."""
    if path is None or path == "-":
        return ""
    place = Path(path)
    if place.is_dir():
        return f"{path} is a folder"
    there = place if place.exists() else place.parent
    if not there.exists():
        return f"there is no folder {there}"
    return "" if os.access(there, os.W_OK) else f"{there} is not yours to write to"


def traces(settings: Settings) -> Iterator[Finding]:
    """See that an address for traces is one."""
    address = settings.traces_endpoint
    if address and not tracing.sendable(address):
        name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if settings.otlp_traces_endpoint else "OTEL_EXPORTER_OTLP_ENDPOINT"
        yield Finding(
            Area.MACHINE, "traces", f"{name} has no scheme", Level.WARNING, "traces_endpoint_wrong",
            "refunds are paid, but not traced", f"write it as in {name}=http://localhost:4318, an address of OTLP over HTTP",
        )  # fmt: skip


def of_account(unit: Unit, account: Account, settings: Settings, about: str) -> Iterator[Finding]:
    """Tell what of an account waits; `about` names it in what is to be typed."""
    backlog = follow.backlog(unit, account.name)
    yield from _tasks(account, backlog, about)
    yield from _disputes(account, backlog, about)
    yield from _events(account, backlog)
    yield from _followed(unit, account, backlog, settings, about)


def _tasks(account: Account, backlog: Backlog, about: str) -> Iterator[Finding]:
    count = sum(backlog.tasks.values())
    if not count or backlog.task_since is None:
        return
    by_kind = ", ".join(f"{output.number(n)} {kind}" for kind, n in sorted(backlog.tasks.items()))
    oldest = f"the oldest for {output.lasting(backlog.at - backlog.task_since)}"
    said = f"{output.counted(count, 'open task')} of {account.id} ({by_kind}), {oldest}"
    why = "nothing of them goes on by itself: a customer waits for money, or a loss can still be told to somebody"
    do = f"refundry task list{about}, and then refundry task show ID"
    if backlog.tasks_overdue:
        said = f"{said}; {output.number(backlog.tasks_overdue)} overdue"
        yield Finding(Area.WORK, "tasks", said, Level.WARNING, "tasks_overdue", why, do)
    else:
        yield Finding(Area.WORK, "tasks", said, Level.NOTE, "tasks_open", why, do)


def _disputes(account: Account, backlog: Backlog, about: str) -> Iterator[Finding]:
    if not backlog.disputes:
        return
    said = f"{output.counted(backlog.disputes, 'open dispute')} of {account.id}"
    if not backlog.disputes_due:
        why = "what is not paid yet on their charges waits until they have ended"
        yield Finding(
            Area.WORK, "disputes", said, Level.NOTE, "disputes_open", why, f"nothing, or: refundry dispute list{about}"
        )
        return
    due = backlog.disputes_due
    named = ", ".join(_due(dispute, backlog.at) for dispute in due[:NAMED_MAX])
    more = f" and {len(due) - NAMED_MAX} more" if len(due) > NAMED_MAX else ""
    mode = "" if account.mode == "live" else "/test"
    yield Finding(
        Area.WORK, "disputes", f"{said}; evidence is due soon for {named}{more}", Level.WARNING, "disputes_due_soon",
        "a dispute that is not answered in time is lost, with its amount and its fee",
        f"answer at {DASHBOARD}{mode}/disputes, with refunds of the charge as evidence; refundry dispute list{about} shows all",
    )  # fmt: skip


def _due(dispute: Dispute, now: float) -> str:
    left = "" if dispute.due_at is None else f" (in {output.lasting(dispute.due_at - now)})"
    return f"{dispute.id}{left}"


def _events(account: Account, backlog: Backlog) -> Iterator[Finding]:
    """Tell of events that nobody follows."""
    if parked := backlog.events_parked:
        yield Finding(
            Area.WORK, "events", f"{output.counted(parked, 'event')} of {account.id} {'is' if parked == 1 else 'are'} parked", Level.WARNING,
            "events_parked", "what they hint at is only seen when its charge is looked at the next time",
            "refundry inbox list --state parked says why; then refundry inbox replay --parked, or, for what is parked again, "
            "refundry inbox ignore EVENT --why TEXT",
        )  # fmt: skip
    if backlog.event_since is not None and backlog.at - backlog.event_since > EVENT_OVERDUE_SECONDS:
        waits = output.lasting(backlog.at - backlog.event_since)
        yield Finding(
            Area.WORK, "events", f"an event of {account.id} waits for {waits}", Level.WARNING,
            "events_overdue", "what Stripe has told is not in the tables yet", "start `refundry serve`; refundry inbox list --state waiting",
        )  # fmt: skip


def _followed(unit: Unit, account: Account, backlog: Backlog, settings: Settings, about: str) -> Iterator[Finding]:
    """Tell how long ago Stripe was asked for what no webhook has told."""
    mark = backlog.marks.get(Feed.EVENTS, backlog.marks.get(Feed.REFUNDS))
    if mark is None:
        return
    # Disputes are told by events alone: lists of refunds do not make up for them.
    behind = backlog.at - mark
    if behind <= rules.every(settings.follow.poll_seconds, going_on=False) * TURNS_MISSED:
        yield Finding(Area.WORK, "following", f"{account.id} was followed up to {output.lasting(max(behind, 0))} ago")
        return
    going_on = refunds.any_going_on(unit, account.name)
    yield Finding(
        Area.WORK, "following", f"{account.id} was followed up to {output.lasting(behind)} ago, and not since",
        Level.WARNING if going_on else Level.NOTE, "follow_behind",
        "what no webhook told is not seen: refunds that settle, fail or are made by others, and disputes; Stripe tells events for 30 days",
        f"refundry serve goes on with it, refundry catch-up{about} does it at once",
    )  # fmt: skip


def of_messages(unit: Unit, settings: Settings) -> Iterator[Finding]:
    """Tell what order systems were not told."""
    try:
        set_ = bootstrap.wants_of(settings).by_target.keys()
    except RefundryError:
        # What is wrong with the settings is told among them.
        return
    for target, queue in outbox.queues(unit).items():
        if target not in set_ and queue.waiting:
            yield Finding(
                Area.WORK, "messages", f"{output.counted(queue.waiting, 'message')} for target {target} wait, which is not set any more",
                Level.WARNING, "messages_without_target", "nobody is told of them, however long they wait",
                f"set its REFUNDRY_ORDERS__… again, or give them up: refundry outbox list --target {target}, refundry outbox drop ID --why …",
            )  # fmt: skip
        else:
            yield from _queue(target, queue, unit.now)


def _queue(target: str, queue: Queue, now: float) -> Iterator[Finding]:
    if queue.parked:
        yield Finding(
            Area.WORK, "messages", f"{output.counted(queue.parked, 'message')} for target {target} {'is' if queue.parked == 1 else 'are'} parked",
            Level.WARNING, "messages_parked", "your order system does not know of them, and later ones of their orders wait behind them",
            f"refundry outbox list --state parked says why; with that mended: refundry outbox resend --parked --target {target}",
        )  # fmt: skip
    waits = 0.0 if queue.waits_since is None else now - queue.waits_since
    said = f"{output.counted(queue.waiting, 'message')} for target {target} {'waits' if queue.waiting == 1 else 'wait'}"
    if waits > MESSAGE_OVERDUE_SECONDS:
        told = f"; its last try: {queue.told}" if queue.told else ""
        yield Finding(
            Area.WORK, "messages", f"{said}, the oldest for {output.lasting(waits)}{told}", Level.WARNING, "messages_overdue",
            "your order system does not know of them", "see that it answers, and that `refundry serve` or a worker runs; they are sent by themselves",
        )  # fmt: skip
    elif queue.waiting:
        yield Finding(Area.WORK, "messages", said)
