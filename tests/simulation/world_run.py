"""One run of a scenario: product, simulator and clocks in one virtual time, from the first charge to the last look.

Everything is derived from the seed, and every step is in the log: the same seed gives the same log, byte by byte.
"""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
import structlog

from refundry import bootstrap
from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, Schedule
from refundry.connectors.base import ReadOptions
from refundry.follow.rules import CALM
from refundry.inbox.model import HANDLED
from refundry.infra.db import Database, Unit, sqlite_url
from refundry.kernel import ids
from refundry.kernel.actor import Actor, ActorKind
from refundry.kernel.lane import Lane
from refundry.outbox import service as outbox
from refundry.outbox.model import Wants
from refundry.outbox.rules import kinds_of
from refundry.refunds import service as refunds
from refundry.refunds.model import UNPAID, Content, HeldReason, RefundRequest, State
from refundry.refunds.service import LOOK_GRACE, StateForbids
from refundry.worker.follower import IDLE_SECONDS
from stripesim import limits
from stripesim.api import Request
from stripesim.app import Simulator
from stripesim.clock import Clock as StripeClock
from stripesim.resources.disputes import CLOSED, INQUIRY
from stripesim.webhooks import Pump
from tests.simulation.order_system import OrderSystem
from tests.simulation.people import People
from tests.simulation.process import KEY, Life, Process, turns_in
from tests.simulation.scenario import HOUR, FileRow, Follow, Happening, Scenario
from tests.support.clock import START
from tests.support.virtual_time import Circling, MachineClock, Standstill, VirtualLoop, run

PERSON = Actor(ActorKind.PERSON, "ada")
COLUMNS = ("charge_id", "payment_intent", "order_id", "amount_minor", "ticket_id", "request_key", "note")
# Proof of absence takes up to 25 h, a refund whose sums do not add up five more; with clocks set back, twice that.
QUIET_WITHIN = 120 * HOUR
# With these, others refund too, or a mirror lags behind: what is claimed may then exceed what is left until it is looked at again.
SHARED = {"by_hand", "busy_charge", "second_installation", "deleted", "fails", "pends", "stale", "jumps", "unknown"}
# Turns of catching up until nothing new is found: what one finds may make something happen that the next finds.
ROUNDS_MAX = 20
RESTLESS = ("request.interrupted", "invariant.violated")


# Makes an empty database under a name, and tells its address.
Made = Callable[[str], str]


class Unsettled(Exception):  # noqa: N818  # the word
    """Something is still to happen long after all trouble has ended."""


@dataclass(slots=True)
class Sends:
    """Watches every send of a refund, at the moment when it leaves.

    Args:
        broken: Where it tells what must not be.
    """

    broken: list[str]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    flying: dict[tuple[str, str], Process] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    strict: bool = True
    sums: bool = True
    # Of requests that a person has stopped or taken back before they were sent: how.
    barred: dict[tuple[str, str], str] = field(default_factory=dict)
    intents: Counter[tuple[str, str]] = field(default_factory=Counter)
    # By request, when its last send left, in seconds after the start.
    left_at: dict[tuple[str, str], float] = field(default_factory=dict)

    def begins(self, process: Process, key: str) -> None:
        """Hold a send against what is on disk: its intent, what is claimed of its charge, and that nobody else sends for it now."""
        self.counts[process.url, key] += 1
        times = self.counts[process.url, key]
        with process.database.reading() as unit:
            row = unit.connection.exec_driver_sql(INTENT.format(key=key)).one_or_none()
            request, written = (row[0], len(json.loads(row[1]))) if row else (key, 0)
            claimed = unit.connection.exec_driver_sql(OVERCLAIMED).all() if self.sums else []
        if written < times:
            self.broken.append(f"{key} is sent for the {times}. time, {written} intents are on disk")
        self.broken += [f"{row[0]}: {row[1]} captured, {row[2]} reserved, {row[3]} refunded" for row in claimed]
        other = self.flying.get((process.url, request))
        calm = self.strict and not process.life.was_stopped
        if other is not None and calm and not other.life.dead and not other.life.was_stopped:
            self.broken.append(f"{key} is sent by {process.life.name} while {other.life.name} sends for it")
        self.flying[process.url, request] = process
        self.names[key] = request
        self.left_at[process.url, request] = process.now()

    def intended(self, process: Process, unit: Unit) -> None:
        """Hold each intent that has just been committed against what was known then: by the mirror, and by what persons have said.

        What is sent again under the same key is not decided anew, since its first send may have paid it; but where somebody else has given back
        the same it is not sent again.
        """
        for row in unit.connection.exec_driver_sql(INTENDED).all():
            sends, name = json.loads(row.sends), (process.url, row.idempotency_key)
            if len(sends) <= self.intents[name]:
                continue
            self.intents[name] = len(sends)
            who = f"{row.idempotency_key} is to be sent by {process.life.name}"
            given = unit.connection.exec_driver_sql(GIVEN.format(charge=row.charge)).all()
            allowed = json.loads(row.allowed)
            same = [
                doc.id
                for doc in given
                if doc.request is None and doc.amount_minor == row.asked_minor and doc.id not in allowed
            ]
            if same:
                self.broken.append(f"{who}: {row.amount_minor}, which {same} have given back already")
            if any(send["outcome"] != "not_taken" for send in sends[:-1]):
                continue
            if (how := self.barred.get((process.url, row.request))) is not None:
                self.broken.append(f"{who}, and a person has {how} it")
            # Its first attempt, or the next one: nothing is in doubt that would have to be sent again.
            for batch in unit.connection.exec_driver_sql(STEERED.format(request=row.request)).all():
                if batch.state == BatchState.PAUSED:
                    self.broken.append(f"{who}, and its batch is paused")
                if self.strict and _closed(batch.schedule, sends[-1]["database_at"]):
                    self.broken.append(f"{who}, and its hours are over")
            old, most = sends[-1]["database_at"] - row.looked_at, max(process.settings.pay.look_max_age, LOOK_GRACE)
            if self.strict and not 0 <= old <= most:
                self.broken.append(f"{who} by a look of {old:.1f} s ago, and {most:.0f} s are allowed")
            if (sum_ := sum(doc.amount_minor for doc in given)) + row.amount_minor > row.captured_minor:
                self.broken.append(f"{who}: {row.amount_minor} of {row.captured_minor}, and {sum_} is refunded")

    def ends(self, process: Process, key: str) -> None:
        """Forget a send that has ended for its sender."""
        request = self.names[key]
        if self.flying.get((process.url, request)) is process:
            del self.flying[process.url, request]


