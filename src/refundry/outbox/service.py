"""The outbox: noting what is to be told, writing it in the commit of its cause, and how its deliveries go on.

What a message says about a request or an order is composed by the feature that knows it (`Composer`); `bootstrap` brings the two
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refundry.audit import service as audit
from refundry.infra.db import Database, Unit
from refundry.kernel.actor import Actor
from refundry.outbox import repository, rules
from refundry.outbox.model import (
    Cause,
    Delivery,
    DeliveryState,
    Message,
    MessageForbids,
    MessageUnknown,
    Wants,
)

NAME = "outbox"
# As many are re-sent or dropped by one command at most, so that no unit is open for long.
STEERED_MAX = 1000
# So many causes are composed together at most.
CAUSES_MAX = 5000
Composer = Callable[[Unit, list[Cause], Wants], list[Message]]


def attach(database: Database, wants: Wants, compose: Composer) -> None:
    """Have messages written just before each commit; without a target nothing is noted, and nothing costs anything.

    Args:
        database: Where causes are committed.
        wants: Which targets want which kinds.
        compose: Writes the messages of all causes of a unit.
    """
    if not any(wants.by_target.values()):
        return

    def flush(unit: Unit, causes: list[Cause]) -> None:
        # A statement takes 65,535 values at most, and those that are composed together are named in one, twice.
        for at in range(0, len(causes), CAUSES_MAX):
            write(unit, compose(unit, causes[at : at + CAUSES_MAX], wants), wants)

    database.at_commit(NAME, flush)


def note(unit: Unit, cause: Cause) -> None:
    """Note a change that is to be told of; it is kept with the unit, or not at all."""
    if NAME in unit.flushed:
        unit.collect(NAME, cause)


def write(unit: Unit, messages: Sequence[Message], wants: Wants) -> None:
    """Write messages for the targets that want them; one that was written before stays as it is."""
    some = [message for message in messages if wants.any_wants(message.kind)]
    if some:
        repository.write(unit, some, wants.by_target)


# What the teller does


def begin(unit: Unit, target: str, *, alone: bool) -> None:
    """Begin to deliver to a target: what is due later than any wait lasts was written by a clock that has been set back since, and is due now.

    Args:
        unit: The open unit.
        target: Which.
        alone: Whether no other process delivers, so that what is leased was leased by the dead.
    """
    repository.pull_forward(unit, target, unit.now + rules.BACK_OFF_MAX + rules.LEFT_ALONE_MAX)
    if alone:
        repository.free_all(unit, target)


def claim(
    unit: Unit, target: str, lease: str, *, seconds: float, most: int, untried_first: bool = False
) -> list[Delivery]:
    """Take what is due at a target under a lease: of each ordering key the first that is not over."""
    return repository.claim(unit, target, lease, until=unit.now + seconds, most=most, untried_first=untried_first)


def failed(
    unit: Unit,
    delivery: Delivery,
    lease: str,
    told: str,
    *,
    tries_max: int,
    wait_seconds: float = 0.0,
    gone: bool = False,
) -> bool:
    """Note a try that has failed.

    Args:
        unit: The open unit.
        delivery: What was tried.
        lease: Under which lease.
        told: What happened.
        tries_max: After how many tries it is parked.
        wait_seconds: How long the target wants to be left alone at least.
        gone: The target wants it never again: it is parked at once.

    Returns:
        Whether it is parked now.
    """
    tries = delivery.tries + 1
    park = gone or tries >= tries_max
    due_at = unit.now + max(rules.back_off(tries, delivery.message.id), wait_seconds)
    return repository.put_off(unit, delivery, lease, told, due_at=due_at, park=park) and park


# What a person does


def resend(unit: Unit, message: str, actor: Actor, *, target: str | None = None) -> list[Delivery]:
    """Have a message sent again, whatever became of it, under the same id; tells its deliveries that begin anew.

    Raises:
        MessageUnknown: There is none, or it does not go to this target.
    """
    found = _of(unit, message, target)
    _begin_anew(unit, found, actor)
    return found


def resend_parked(unit: Unit, actor: Actor, *, account: str | None = None, target: str | None = None) -> list[Delivery]:
    """Have everything sent again that is parked, at most `STEERED_MAX` at once; tells those that begin anew."""
    found = repository.page(unit, account, [DeliveryState.PARKED], target=target, most=STEERED_MAX)
    _begin_anew(unit, found, actor)
    return found


def _begin_anew(unit: Unit, some: Sequence[Delivery], actor: Actor) -> None:
    if some:
        repository.set_state(unit, some, DeliveryState.WAITING, "", unit.now)
    for delivery in some:
        audit.record(unit, actor, "message.resent", delivery.message.id, {"target": delivery.target})


def drop(unit: Unit, message: str, actor: Actor, why: str, *, target: str | None = None) -> list[Delivery]:
    """Give a message up, so that what waits behind it goes on; tells the deliveries that ended.

    Raises:
        MessageUnknown: There is none, or it does not go to this target.
        MessageForbids: It was delivered, or dropped before.
    """
    found = _of(unit, message, target)
    still = [one for one in found if one.state in {DeliveryState.WAITING, DeliveryState.PARKED}]
    if not still:
        raise MessageForbids(
            f"message {message} is {found[0].state}: only one that waits or is parked can be dropped", id=message
        )
    repository.set_state(unit, still, DeliveryState.DROPPED, why, unit.now)
    for delivery in still:
        audit.record(unit, actor, "message.dropped", message, {"target": delivery.target, "why": why})
    return still


def _of(unit: Unit, message: str, target: str | None) -> list[Delivery]:
    found = [one for one in repository.of_message(unit, message, hold=True) if target is None or one.target == target]
    if not found:
        where = f" for target {target}" if target else ""
        raise MessageUnknown(f"there is no message {message}{where}: `refundry outbox list` shows them", id=message)
    return found


def need(unit: Unit, message: str) -> tuple[Message, list[Delivery]]:
    """Read a message and its deliveries.

    Raises:
        MessageUnknown: There is none.
    """
    found = repository.message(unit, message)
    if found is None:
        raise MessageUnknown(f"there is no message {message}: `refundry outbox list` shows them", id=message)
    return found, repository.of_message(unit, message)


hold_keys = repository.hold_keys
rename_keys = repository.rename_keys
save_told = repository.save_told
due = repository.due
delivered = repository.delivered
page = repository.page
behind = repository.behind
counts = repository.counts
queues = repository.queues
forget = repository.forget
