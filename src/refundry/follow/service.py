"""What hints need, what a read changes here, and how far each feed was read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID, Charge
from refundry.disputes import service as disputes
from refundry.follow import repository, rules
from refundry.follow.model import About, Backlog, Feed, Mark, Needed, Target
from refundry.gateways.base import Look, SeenWarning
from refundry.inbox import service as inbox
from refundry.inbox.model import Event, Key
from refundry.inbox.model import State as EventState
from refundry.infra.db import Unit
from refundry.kernel.outcome import SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.service import Told
from refundry.tasks import service as tasks


def needed(unit: Unit, events: Sequence[Event]) -> Needed:
    """Tell what has to be read for some events of one account: as little as their own rows allow.

    A unit that only reads is enough. Where a charge is looked at, its refunds need no read of their own.
    """
    targets = {event: rules.target_of(event) for event in events}
    told = {event: _told(event) for event, target in targets.items() if target and target.about is About.REFUND}
    stand = refunds.standing_here(unit, told.values())
    known = charges.refunds_known(unit, {one.refund for one in told.values()})
    mirrors = charges.many(unit, {e.charge for e, t in targets.items() if t and e.charge and not _disputes(e)})
    disputed = disputes.stand_here(unit, [(e.object_id or "", e.status) for e in events if _disputes(e)])
    open_events: dict[Target, list[Event]] = {}
    settled: list[Key] = []
    silent: list[Key] = []
    for event, target in targets.items():
        if target is None and event.says_nothing:
            silent.append(event.key)
        elif target is None or _noted(event, known) or _stands(event, target, told, stand, mirrors, disputed):
            settled.append(event.key)
        else:
            open_events.setdefault(_whole(target, event, mirrors), []).append(event)
    reads = _coalesced(open_events)
    wanted = [target.id for target in reads if target.about is About.REFUND]
    created = {event.refund: event.created_at for event in events if event.refund and event.type == "refund.created"}
    created |= {refund: one.refund.created_at for refund, one in known.items()}
    standing = {event.refund for event in told if event.refund and told[event] in stand}
    created_here = {event.refund for event in told if event.type == "refund.created"}
    return Needed(
        tuple(settled),
        reads,
        {refund: created[refund] for refund in wanted if refund in created},
        {event.refund: claim for event in told if event.refund and (claim := rules.claim_of(event)) is not None},
        tuple(
            known[refund].refund
            for refund in sorted(standing)
            if _says_something(known[refund].refund, created=refund in created_here)
        ),
        frozenset(one.charge for one in disputes.of_charges(unit, {e.charge for e in events if e.charge})),
        tuple(silent),
    )


def _says_something(refund: SeenRefund, *, created: bool) -> bool:
    """Tell whether a refund by others that stands here already concerns requests that wait: a new one, and one that has failed.

    Whoever looked at the charge first has mirrored it, and held nobody, nor told who was held for it.
    """
    return REQUEST_ID not in refund.metadata and (created or refund.over)


def _noted(event: Event, known: Collection[str]) -> bool:
    """Tell whether a credit note's refund is known here: that is all that a note tells of it."""
    return event.type.startswith("credit_note.") and event.refund in known


def _disputes(event: Event) -> bool:
    return event.type.startswith("charge.dispute.")


def _told(event: Event) -> Told:
    return Told(event.refund or "", event.request or rules.claim_of(event), event.status)


def _stands(
    event: Event,
    target: Target,
    told: Mapping[Event, Told],
    stand: Collection[Told],
    mirrors: Mapping[str, Charge],
    disputed: Collection[tuple[str, str | None]],
) -> bool:
    match target.about:
        case About.REFUND:
            return told[event] in stand
        case About.CHARGE if _disputes(event):
            # Its events of before and of now may come at once.
            return (event.object_id or "", event.status) in disputed
        case About.CHARGE:
            return rules.charge_stands(event, mirrors.get(target.id))
        case About.WARNINGS:
            return False


def _whole(target: Target, event: Event, mirrors: Mapping[str, Charge]) -> Target:
    """Read all of a charge that nobody here has asked for yet: whose order it is, and what is left of it, only a look at it tells."""
    if target.about is About.REFUND and event.charge and event.charge not in mirrors:
        return Target(About.CHARGE, event.charge)
    return target


def _coalesced(found: Mapping[Target, list[Event]]) -> dict[Target, tuple[Event, ...]]:
    """Let the look at a charge answer for those of its refunds that would be read too."""
    out = {target: list(events) for target, events in found.items() if target.about is not About.REFUND}
    for target, events in found.items():
        if target.about is About.REFUND:
            look = Target(About.CHARGE, events[0].charge or "")
            out.setdefault(look if look in out else target, []).extend(events)
    return {target: tuple(events) for target, events in sorted(out.items())}


def take_refund(unit: Unit, account: str, refund: SeenRefund, began_at: float, claim: str | None = None) -> bool:
    """Take in a refund that was read.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        refund: As it was read.
        began_at: When the read began, by the database's clock.
        claim: The request under whose idempotency key it was made, if its mark was taken away.

    Returns:
        False, if it was overtaken by another read, and has to be read again.
    """
    if not refunds.heard(unit, account, _marked(refund, claim), began_at):
        return False
    tasks.weigh(unit, account, refund.charge)
    return True


