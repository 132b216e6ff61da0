"""Bugs to plant: each changes one piece of the product's source text, and says so loudly if that text is no longer there."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from refundry.batches import service as batches
from refundry.bootstrap import read_webhook
from refundry.charges import repository as mirror
from refundry.cli import task_steer
from refundry.gateways.stripe.client import StripeGateway
from refundry.inbox import service as inbox
from refundry.inbox.model import Source
from refundry.inbox.rules import whose
from refundry.kernel import ids
from refundry.kernel.outcome import Outcome
from refundry.outbox import repository as outbox
from refundry.refunds import model, repository, rules
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, body_of
from refundry.tasks import service as tasks
from refundry.web.webhooks import STORED, Intake
from refundry.worker.executor import AGAIN_WAIT, Executor
from refundry.worker.follower import Follower
from refundry.worker.teller import Teller


@dataclass(frozen=True, slots=True)
class Cut:
    """A change of source text.

    Args:
        where: The module or class.
        name: The function in it.
        old: What stands there.
        new: What is to stand there.
    """

    where: Any
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug: cuts, or functions to put in the place of others."""

    cuts: tuple[Cut, ...] = ()
    swaps: tuple[tuple[Any, str, Any], ...] = ()


async def _send_first(self: Any, claimed: Any, slot: float) -> None:
    """Send, and write the intent only when the answer is there."""
    number = claimed.request.attempt or 1
    outcome: Outcome = await self._gateway.send(
        body_of(claimed.request), ids.idempotency_key(claimed.request.id, number)
    )
    pay, at = self._pay, self._clock.now()
    intent = await self._writer.put(
        lambda unit: refunds.submit(
            unit, claimed, at=at, stripe_at=None, look_max_age=pay.look_max_age, age_max_days=pay.age_max_days
        )
    )
    if intent is None:
        await self._put_off(claimed, AGAIN_WAIT, "")
        return
    await self._recorded(intent, outcome, slot)


async def _acknowledge_first(self: Any, door: Any, body: bytes) -> Any:
    """Say that an event is stored, and store it then."""
    seen = read_webhook(body)
    account, _ = whose(door, seen)
    stored = self._writer.put(lambda unit: inbox.collect(unit, account, seen, Source.WEBHOOK))
    self.later = asyncio.ensure_future(stored)
    return STORED


def _never(*_: Any) -> bool:
    return False


def _for_ever(*_: Any) -> float:
    return float("inf")


def _without_lease(kept: repository.OnShelf, before: RefundRequest, *_: Any) -> bool:
    return kept.request.version == before.version


def _whatever_a_person_said(kept: repository.OnShelf, before: RefundRequest, lease: str | None, _: float) -> bool:
    return lease is not None or kept.request.version == before.version


async def _never_soon(*_: Any) -> bool:
    return False


