"""People who end unknown outcomes: they name refunds, true and wrong ones, say that nothing was paid, early and late, and ask again.

They use the command line's own functions, by a gateway and a writer of their own, as beside the processes that work. What they were allowed
is held against Stripe's books in the commit that allows it, and kept, so that the audit log can be held against it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from refundry import bootstrap
from refundry.batches import service as batches
from refundry.bootstrap import Desk, Seat
from refundry.cli import refund_create, session, task_steer
from refundry.connectors.base import AmountKind
from refundry.infra.db import Unit
from refundry.infra.settings import Access
from refundry.kernel import ids
from refundry.kernel.actor import Actor, ActorKind
from refundry.kernel.errors import RefundryError
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from refundry.refunds.rules import ABSENT_AFTER, CLOCKS_APART
from refundry.refunds.service import NOT_PAID
from refundry.tasks import service as tasks
from refundry.tasks.model import How, Kind
from stripesim import invariants
from stripesim.api import Request
from tests.simulation.process import KEY, CountedIds, Process
from tests.simulation.scenario import HOUR, FileRow

if TYPE_CHECKING:
    from tests.simulation.world_run import Installation, WorldRun

REQUEST_ID = "refundry_request_id"
ACCESS = Access("", KEY, None, None, None, 0.1, "order_id", None, None)
CYD = Actor(ActorKind.PERSON, "cyd")
# A clock that was set back by two days keeps people waiting for as long, and for a day more where it is unknown a second time.
COMES_BACK, TIMES = 5 * HOUR, 30
# More than any charge here has: Stripe refuses it, and keeps that under the key.
TOO_MUCH = 99_999_999
Doc = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Word:
    """What somebody was allowed to say of a request.

    Args:
        url: The database.
        event: The audit event that tells of it.
        what: The refund that was named, how the task was resolved, or the note of who says first that it was not paid.
    """

    url: str
    request: str
    event: str
    who: str
    what: str


def note_of(who: str) -> str:
    """Write what somebody notes who has looked for a refund and found none."""
    return f"seen by {who}"


class People:
    """All of them.

    Args:
        world: The run that they act in.
    """

    def __init__(self, world: WorldRun) -> None:
        """Begin with nothing said."""
        self._world = world
        self.words: list[Word] = []
        # By database and request, the refund that was named for it.
        self.named: dict[tuple[str, str], str] = {}
        # By request, the refund of it that has turned up.
        self._turned_up: dict[str, str] = {}
        self._count = 0

    # What others have done

    async def key_used(self, request: str, charge: str, attempt: int) -> None:
        """Use a key of ours for what Stripe refuses: whatever is sent under it, nobody can tell what became of it."""
        key = ids.idempotency_key(request, attempt)
        head = {
            "authorization": f"Bearer {KEY}", "content-type": "application/x-www-form-urlencoded", "idempotency-key": key,
        }  # fmt: skip
        body = urlencode({"charge": charge, "amount": TOO_MUCH}).encode()
        answer = await self._world.simulator.answer(Request("POST", "/v1/refunds", "", head, body))
        self._world.log("world", f"{key} -> {answer.status}")

    async def turns_up(self, place: Installation, request_key: str, *, marked: bool) -> None:
        """Give back what a request asks for whose outcome is unknown: once, and soon enough that nobody could have said that it was not paid."""
        with self._world.unit(place) as unit:
            request = refunds.find(unit, ids.request_id(self._world.account, "test", request_key))
        if request is None or request.state is not State.OUTCOME_UNKNOWN or request.id in self._turned_up:
            return
        body: Doc = {"charge": request.content.charge, "amount": request.amount_minor}
        if marked:
            body["metadata"] = {REQUEST_ID: request.id}
        made = await self._world.control("POST /_sim/refunds", body)
        if "id" in made:
            self._turned_up[request.id] = made["id"]
            self._world.log("world", f"{made['id']} has paid {request.id}")

    # What people say

    async def say_not_paid(
        self, place: Installation, request: RefundRequest, who: tuple[str, ...], *, together: bool
    ) -> None:
        """Say that a request was not paid, one after the other or all in one moment."""
        if together:
            await asyncio.gather(*(self._say(place, request, one, How.NOT_PAID) for one in who))
            return
        for one in who:
            await self._say(place, request, one, How.NOT_PAID)

    async def name_true(self, place: Installation, request: RefundRequest) -> bool:
        """Name the refund that has turned up; tells whether there was one, and it was taken."""
        refund = self._turned_up.get(request.id)
        if refund is None or not invariants.alive(self._doc(refund)):
            return False
        return await self._say(place, request, "ben", How.PAID_BY, refund)

    async def name_wrong(self, place: Installation, request: RefundRequest, which: int) -> None:
        """Name a refund that cannot have paid a request."""
        wrong = [doc["id"] for doc in self._every_refund() if not self._fits(place.url, request, doc)]
        if wrong:
            await self._say(place, request, "ada", How.PAID_BY, wrong[which % len(wrong)])

    async def ask_again(self, place: Installation, request: RefundRequest) -> None:
        """Ask for the same by `refund create`, as the file had asked for it."""
        files = [row for rows in self._world.scenario.files for row in rows]
        row = next(
            (
                row
                for row in files
                if ids.request_id(self._world.account, "test", self._world.key_of(row)) == request.id
                and row.amount == request.content.asked_minor
            ),
            None,
        )
        if row is None:
            return
        asked, before = self._asked(row), request

        def work(unit: Unit) -> None:
            nonlocal before
            before = refunds.need(unit, request.id)
            refund_create.received(unit, desk, seen, asked, wanted)
            if before.state is State.DECLINED and refunds.need(unit, request.id).state is State.RECEIVED:
                self._world.sends.barred.pop((place.url, request.id), None)

        try:
            desk, wanted = await self._desk(place, "ada"), refund_create.wanted_of(asked)
            seen = await refund_create.look_up(desk, asked, wanted)
            await desk.writer.put(_as("ada", work))
        except RefundryError as error:
            self._world.log("ada", f"asks again for {request.id}: {error.code}")
        else:
            self._world.log("ada", f"asks again for {request.id}, which was {before.state}")

    def retry(self, place: Installation, batch: str) -> None:
        """Have a batch's refused rows tried again; what people said was not paid stays as it is."""
        with self._world.unit(place) as unit:
            every = [request for _, request in refunds.page(unit, self._world.name, [], after=0, most=1000)]
            said = [one for one in every if one.state is State.DECLINED and one.reason_code == NOT_PAID]
            batches.retry(unit, batches.need(unit, batch), CYD)
            for one in said:
                if refunds.need(unit, one.id) != one:
                    self._world.broken.append(f"{one.id}, said to be not paid, is tried again with its batch")

    async def end_all(self) -> None:
        """Let honest people end what is still unknown, have batches retried, and ask for every second of those that were not paid.

        One installation after the other: where two of them let the same request go in one moment, each by a number of its own, nothing could keep
        both from paying.
        """
        for place in list(self._world.installations.values()):
            asked = False
            for _ in range(TIMES):
                left = self._of(place, State.OUTCOME_UNKNOWN)
                if (asked and not left) or self._world.broken:
                    break
                for request in left:
                    if not await self.name_true(place, request):
                        await self.say_not_paid(place, request, ("ada", "ben"), together=False)
                if not left:
                    # What comes of that may be unknown too.
                    asked = True
                    if not place.withdrawn:
                        for batch in place.batches.values():
                            self.retry(place, batch)
                    for request in self._of(place, State.DECLINED):
                        if request.reason_code == NOT_PAID and int(request.id[:2], 16) % 2:
                            await self.ask_again(place, request)
                self._world.wake()
                await self._world.quiet()
                await asyncio.sleep(COMES_BACK if left else 0.0)

    def _of(self, place: Installation, state: State) -> list[RefundRequest]:
        with self._world.unit(place) as unit:
            return [one for _, one in refunds.page(unit, self._world.name, [state], after=0, most=1000)]

    # How they say it

    async def _desk(self, place: Installation, who: str) -> Desk:
        """Sit down at the command line of an installation."""
        self._count += 1
        process = Process(self._world, f"{who}.{self._count}", place, self._world.scenario.limits)
        account = await bootstrap.account_of(process.settings, process.gateway)
        process._pacer.serve(account.name)
        seat = Seat(ACCESS, account, process.gateway, process._pacer)
        return Desk(
            process.settings, process.database, process.writer, process.clock, CountedIds(process.life.name), (seat,)
        )

    async def _say(self, place: Installation, request: RefundRequest, who: str, how: How, refund: str = "") -> bool:
        """Resolve the task of a request as `task resolve` does; tells whether that was allowed."""
        said, url = f"{request.id} {how} {refund}".rstrip(), place.url
        with self._world.unit(place) as unit:
            found = [
                task
                for task in tasks.of_charge(unit, request.content.charge)
                if task.kind is Kind.OUTCOME_UNKNOWN and task.request == request.id and task.resolved_at is None
            ]
        if not found:
            self._world.log(who, f"says {said}: there is no task")
            return False
        (task,), note = found, note_of(who)
        try:
            desk = await self._desk(place, who)
            task = await desk.writer.put(lambda unit: tasks.need(unit, task.id))
            tasks.check(task, how, note if how is How.NOT_PAID else "", refund)
            if how is How.NOT_PAID:
                work = await task_steer._not_paid(desk, task, note)
            else:
                work = await task_steer._by_refund(desk, task, how, "", refund)

            def held(unit: Unit) -> None:
                before = refunds.need(unit, request.id)
                work(unit)
                self.words += self._allowed(unit, url, before, who, how, refund)

            await desk.writer.put(_as(who, held))
        except RefundryError as error:
            self._world.log(who, f"says {said}: {error.code}")
            return False
        self._world.log(who, f"says {said}: taken")
        return True

    def _allowed(self, unit: Unit, url: str, before: RefundRequest, who: str, how: How, refund: str) -> list[Word]:
        """Hold what was allowed against Stripe's books, in the unit that allows it; tells what the audit log has to say."""
        request_id, broken = before.id, self._world.broken
        told, state = f"{who} says of {request_id}", refunds.need(unit, request_id).state
        if how is How.PAID_BY:
            if not self._fits(url, before, self._doc(refund)):
                broken.append(f"{told} that {refund} has paid it, which cannot be")
            self.named[url, request_id] = refund
            return [
                Word(url, request_id, "task.resolved", who, how),
                Word(url, request_id, "refund_request.refund_named", who, refund),
            ]
        if before.state is not State.OUTCOME_UNKNOWN or state not in {State.OUTCOME_UNKNOWN, State.DECLINED}:
            # Others have ended it during the look, or the look has shown its refund: nothing was said.
            return []
        age = self._world.loop.time() - self._world.sends.left_at[url, request_id]
        # A process may stand still for minutes between an intent and its send.
        if age < ABSENT_AFTER - CLOCKS_APART:
            broken.append(f"{told} that it was not paid, {age / HOUR:.1f} h after it was sent")
        paid = [doc["id"] for doc in self._every_refund() if invariants.alive(doc) and _mark(doc) == request_id]
        if paid:
            broken.append(f"{told} that it was not paid, and {paid} have paid it")
        if state is State.OUTCOME_UNKNOWN:
            return [Word(url, request_id, "task.not_paid_said", who, note_of(who))]
        first = self._first_word(url, request_id)
        if first is None or first.who == who:
            broken.append(f"{told} that it was not paid, and nobody else does")
        self._world.sends.barred[url, request_id] = "said not paid"
        return [Word(url, request_id, "task.resolved", who, how)]

    def _first_word(self, url: str, request: str) -> Word | None:
        """Tell who has said first that a request was not paid, since it was last ended."""
        first = None
        for word in self.words:
            if (word.url, word.request) == (url, request):
                first = word if word.event == "task.not_paid_said" else None
        return first

    def _fits(self, url: str, request: RefundRequest, doc: Doc) -> bool:
        """Tell whether a refund may have paid a request, by what anybody can see of it; in doubt, that it may."""
        asked = (request.content.charge, request.amount_minor)
        others = {name for (where, one), name in self.named.items() if where == url and one != request.id}
        mine = _mark(doc) in {None, request.id} and doc["id"] not in others
        return mine and (doc["charge"], doc["amount"]) == asked and invariants.alive(doc)

    def _every_refund(self) -> list[Doc]:
        return list(self._world.simulator.world.store.every("refund"))

    def _doc(self, refund: str) -> Doc:
        return next(doc for doc in self._every_refund() if doc["id"] == refund)

    def _asked(self, row: FileRow) -> refund_create.Asked:
        amounts = {
            AmountKind.FULL: "" if row.amount is None else None,
            AmountKind.MINOR: None if row.amount is None else str(row.amount),
        }
        return refund_create.Asked(
            {row.by: self._world.cells(row)[row.by]}, amounts, None, "requested_by_customer", row.ticket or None, row.key or None,
            allow_repeat=False, allow_inquiry=False, allow_fraudulent=False, cancel_uncaptured=False,
        )  # fmt: skip


def _mark(doc: Doc) -> str | None:
    mark: str | None = doc.get("metadata", {}).get(REQUEST_ID)
    return mark


def _as(who: str, work: Callable[[Unit], Any]) -> Callable[[Unit], Any]:
    """Do something as a user who has logged in: who has, is kept by the kernel, where no test can change it."""

    def done(unit: Unit) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "person", lambda: Actor(ActorKind.PERSON, who))
            return work(unit)

    return done


__all__ = ["People", "Word"]