def _marked(refund: SeenRefund, claim: str | None) -> SeenRefund:
    if claim is None or REQUEST_ID in refund.metadata:
        return refund
    return replace(refund, metadata=refund.metadata | {REQUEST_ID: claim})


def take_look(unit: Unit, account: str, look: Look, order_key: str, claims: Mapping[str, str] | None = None) -> bool:
    """Take in a look at a charge: its mirror, its disputes, and what became of its refunds.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        look: Dated by the database's clock.
        order_key: The metadata key that holds the order id.
        claims: As in `take_refund`, by refund.

    Returns:
        False, if it was overtaken, and the charge has to be looked at again.
    """
    charges.hold_still(unit, look.charge.id)
    seen = [_marked(refund, (claims or {}).get(refund.id)) for refund in look.refunds]
    charges.mirror(unit, account, [replace(look, refunds=tuple(seen))], order_key)
    kept = charges.find(unit, look.charge.id)
    if kept is None or kept.looked_at != look.began_at:
        return False
    disputes.seen(unit, account, look.charge.id, look.disputes, look.began_at)
    refunds.notice(unit, account, look.charge.id)
    # As they are kept: one of ours whose mark was wiped at Stripe is still ours.
    for refund in kept.refunds:
        refunds.suspect(unit, refund)
    tasks.weigh(unit, account, look.charge.id)
    return True


def not_on_record(unit: Unit, events: Iterable[Event]) -> list[str]:
    """Tell the disputes that events of one charge tell of, and that no look at it has shown."""
    told = {event.object_id: event.charge for event in events if _disputes(event) and event.object_id and event.charge}
    known = {one.id for one in disputes.of_charges(unit, set(told.values()))}
    return sorted(told.keys() - known)


def take_warnings(unit: Unit, account: str, found: Sequence[SeenWarning]) -> None:
    """Take in early fraud warnings: they are shown, and decide nothing."""
    disputes.warned(unit, account, found)


def take_known(unit: Unit, account: str, found: Needed) -> None:
    """Do what follows from events that say nothing new of themselves: hold what they repeat, weigh what was lost twice, park what says nothing at all."""
    for refund in found.external:
        charges.hold_still(unit, refund.charge)
        # What was read for the other events, and by others, may have shown since that it has failed.
        refunds.suspect(unit, charges.refund_of(unit, refund.id) or refund)
    for charge in sorted(found.disputed):
        tasks.weigh(unit, account, charge)
    # Those that a person had tried again; by themselves they never wait.
    inbox.park(unit, found.silent)


# Watermarks


def begin(unit: Unit, account: str, feed: Feed, every: float) -> Mark | None:
    """Begin to read a feed whose turn it is; `None`, if it is not, or another process does."""
    repository.make(unit, account, feed)
    if not repository.begin(unit, account, feed, unit.now - every):
        return None
    return repository.find(unit, account, feed)


def mark(unit: Unit, account: str, feed: Feed) -> Mark:
    """Tell how far a feed was read."""
    return repository.find(unit, account, feed)


def move(unit: Unit, account: str, feed: Feed, to: float) -> None:
    """Move a watermark forward: everything before has been seen."""
    repository.make(unit, account, feed)
    repository.move(unit, account, feed, to)


def set_back(unit: Unit, account: str, feed: Feed, to: float) -> None:
    """Move a watermark back, that a clock has set too far."""
    repository.set_back(unit, account, feed, to)


def spend(unit: Unit, account: str, feed: Feed, reads: int) -> None:
    """Count the calls that a feed has cost."""
    repository.make(unit, account, feed)
    repository.spend(unit, account, feed, reads)


def take_turn(unit: Unit, account: str, who: str, seconds: float) -> bool:
    """Be the one process that applies the events of an account, for a while; false, while another is."""
    repository.make(unit, account, Feed.INBOX)
    return repository.hold(unit, account, Feed.INBOX, who, seconds)


def end_turn(unit: Unit, account: str, who: str | None = None) -> None:
    """Let another process apply the events of an account at once: `who` ends, or, without a name, whoever had the turn is dead."""
    repository.let_go(unit, account, Feed.INBOX, who)


def backlog(unit: Unit, account: str) -> Backlog:
    """Tell what of an account waits for a person, for evidence, or to be followed.

    A unit that only reads is enough, and nothing of what is over is read: it may be asked every few seconds.
    """
    events = inbox.open_counts(unit, account)
    marks = {feed: repository.find(unit, account, feed).mark for feed in Feed}
    return Backlog(
        unit.now,
        tasks.counts(unit, account),
        tasks.overdue(unit, account),
        tasks.oldest_open(unit, account),
        disputes.count_open(unit, account),
        tuple(disputes.due_soon(unit, account)),
        events[EventState.WAITING],
        events[EventState.PARKED],
        inbox.oldest_waiting(unit, account),
        inbox.last_received(unit, account),
        {feed: mark for feed, mark in marks.items() if mark is not None},
    )