HASHED = (
    "__import__('dataclasses').replace(judged, request_key=batch.sha256 + judged.request_key, "
    "id=ids.request_id(batch.account, mode, batch.sha256 + judged.request_key))"
)
BUGS: dict[str, Bug] = {
    "intent_after_the_call": Bug(
        cuts=(Cut(Executor, "_judge", "None if self._pacer.rate_of(REFUND) else self._intend()", "None"),),
        swaps=((Executor, "_pay_now", _send_first),),
    ),
    "no_look_before_paying": Bug(
        cuts=(Cut(refunds, "_decided_on", "charge is not None and adopt(", "False and adopt("),),
        swaps=(
            (Executor, "_fresh_until", _for_ever),
            (Executor, "_look_needed", _never_soon),
            (refunds, "_old", _never),
        ),
    ),
    "only_the_first_page": Bug(cuts=(Cut(StripeGateway, "_completed", "if more:", "if False:"),)),
    "key_without_attempt_number": Bug(swaps=((ids, "idempotency_key", lambda request, _: request),)),
    "lease_ignored": Bug(
        cuts=(Cut(refunds, "claim", "until=unit.now + seconds", "until=unit.now"),),
        swaps=((repository, "_ours", _without_lease),),
    ),
    "declined_after_an_unknown": Bug(
        cuts=(
            Cut(
                model,
                "_sent",
                'State.SUBMITTING, "in_doubt", code=code',
                'State.DECLINED, "declined", reserved_minor=0, code=code',
            ),
        )
    ),
    "next_attempt_after_one_look": Bug(
        cuts=(
            Cut(
                rules,
                "_proving",
                "len(counted.looks) >= LOOKS_NEEDED and since >= patience.absence_gap",
                "counted.looks",
            ),
        )
    ),
    "next_attempt_at_once": Bug(cuts=(Cut(rules, "_proving", "age < ripe", "False"),)),
    # The refund that it became is counted, and the reservation still is.
    "reservation_counted_twice": Bug(
        cuts=(Cut(model, "_taken", "reserved_minor=0", "reserved_minor=request.reserved_minor"),)
    ),
    "reservation_not_counted": Bug(
        cuts=(Cut(refunds, "_facts", "else more_reserved + repository.reserved(", "else 0 * repository.reserved("),)
    ),
    "request_key_with_file_hash": Bug(
        cuts=(Cut(batches, "plan_slice", "wanted.append((row, judged))", f"wanted.append((row, {HASHED}))"),)
    ),
    "acknowledged_before_it_is_stored": Bug(swaps=((Intake, "_store", _acknowledge_first),)),
    # An event that comes late sets back what has become of the refund since.
    "event_believed": Bug(
        cuts=(
            Cut(
                Follower,
                "_taken",
                "refund = await self._gateway.refund(target.id, Lane.BULK)",
                "refund = replace(await self._gateway.refund(target.id, Lane.BULK), status=found.reads[target][0].status)",
            ),
        )
    ),
    "ours_as_external": Bug(
        cuts=(
            Cut(
                mirror,
                "save_refunds",
                "Origin.OURS if REQUEST_ID in r.metadata else Origin.EXTERNAL",
                "Origin.EXTERNAL",
            ),
        )
    ),
    "sent_before_it_is_answered": Bug(
        cuts=(
            Cut(
                Teller,
                "_delivered",
                "outcome = await self._sent(",
                "await self._writer.put(lambda unit: outbox.delivered(unit, name, delivery.number, 'sent'))\n"
                "    outcome = await self._sent(",
            ),
        )
    ),
    # What a person has taken back in its wait is sent by whoever had read it before.
    "version_ignored": Bug(swaps=((repository, "_ours", _whatever_a_person_said),)),
    # Who had a request before gives back what its successor holds: both work in one lane.
    "one_lease_for_a_lane": Bug(
        cuts=(
            Cut(Executor, "drain", "running, total =", "lease, running, total = self._ids.new(),"),
            Cut(Executor, "drain", "self._claim(lane, self._ids.new(), most)", "self._claim(lane, lease, most)"),
        )
    ),
    "next_attempt_decided_before_its_wait": Bug(
        cuts=(
            Cut(Executor, "_again", "last = refunds.followed(unit, claimed)", "return claimed"),
            Cut(Executor, "_resolve", "> WAITED and", "< 0 and"),
        )
    ),
    # What a person has paid by hand while the outcome was in doubt is paid again under the same key.
    "hand_unheard_in_doubt": Bug(
        cuts=(Cut(refunds, "repeats_by_now", "None if charge is None else", "None if True else"),)
    ),
    # What is proven to have paid nothing is sent anew, though its batch was paused meanwhile, or its hours are over.
    "next_attempt_not_held_back": Bug(swaps=((batches, "held_back", _never),)),
    "next_attempt_after_hours": Bug(
        cuts=(Cut(batches, "held_back", "rules.too_early(batch.schedule, unit.now)", "False"),)
    ),
    # What people say of unknown outcomes: that none was paid whose refund is there, before its key is forgotten, one alone; and any refund is it.
    "not_paid_without_a_look": Bug(
        cuts=(Cut(task_steer, "_not_paid", "look = await seat.gateway.look(task.charge, Lane.DESK)", "look = None"),)
    ),
    "not_paid_too_early": Bug(cuts=(Cut(tasks, "say_not_paid", "if wait > 0:", "if False:"),)),
    "not_paid_without_stripes_clock": Bug(
        cuts=(Cut(task_steer, "_not_paid", "None if stripe is None else stripe - since", "None"),)
    ),
    "one_person_is_enough": Bug(cuts=(Cut(tasks, "say_not_paid", "actor.name.strip().casefold()", "None"),)),
    "not_paid_tried_again_by_its_batch": Bug(
        cuts=(
            Cut(batches, "retry", "request.state in over and request.reason_code != NOT_PAID", "request.state in over"),
        )
    ),
    "any_refund_named": Bug(cuts=(Cut(refunds, "name_refund", "if why:", "if False:"),)),
    "messages_out_of_order": Bug(cuts=(Cut(outbox, "claim", ", ~_BLOCKED", ""),)),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug, and take it out again."""
    bug = BUGS[name]
    swaps = [*bug.swaps, *((where, what, _cut(some)) for (where, what), some in _by_place(bug.cuts).items())]
    before = [(where, what, inspect.getattr_static(where, what)) for where, what, _ in swaps]
    for where, what, new in swaps:
        setattr(where, what, new)
    try:
        yield
    finally:
        for where, what, old in before:
            setattr(where, what, old)


def _by_place(cuts: tuple[Cut, ...]) -> dict[tuple[Any, str], list[Cut]]:
    found: dict[tuple[Any, str], list[Cut]] = {}
    for cut in cuts:
        found.setdefault((cut.where, cut.name), []).append(cut)
    return found


def _cut(cuts: list[Cut]) -> Callable[..., Any]:
    where, name = cuts[0].where, cuts[0].name
    source = textwrap.dedent(inspect.getsource(getattr(where, name)))
    for cut in cuts:
        assert source.count(cut.old) == 1, f"{name} no longer has '{cut.old}': plant the bug anew"
        source = source.replace(cut.old, cut.new)
    module = where if isinstance(where, ModuleType) else inspect.getmodule(where)
    assert module is not None
    found: dict[str, Any] = {}
    exec(compile(source, f"<planted in {name}>", "exec"), module.__dict__, found)  # noqa: S102
    made: Callable[..., Any] = found[name]
    return made


__all__ = ["BUGS", "planted"]