@dataclass(slots=True)
class Installation:
    """A database, the machine it is on, and the processes that work on it."""

    number: int
    machine: MachineClock
    url: str = ""
    generation: int = 0
    processes: list[Process] = field(default_factory=list)
    batches: dict[int, str] = field(default_factory=dict)
    withdrawn: bool = False
    # Of this database: who it tells, which events it has acknowledged, and when it began to follow, in seconds after the start.
    orders: OrderSystem | None = None
    acknowledged: set[str] = field(default_factory=set)
    since: float | None = None

    def follows_since(self, at: float, begun: bool) -> None:  # noqa: FBT001  # as found
        """Hear that a turn of catching up, begun at a time, has ended: whether all feeds are read since."""
        if begun and self.since is None:
            self.since = at


class WorldRun:
    """A run.

    Args:
        scenario: What happens.
        folder: Where its files are.
        made: Makes an empty database of this program's version under a name; tells its address.
        loop: Its time.
    """

    def __init__(self, scenario: Scenario, folder: Path, made: Made, loop: VirtualLoop) -> None:
        """Make Stripe, and a shop in it."""
        self.scenario, self.folder, self.made, self.loop = scenario, folder, made, loop
        self.lines: list[str] = []
        self.broken: list[str] = []
        self.sends = Sends(self.broken, strict="jumps" not in scenario.traits, sums=not scenario.traits & SHARED)
        self.simulator = Simulator(
            seed=scenario.seed,
            clock=StripeClock(machine=lambda: START + loop.time()),
            limits=limits.parsed(scenario.limits),
            monotonic=loop.time,
        )
        self.account = self.simulator.world.platform
        self.name = f"{self.account}|test"
        self.installations: dict[int, Installation] = {}
        self.opened_databases: list[Database] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.dead: list[Process] = []
        self.charges: list[str] = []
        self.intents: list[str] = []
        self.faulty = False
        # By installation, what Stripe signs its webhooks with.
        self.secrets: dict[int, str] = {}
        self.people = People(self)
        self._names = 0
        self._sent = 0

    # The log

    def log(self, who: str, what: str) -> None:
        """Write down a step."""
        self.lines.append(f"{self.loop.time():13.6f} {who:8} {what}")

    def heard(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Take in a log event of the product."""
        name = str(event.get("event"))
        told = {key: event[key] for key in sorted(event) if key not in {"event", "exc_info", "account"}}
        self.log("product", f"{name} {json.dumps(told, default=str)}")
        if name in RESTLESS:
            import traceback

            error = event.get("exc_info")
            text = traceback.format_exc() if error is True else str(error)
            self.broken.append(f"{name}: {told}: {text}")
        raise structlog.DropEvent

    # Stripe

    async def control(self, operation: str, body: Any = None) -> Any:
        """Call the simulator's control; a refusal is an answer."""
        method, path = operation.split(" ")
        raw = b"" if body is None else json.dumps(body).encode()
        answer = await self.simulator.answer(Request(method, path, "", {"content-type": "application/json"}, raw))
        read = json.loads(answer.body)
        if answer.status != 200:
            self.log("world", f"{operation} refused: {read['error']['message']}")
        return read

    async def open_shop(self) -> None:
        """Load the charges."""
        created = str(int(START) - 5 * 86_400)
        rows = [
            {
                "order_id": charge.order, "amount_minor": charge.amount, "currency": charge.currency, "created": created,
                "card": charge.card, "captured": str(charge.captured).lower(),
            }
            for charge in self.scenario.charges
        ]  # fmt: skip
        await self.control("POST /_sim/load", {"charges": rows})
        if self.scenario.settings:
            await self.control("POST /_sim/settings", self.scenario.settings)
        by_order = {doc["metadata"]["order_id"]: doc for doc in self.simulator.world.store.every("charge")}
        docs = [by_order[charge.order] for charge in self.scenario.charges]
        self.charges = [doc["id"] for doc in docs]
        self.intents = [doc["payment_intent"] for doc in docs]
        for currency in sorted({charge.currency for charge in self.scenario.charges}):
            await self.control("POST /_sim/balance", {"currency": currency, "available": 90_000_000})
        if self.scenario.follow is not None:
            await self._open_webhooks(self.scenario.follow)

    # Webhooks

    async def _open_webhooks(self, how: Follow) -> None:
        """Have every installation told of events, and begin to send them."""
        numbers = {
            happening.how["installation"] for happening in self.scenario.happenings if "installation" in happening.how
        }
        for number in sorted(numbers):
            self.secrets[number] = "none"
            if how.webhooks is not None:
                body = urlencode(
                    [("url", f"http://127.0.0.1/{number}"), *(("enabled_events[]", one) for one in sorted(HANDLED))]
                )
                head = {"authorization": f"Bearer {KEY}", "content-type": "application/x-www-form-urlencoded"}
                answer = await self.simulator.answer(Request("POST", "/v1/webhook_endpoints", "", head, body.encode()))
                self.secrets[number] = json.loads(answer.body)["secret"]
        if how.webhooks:
            await self.control("POST /_sim/webhooks/plan", {"seed": self.scenario.seed, "rules": list(how.webhooks)})
        self.beside(self._stripe_acts(), "stripe")

    async def _stripe_acts(self) -> None:
        """Send webhooks when they are due, and let happen what Stripe had planned for later."""
        pump, woken = Pump(self.simulator.world), asyncio.Event()
        self.simulator.world.wakes.append(woken.set)
        while True:
            woken.clear()
            if await pump.deliver_due(self._send):
                continue
            try:
                async with asyncio.timeout(self._stripe_waits()):
                    await woken.wait()
            except TimeoutError:
                self.simulator.world.catch_up()

    def _stripe_waits(self) -> float | None:
        world = self.simulator.world
        due = world.store.db.execute("SELECT min(due) FROM delivery").fetchone()[0]
        moments = [moment for moment in (due, world.next_job) if moment is not None]
        return max(min(moments) - world.clock.now(), 0.001) if moments else None

    async def _send(self, url: str, headers: dict[str, str], body: bytes, timeout: float) -> int:  # noqa: ASYNC109  # the pump's
        """Hand a webhook to a process of an installation; 0, if no answer came."""
        event, number = json.loads(body), int(url.rpartition("/")[2])
        place = self.installations.get(number)
        listening = [process for process in place.processes if process.following is not None] if place else []
        status, told = 0, "nobody"
        if place is not None and listening:
            self._sent += 1
            process = listening[self._sent % len(listening)]
            told = process.life.name
            task = self.loop.create_task(process.following.take(headers, body), name=f"{told} takes {event['id']}")
            await asyncio.wait({task, process.life.over}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            self._watch(task)
            status = task.result() if task.done() and not task.cancelled() and task.exception() is None else 0
            if 200 <= status < 300:
                self._acknowledged(place, process, event["id"])
        self.log("stripe", f"{event['type']} {event['id']} -> {told} {status}")
        return status

    def _acknowledged(self, place: Installation, process: Process, event: str) -> None:
        """See that an event is on disk at the moment when it is acknowledged."""
        place.acknowledged.add(event)
        kept = process.read(lambda unit: unit.connection.exec_driver_sql(KEPT.format(event=event)).scalar_one())
        if not kept:
            self.broken.append(f"{event} is acknowledged by {process.life.name}, and not stored")

    # Databases and processes

    def opened(self, url: str, machine: MachineClock) -> Database:
        """Open a database; a kill drops objects, never power, so that nothing waits for the disk."""
        how = self.scenario.follow
        wants = Wants() if how is None else Wants({"http": kinds_of(how.kinds, "the simulation")})
        database = bootstrap.attached(QuickDatabase(url, machine), wants)
        self.opened_databases.append(database)
        return database

    def installation(self, number: int) -> Installation:
        """Take an installation, made at its first use."""
        if number not in self.installations:
            self.installations[number] = Installation(number, MachineClock(self.loop))
            self.fresh(self.installations[number])
        return self.installations[number]

    def fresh(self, installation: Installation) -> None:
        """Give an installation an empty database."""
        installation.generation += 1
        name = f"{self.scenario.seed}-{installation.number}-{installation.generation}"
        installation.url, installation.batches = self.made(name), {}
        if (how := self.scenario.follow) is not None:
            # A database that was lost begins its messages anew, with ids that its order system has seen before.
            installation.orders = OrderSystem(name, how.moods, lambda what: self.log("orders", what))
            installation.acknowledged, installation.since = set(), None

    @contextmanager
    def unit(self, installation: Installation) -> Iterator[Unit]:
        """Open a unit, as a command beside the processes does."""
        database = self.opened(installation.url, installation.machine)
        try:
            with database.unit() as unit:
                yield unit
        finally:
            database.close()

    def start(self, installation: Installation) -> Process:
        """Start a process."""
        self._names += 1
        name = f"p{installation.number}.{self._names}"
        process = Process(self, name, installation, self.scenario.limits)
        installation.processes.append(process)
        self.beside(process.run(), name)
        self.log(name, "starts")
        return process

    def beside(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do something beside all else, until the end; it is told if it breaks."""
        task = self.loop.create_task(work, name=name)
        self._watch(task)
        return task

    def _watch(self, task: asyncio.Task[Any]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            import traceback

            text = "".join(traceback.format_exception(error))
            self.broken.append(f"process {task.get_name()} broke: {text}")

    def died(self, life: Life) -> None:
        """Hear of a death."""
        self.log(life.name, f"dies at step {life.steps}")
        for installation in self.installations.values():
            process = next((p for p in installation.processes if p.life is life), None)
            if process is not None:
                installation.processes.remove(process)
                # Kept, so that nothing of it is collected before the end.
                self.dead.append(process)
                if life.again is not None:
                    self.loop.call_later(life.again, self.start, installation)
                if self.scenario.follow is not None:
                    # What it has left behind is found by others at their next look.
                    self.loop.call_later(IDLE_SECONDS, self.wake)

    def wake(self) -> None:
        """Tell every process that something changed."""
        for installation in self.installations.values():
            for process in installation.processes:
                process.wake()

    # What happens

    async def play(self) -> None:
        """Let everything happen, then let everything come to rest."""
        await self.open_shop()
        for happening in self.scenario.happenings:
            await asyncio.sleep(max(happening.at - self.loop.time(), 0.0))
            await self._happen(happening)
        await self.calm()
        await self.quiet()
        await self.person()
        await self.quiet()
        if "unknown" in self.scenario.traits:
            await self.people.end_all()
        if self.scenario.follow is None:
            await self.follow()
            return
        for happening in self.scenario.follow.later:
            await asyncio.sleep(happening.at)
            await self._happen(happening)
            await self.quiet()
        await self.followed(self.scenario.follow)

    async def _happen(self, happening: Happening) -> None:
        self.log("world", f"{happening.what} {_told(happening.how)}")
        await getattr(self, "on_" + happening.what)(**happening.how)
        self.wake()

    async def on_start(self, installation: int) -> None:
        """Start a process."""
        self.start(self.installation(installation))

    async def on_accept(self, installation: int, file: int, schedule: Schedule | None = None) -> None:
        """Hand a file in, to be paid at once or by a schedule."""
        place = self.installation(installation)
        path = self.folder / f"{self.scenario.seed}-file-{file}.csv"
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            for row in self.scenario.files[file]:
                writer.writerow(self.cells(row))
        opened = bootstrap.read_file(path, options=ReadOptions())
        with self.unit(place) as unit:
            batch, _ = batches.accept(unit, self.name, opened, "", PERSON)
            if schedule is not None:
                batches.set_schedule(unit, batch, schedule, PERSON)
        place.batches[file] = batch.id

    def cells(self, row: FileRow) -> dict[str, str]:
        """Write a row of a file."""
        names = {"charge_id": "ch_nobody1", "payment_intent": "pi_nobody1", "order_id": "order-nobody"}
        if row.charge is not None:
            at = row.charge
            names = {
                "charge_id": self.charges[at], "payment_intent": self.intents[at],
                "order_id": self.scenario.charges[at].order,
            }  # fmt: skip
        amount = "full" if row.amount is None else str(row.amount)
        return {
            row.by: names[row.by], "amount_minor": amount, "ticket_id": row.ticket, "request_key": row.key, "note": row.note,
        }  # fmt: skip

    def key_of(self, row: FileRow) -> str:
        """Name what a row asks for."""
        if row.charge is None or row.key:
            return f"key:{row.key}"
        if row.ticket:
            return f"ticket:{row.ticket}:{self.cells(row)[row.by]}"
        currency = self.scenario.charges[row.charge].currency
        return f"row:{self.charges[row.charge]}:{'full' if row.amount is None else row.amount}:{currency}"

    async def on_desk(self, installation: int, row: FileRow) -> None:
        """Ask for one refund at the desk: the same ticket as a row of the file is the same request."""
        if row.charge is None or not row.ticket:
            return
        charge, key = self.charges[row.charge], self.key_of(row)
        asked = Content(
            charge, row.amount, self.scenario.charges[row.charge].currency, "requested_by_customer", row.ticket or None
        )
        request = RefundRequest(ids.request_id(self.account, "test", key), self.name, key, asked, lane=Lane.DESK)
        with self.unit(self.installation(installation)) as unit:
            refunds.receive(unit, [request], PERSON)

    async def on_faults(self, rules: list[dict[str, Any]]) -> None:
        """Put a fault plan in force."""
        self.faulty = bool(rules)
        await self.control("POST /_sim/faults", {"seed": self.scenario.seed, "rules": rules})

    async def on_crash(self, installation: int, step: int, again: float) -> None:
        """Let a process die after some more steps."""
        for process in self.installation(installation).processes[:1]:
            process.life.crash(step, again)

    async def on_stop(self, installation: int, step: int, seconds: float) -> None:
        """Let a process stand still; another one starts meanwhile."""
        place = self.installation(installation)
        for process in place.processes[:1]:
            process.life.stop(step, seconds)
            self.start(place)

    async def on_end(self, installation: int, again: float) -> None:
        """Ask a process to end, as for an upgrade."""
        for process in self.installation(installation).processes[:1]:
            process.end(again)

    async def on_jump(self, installation: int, seconds: float) -> None:
        """Set a machine's wall clock."""
        self.installation(installation).machine.jump(seconds)

    async def on_hand(self, charge: int, share: float) -> None:
        """Let a person refund in Stripe's Dashboard."""
        shop = self.scenario.charges[charge]
        amount = max(int(shop.amount * share) // 100, 1) * 100
        await self.control("POST /_sim/refunds", {"charge": self.charges[charge], "amount": amount})

    async def on_same_by_hand(self, installation: int, number: int) -> None:
        """Let a person refund in Stripe's Dashboard just what a request asks for that is not paid yet."""
        request = self._some_request(installation, number, UNPAID | {State.SUBMITTING})
        if request is not None and request.content.asked_minor is not None:
            body = {"charge": request.content.charge, "amount": request.content.asked_minor}
            await self.control("POST /_sim/refunds", body)

    async def on_take_back(self, installation: int, number: int) -> None:
        """Withdraw a single request that waits."""
        request = self._some_request(installation, number, UNPAID)
        if request is not None:
            place = self.installation(installation)
            with self.unit(place) as unit:
                refunds.withdraw(unit, request.id, PERSON, "no longer wanted")
            self.sends.barred[place.url, request.id] = "withdrawn"
            self.log("world", f"withdrawn {request.id}")

    async def on_want_again(self, installation: int, number: int) -> None:
        """Reopen a single request that was withdrawn."""
        request = self._some_request(installation, number, {State.WITHDRAWN})
        if request is not None:
            place = self.installation(installation)
            with self.unit(place) as unit:
                refunds.reopen(unit, request.id, PERSON)
            self.sends.barred.pop((place.url, request.id), None)
            self.log("world", f"reopened {request.id}")

    def _some_request(self, installation: int, number: int, states: Collection[State]) -> RefundRequest | None:
        with self.unit(self.installation(installation)) as unit:
            every = [request for _, request in refunds.page(unit, self.name, [], after=0, most=1000)]
        found = [request for request in every if request.state in states]
        return found[number % len(found)] if found else None

    async def on_schedule(self, installation: int, file: int, schedule: Schedule) -> None:
        """Give a batch another schedule."""
        place = self.installation(installation)
        if file in place.batches and not place.withdrawn:
            with self.unit(place) as unit:
                batches.set_schedule(unit, batches.need(unit, place.batches[file]), schedule, PERSON)

    async def on_busy(self, charge: int, count: int) -> None:
        """Let a person make many small refunds, more than one page shows."""
        for _ in range(count):
            await self.control("POST /_sim/refunds", {"charge": self.charges[charge], "amount": 100})

    async def on_dispute(self, charge: int, inquiry: bool) -> None:  # noqa: FBT001  # by name
        """Let a dispute open."""
        await self.control("POST /_sim/disputes", {"charge": self.charges[charge], "inquiry": inquiry})

    async def on_dispute_ends(self, number: int, wins: bool) -> None:  # noqa: FBT001  # by name
        """Let a dispute end that is open: a chargeback is won or lost, an inquiry closed or escalated."""
        found = [doc for doc in self.simulator.world.store.every("dispute") if doc["status"] not in CLOSED]
        if found:
            dispute = found[number % len(found)]
            verdicts = ("close_inquiry", "escalate") if dispute["status"] in INQUIRY else ("win", "lose")
            await self.control(f"POST /_sim/disputes/{dispute['id']}/{verdicts[not wins]}")

    async def on_balance(self, currency: str, available: int) -> None:
        """Set what is available."""
        await self.control("POST /_sim/balance", {"currency": currency, "available": available})

    async def on_pause(self, installation: int, file: int) -> None:
        """Pause a batch."""
        if not self.installation(installation).withdrawn:
            self._steer(installation, file, lambda unit, batch: batches.pause(unit, batch, PERSON), bars="paused")

    async def on_resume(self, installation: int, file: int) -> None:
        """Resume a batch."""
        if not self.installation(installation).withdrawn:
            self._steer(installation, file, lambda unit, batch: batches.resume(unit, batch, PERSON))

    async def on_withdraw(self, installation: int, file: int) -> None:
        """Withdraw a batch."""
        self.installation(installation).withdrawn = True
        self._steer(
            installation,
            file,
            lambda unit, batch: batches.withdraw(unit, batch, PERSON, "not wanted"),
            bars="withdrawn",
        )

    def _steer(self, installation: int, file: int, verb: Callable[[Unit, Batch], int], *, bars: str = "") -> None:
        place = self.installation(installation)
        if file in place.batches:
            with self.unit(place) as unit:
                batch = batches.need(unit, place.batches[file])
                count = verb(unit, batch)
                self._bar(place, unit, batch, bars)
            self.log("world", f"concerned {count}")

    def _bar(self, place: Installation, unit: Unit, batch: Batch, how: str) -> None:
        """Note which requests of a batch are not to be sent from this commit on; those on their way are not called back."""
        # A row that repeats another refund stands for none of its own.
        own = [one for one in batches.lines(unit, batch) if one.row.verdict is not None and not one.row.verdict.code]
        for request in [line.request for line in own if line.request is not None]:
            name = (place.url, request.id)
            if how and request.state in UNPAID | {State.WITHDRAWN}:
                self.sends.barred.setdefault(name, how)
            elif self.sends.barred.get(name) == "paused":
                del self.sends.barred[name]

    def _refund(self, number: int, *statuses: str) -> str | None:
        found = [doc["id"] for doc in self.simulator.world.store.every("refund") if doc["status"] in statuses]
        return found[number % len(found)] if found else None

    async def on_refund_fails(self, number: int) -> None:
        """Let a refund fail, also one that had succeeded."""
        if (refund := self._refund(number, "pending", "succeeded")) is not None:
            await self.control(f"POST /_sim/refunds/{refund}/fail", {"reason": "declined"})

    async def on_refund_settles(self, number: int) -> None:
        """Let a pending refund settle."""
        if (refund := self._refund(number, "pending")) is not None:
            await self.control(f"POST /_sim/refunds/{refund}/settle")

    # Unknown outcomes, and who ends them

    async def on_key_used(self, row: FileRow, attempt: int) -> None:
        """Let another program, which makes its keys by the same rule, use one of ours for something that Stripe refuses."""
        await self.people.key_used(
            ids.request_id(self.account, "test", self.key_of(row)), self.charges[row.charge or 0], attempt
        )

    async def on_turns_up(self, installation: int, row: FileRow, marked: bool) -> None:  # noqa: FBT001  # by name
        """Let a refund of a request turn up whose outcome nobody knows, with its mark or without."""
        await self.people.turns_up(self.installation(installation), self.key_of(row), marked=marked)

    async def on_says_not_paid(self, installation: int, number: int, who: tuple[str, ...], together: bool) -> None:  # noqa: FBT001
        """Let people say that a request of unknown outcome was not paid."""
        request = self._some_request(installation, number, {State.OUTCOME_UNKNOWN})
        if request is not None:
            await self.people.say_not_paid(self.installation(installation), request, who, together=together)

    async def on_names_true(self, installation: int, number: int) -> None:
        """Let a person name the refund that has paid a request of unknown outcome, if there is one."""
        request = self._some_request(installation, number, {State.OUTCOME_UNKNOWN})
        if request is not None:
            await self.people.name_true(self.installation(installation), request)

    async def on_names_wrong(self, installation: int, number: int, which: int) -> None:
        """Let a person name a refund that cannot be the one."""
        request = self._some_request(installation, number, {State.OUTCOME_UNKNOWN})
        if request is not None:
            await self.people.name_wrong(self.installation(installation), request, which)

    async def on_asks_again(self, installation: int, number: int, key_used: bool) -> None:  # noqa: FBT001  # by name
        """Let a person ask once more for what is said to be not paid, or is still unknown."""
        request = self._some_request(installation, number, {State.OUTCOME_UNKNOWN, State.DECLINED})
        if request is not None:
            if key_used:
                await self.people.key_used(request.id, request.content.charge, request.attempt + 1)
            await self.people.ask_again(self.installation(installation), request)

    async def on_retry(self, installation: int, file: int) -> None:
        """Have the rows of a batch tried again that were refused; what people have said was not paid is not among them."""
        place = self.installation(installation)
        if file in place.batches and not place.withdrawn:
            self.people.retry(place, place.batches[file])

    async def on_delete(self, installation: int) -> None:
        """Lose a database, and the processes on it; begin with an empty one."""
        place = self.installation(installation)
        for process in list(place.processes):
            process.life.again = None
            process.life.kill()
        self.fresh(place)
        self.start(place)

    # The end

    async def calm(self) -> None:
        """End all trouble: whatever can be paid must be paid from here on."""
        await asyncio.sleep(max(self.scenario.calm_at - self.loop.time(), 0.0) + 1.0)
        self.log("world", "calm")
        await self.control("DELETE /_sim/faults", {})
        for currency in sorted({charge.currency for charge in self.scenario.charges}):
            await self.control("POST /_sim/balance", {"currency": currency, "available": 90_000_000})
        for place in self.installations.values():
            if place.orders is not None:
                place.orders.calm()
                # Of what a wrong clock takes for the future nobody can ask.
                place.machine.mend()
            with self.unit(place) as unit:
                accounts.free(unit, self.name)
                # What an order system has not taken for a day waits for a person.
                outbox.resend_parked(unit, PERSON)
                for file, batch in place.batches.items():
                    kept = batches.need(unit, batch)
                    if kept.state is BatchState.PAUSED:
                        self.log("world", f"resume file {file}")
                        batches.resume(unit, kept, PERSON)
                        self._bar(place, unit, kept, "")
                    if self.scenario.traits & {"tight", "doubted"} and kept.schedule is not None:
                        batches.set_schedule(unit, kept, Schedule(), PERSON)
            if not any(process.life.again is None for process in place.processes):
                self.start(place)
        self.wake()

    async def person(self) -> None:
        """Let a person say of every second possible repeat that it is none."""
        for place in self.installations.values():
            with self.unit(place) as unit:
                held = [
                    request
                    for _, request in refunds.page(unit, self.name, [], after=0, most=1000)
                    if request.hold is not None and request.hold.reason is HeldReason.POSSIBLE_REPEAT
                ]
            for request in held:
                if int(request.id[:2], 16) % 2:
                    try:
                        with self.unit(place) as unit:
                            refunds.allow_repeat(unit, request.id, PERSON)
                    except StateForbids as error:
                        self.log("world", error.message)
        self.wake()

    async def quiet(self) -> None:
        """Wait until nothing is left to happen by itself.

        Raises:
            Unsettled: It takes too long.
        """
        end, pause = self.loop.time() + QUIET_WITHIN, 0.5
        while self.loop.time() < end and not self.broken:
            waits = [wait for place in self.installations.values() for wait in self._left(place)]
            stopped = any(p.life.stopped for place in self.installations.values() for p in place.processes)
            if not waits and not stopped and not self._working():
                return
            pause = min(pause * 2, 300.0)
            await asyncio.sleep(max(pause, min(waits, default=0.0)))
        if self.broken:
            return
        raise Unsettled(f"still to happen after {QUIET_WITHIN / HOUR:.0f} h: {self._restless()}")

    def _working(self) -> bool:
        return any(p.working for place in self.installations.values() for p in place.processes)

    def _left(self, place: Installation) -> list[float]:
        """Tell in how many seconds things fall due in an installation."""
        with self.unit(place) as unit:
            rows = list(unit.connection.exec_driver_sql(LEFT).all())
            accepted = batches.every(unit, self.name, [BatchState.ACCEPTED])
            turns = turns_in(unit)
            if place.orders is not None:
                rows += unit.connection.exec_driver_sql(UNTOLD).all()
        now = place.machine.now()
        waits = [max(row[0] - now, 0.0) for row in rows if row[0] is not None] + [0.0] * bool(accepted)
        return waits if turns is None else [*waits, max(turns, 0.0)]

    def _restless(self) -> list[Any]:
        told: list[Any] = []
        for place in self.installations.values():
            with self.unit(place) as unit:
                told += [tuple(row) for row in unit.connection.exec_driver_sql(RESTLESS_ROWS)]
        return told

    async def followed(self, how: Follow) -> None:
        """Wait until catching up has had its turns, and has found nothing new."""
        for _ in range(ROUNDS_MAX):
            if self.broken:
                return
            events = self._events()
            await asyncio.sleep(how.poll_seconds * CALM + 1.0)
            for place in self.installations.values():
                for process in place.processes:
                    if process.following is not None:
                        process.following.asked.set()
            # They begin only now.
            await asyncio.sleep(1.0)
            await self.quiet()
            if self._events() == events:
                return
        raise Unsettled(f"there are new events after {ROUNDS_MAX} rounds")

    def _events(self) -> int:
        return sum(1 for _ in self.simulator.world.store.every("event"))

    async def follow(self) -> None:
        """Bring every installation up to date with its refunds at Stripe."""
        await self.control("GET /_sim/health")
        for place in self.installations.values():
            process = Process(self, f"follow{place.number}", place, self.scenario.limits)
            await process.follow(self.name)

    def close(self) -> None:
        """Close everything."""
        for database in self.opened_databases:
            database.close()
        self.simulator.close()


INTENT = "SELECT request, sends FROM refund_attempts WHERE idempotency_key = '{key}'"
INTENDED = """
SELECT a.idempotency_key, a.request, a.sends, r.charge, r.amount_minor, r.asked_minor, r.allowed, c.captured_minor, c.looked_at
FROM refund_attempts a JOIN refund_requests r ON r.id = a.request AND r.attempt = a.number JOIN charges c ON c.id = r.charge
WHERE r.state = 'submitting'
"""
STEERED = """
SELECT b.state, b.schedule FROM batch_rows r JOIN batches b ON b.id = r.batch WHERE r.request = '{request}' AND r.code = ''
"""
GIVEN = "SELECT id, request, amount_minor FROM stripe_refunds WHERE charge = '{charge}' AND status NOT IN ('failed', 'canceled')"
OVERCLAIMED = """
SELECT c.id, c.captured_minor, r.claimed, coalesce(f.given, 0) FROM charges c
JOIN (SELECT charge, sum(reserved_minor) AS claimed FROM refund_requests WHERE NOT EXISTS
(SELECT 1 FROM stripe_refunds WHERE request = refund_requests.id) GROUP BY charge) r ON r.charge = c.id
LEFT JOIN (SELECT charge, sum(amount_minor) AS given FROM stripe_refunds WHERE status NOT IN ('failed', 'canceled') GROUP BY charge) f
ON f.charge = c.id WHERE r.claimed + coalesce(f.given, 0) > c.captured_minor
"""
# Requests that something will still happen to by itself. One behind a sibling whose outcome a person must find out waits for that person.
LEFT = """
SELECT CASE WHEN r.due_at > r.leased_until THEN r.due_at ELSE r.leased_until END FROM refund_requests r
WHERE r.state IN ('received', 'approved', 'submitting') AND (r.held_reason IS NULL OR r.held_until IS NOT NULL)
AND NOT EXISTS (SELECT 1 FROM refund_requests o WHERE o.charge = r.charge AND o.state = 'outcome_unknown')
"""
# Events that are not applied, and messages that are not told.
UNTOLD = """
SELECT min(due_at) FROM inbox_events WHERE state = 'waiting'
UNION ALL SELECT min(CASE WHEN due_at > leased_until THEN due_at ELSE leased_until END) FROM outbox_deliveries WHERE state = 'waiting'
"""
KEPT = "SELECT count(*) FROM inbox_events WHERE id = '{event}'"
RESTLESS_ROWS = """
SELECT id, state, held_reason, held_until, reason_code, reason_text, attempt, due_at, leased_until FROM refund_requests
WHERE state IN ('received', 'approved', 'submitting', 'outcome_unknown')
"""


# Statements compiled once serve all databases of a test process: compiling is the larger part of a run's time.
_compiled: Any = None
_dialect: Any = None


class QuickDatabase(Database):
    """A database of the product in virtual time, without its waits for the disk, its statements compiled once for all runs."""

    def _now(self, connection: sa.Connection, *, short: bool) -> float:  # noqa: ARG002  # the base class's
        return self._clock.now()

    def _sqlite(self) -> sa.Engine:
        global _compiled, _dialect  # the cache is the point
        made = super()._sqlite()
        sa.event.listen(made, "connect", _unsynced)
        if _dialect is None:
            with made.connect():
                _compiled, _dialect = made._compiled_cache, made.dialect
        made._compiled_cache, made.dialect = _compiled, _dialect
        return made


def _unsynced(connection: Any, _: Any) -> None:
    for pragma in ("synchronous=OFF", "journal_mode=MEMORY", "locking_mode=NORMAL"):
        connection.execute("PRAGMA " + pragma)


def _closed(schedule: str | None, at: float) -> bool:
    """Tell whether a time is outside the hours of a schedule as it is kept; they are in UTC, and within a day."""
    window = json.loads(schedule)["window"] if schedule else None
    return window is not None and not window["opens"] <= at % 86_400 < window["closes"]


def _told(how: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in how.items())


@dataclass(slots=True)
class Result:
    """What came of a run."""

    scenario: Scenario
    lines: list[str]
    faults: list[str]
    turns: int

    @property
    def log(self) -> str:
        """Tell the whole log."""
        return "\n".join([*self.lines, *(f"FAULT {fault}" for fault in self.faults)]) + "\n"


def copies(template: Path, folder: Path) -> Made:
    """Make databases by copying a migrated SQLite file."""

    def made(name: str) -> str:
        return sqlite_url(Path(shutil.copyfile(template, folder / f"{name}.db")))

    return made


def played(scenario: Scenario, folder: Path, made: Made) -> Result:
    """Run a scenario and judge it; what went wrong is in the result, never raised.

    Args:
        scenario: What happens; `drawn(seed)` draws one.
        folder: For its files.
        made: Makes its databases.
    """
    from tests.simulation import judge

    kept: list[WorldRun] = []

    async def main(loop: VirtualLoop) -> list[str]:
        world = WorldRun(scenario, folder, made, loop)
        kept.append(world)
        with heard_by(world):
            try:
                await world.play()
            except Unsettled as error:
                return [*world.broken, str(error)]
            return [*world.broken, *judge.faults(world)]

    try:
        faults = run(main)
    except (Standstill, Circling) as error:
        faults = [*kept[0].broken, f"{type(error).__name__}: {error}"]
    finally:
        for world in kept:
            world.close()
    return Result(scenario, kept[0].lines, faults, kept[0].loop.turns)


@contextmanager
def heard_by(world: WorldRun) -> Iterator[None]:
    """Let the product's log events go into the run's log."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, world.heard],
        wrapper_class=structlog.make_filtering_bound_logger(30),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


__all__ = ["Happening", "Result", "Unsettled", "WorldRun", "played"]
