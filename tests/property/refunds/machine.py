"""Any order of hand-ins, looks, sends, lost answers, refunds by hand and crashes on one charge, in the real services on SQLite.

The other side is `Stripe`, a model of ten lines. After every step nothing may be promised twice, and in the end nothing paid twice.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from refundry.charges.model import REQUEST_ID
from refundry.infra.db import Database, sqlite_url
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Accepted, Answer, NotTakenWhy, Outcome, SeenRefund
from refundry.refunds import rules
from refundry.refunds import service as refunds
from refundry.refunds.model import AT_STRIPE, Attempt, HeldReason, RefundRequest, State
from refundry.refunds.service import Claimed, Intent
from tests.support.builders import ACCOUNT, CHARGE, content, declined, not_taken, refund_request, unknown
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import ADA, LEASE_SECONDS, Hand

CAPTURED = 1000
REQUESTS_MAX = 5
# Enough for every request to be looked at, sent, decided again after its siblings, and looked for after a lost answer.
ROUNDS_MAX = 120
FOR_A_PERSON = {HeldReason.POSSIBLE_REPEAT, HeldReason.STOPPED}
MOVING = {State.RECEIVED, State.APPROVED, State.SUBMITTING}
PATIENCE = rules.Patience(30.0, 5.0)
# Which one of several: taken modulo how many there are, so that a walk can be written down.
picks = st.integers(0, 9)
amounts = st.one_of(st.none(), st.integers(1, CAPTURED))


class Stripe:
    """One charge at Stripe: it never gives back more than was captured, and remembers its keys."""

    def __init__(self) -> None:
        self.refunds: dict[str, SeenRefund] = {}
        self.keys: dict[str, str] = {}

    def given(self) -> int:
        return sum(refund.amount_minor for refund in self.refunds.values() if not refund.over)

    def refund(self, amount: int, at: float, metadata: dict[str, str]) -> SeenRefund | None:
        if self.given() + amount > CAPTURED:
            return None
        made = SeenRefund(
            f"re_{len(self.refunds)}", CHARGE, amount, "gbp", "succeeded", at, metadata=metadata
        )  # fmt: skip
        return self.refunds.setdefault(made.id, made)

    def send(self, attempt: Attempt, at: float) -> SeenRefund | None:
        if attempt.key not in self.keys:
            made = self.refund(attempt.body.amount_minor, at, attempt.body.metadata)
            self.keys[attempt.key] = made.id if made else ""
        return self.refunds.get(self.keys[attempt.key])


class OneCharge(RuleBasedStateMachine):
    """Two workers on one charge. `template` is the migrated file that each run gets a copy of."""

    template: Path

    @initialize()
    def open(self) -> None:
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copyfile(self.template, folder / "refundry.db")
        self.clock = HandClock()
        database = HandDatabase(sqlite_url(folder / "refundry.db"), self.clock)
        sa.event.listen(database.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))
        self.stack.callback(database.close)
        self.database: Database = database
        self.workers = [Hand(database, self.clock, f"lease-{n}") for n in range(2)]
        self.stripe = Stripe()
        self.asked: list[RefundRequest] = []
        self.approved: list[tuple[Hand, Claimed]] = []
        self.intents: list[tuple[Hand, Intent]] = []
        self.answers: list[tuple[Hand, Intent, Outcome]] = []
        # What was given back by hand since something is reserved: our decisions could not know of it.
        self.unforeseen = 0
        self.look(self.workers[0])

    def look(self, hand: Hand) -> tuple[SeenRefund, ...]:
        seen = tuple(self.stripe.refunds.values())
        hand.looked(refunds=seen, captured_minor=CAPTURED)
        return seen

    def requests(self) -> list[RefundRequest]:
        with self.database.reading() as unit:
            return list(refunds.many(unit, [request.id for request in self.asked]).values())

    # What others do

    @precondition(lambda self: len(self.asked) < REQUESTS_MAX)
    @rule(asked=amounts)
    def hand_in(self, asked: int | None) -> None:
        request = refund_request(f"key:{len(self.asked)}", asked=content(asked_minor=asked))
        self.workers[0].receive(request)
        self.asked.append(request)

    @rule(amount=st.integers(1, CAPTURED), told=st.booleans())
    def refund_by_hand(self, amount: int, told: bool) -> None:  # noqa: FBT001  # drawn
        made = self.stripe.refund(amount, self.clock.now(), {})
        if made is None:
            return
        self.unforeseen += amount
        if told:
            self.workers[0].found(made)

    @precondition(lambda self: any(not refund.over for refund in self.stripe.refunds.values()))
    @rule(at=picks, told=st.booleans())
    def money_comes_back(self, at: int, told: bool) -> None:  # noqa: FBT001  # drawn
        living = sorted(refund.id for refund in self.stripe.refunds.values() if not refund.over)
        chosen = self.stripe.refunds[living[at % len(living)]]
        failed = SeenRefund(
            chosen.id, CHARGE, chosen.amount_minor, "gbp", "failed", chosen.created_at, metadata=chosen.metadata
        )  # fmt: skip
        self.stripe.refunds[chosen.id] = failed
        if told:
            self.workers[0].found(failed)

    @precondition(lambda self: self.asked)
    @rule(at=picks, verb=st.sampled_from(["withdraw", "reopen", "stop", "go_on", "expedite", "allow_repeat"]))
    def person(self, at: int, verb: str) -> None:
        request = self.asked[at % len(self.asked)]
        hand = self.workers[0]
        with contextlib.suppress(refunds.StateForbids):
            match verb:
                case "withdraw":
                    hand.unit(lambda unit: refunds.withdraw(unit, request.id, ADA, "no longer"))
                case "reopen":
                    hand.unit(lambda unit: refunds.reopen(unit, request.id, ADA))
                case "stop":
                    hand.unit(lambda unit: refunds.stop(unit, [request.id], ADA))
                case "go_on":
                    hand.unit(lambda unit: refunds.go_on(unit, [request.id], ADA))
                case "expedite":
                    hand.unit(lambda unit: refunds.expedite(unit, request.id, ADA))
                case _:
                    hand.unit(lambda unit: refunds.allow_repeat(unit, request.id, ADA))

    @rule(seconds=st.sampled_from([0.5, 3.0, LEASE_SECONDS + 1, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def crash(self) -> None:
        """Lose what is only in memory; what was sent stays sent."""
        self.approved, self.intents, self.answers = [], [], []

    # What workers do

    @rule(who=st.integers(0, 1))
    def take_up(self, who: int) -> None:
        hand = self.workers[who]
        for claimed in (one for lane in Lane for one in hand.claim(lane=lane)):
            seen = self.look(hand)
            if hand.unit(lambda unit, c=claimed, s=seen: refunds.adopt(unit, c, s)):  # type: ignore[misc]
                continue
            sent = claimed.request.state is State.SUBMITTING
            go_on = self.resolve(hand, claimed) if sent else hand.judge(claimed)
            if go_on:
                self.approved.append((hand, go_on))

    def resolve(self, hand: Hand, claimed: Claimed) -> Claimed | None:
        attempt = hand.attempts(claimed.request)[-1]
        now = self.clock.now()
        plan = rules.plan(
            attempt, rules.Clocks(now, now, now), looked_at=now, explained=True, patience=PATIENCE
        )  # fmt: skip
        held = hand.resolve(claimed, plan)
        if held is None or plan.step is not rules.Step.NEXT_ATTEMPT:
            return held
        return hand.judge_again(held, plan.attempt)

    @precondition(lambda self: self.approved)
    @rule(at=picks)
    def write_intent(self, at: int) -> None:
        hand, claimed = self.approved.pop(at % len(self.approved))
        intent = hand.submit(claimed)
        if intent is not None:
            self.intents.append((hand, intent))

    @precondition(lambda self: self.intents)
    @rule(at=picks, how=st.sampled_from(["answered", "answered", "lost", "never sent", "limited", "empty"]))
    def send(self, at: int, how: str) -> None:
        hand, intent = self.intents.pop(at % len(self.intents))
        self.answers.append((hand, intent, self.outcome(intent, how)))

    def outcome(self, intent: Intent, how: str) -> Outcome:
        known = intent.attempt.key in self.stripe.keys
        if how == "never sent":
            return unknown("connection_lost")
        if how == "limited":
            return not_taken()
        if how == "empty" and not known:
            self.stripe.keys[intent.attempt.key] = ""
            return not_taken(NotTakenWhy.LOW_BALANCE)
        made = self.stripe.send(intent.attempt, self.clock.now())
        if how == "lost":
            return unknown()
        return Accepted(made, Answer(200)) if made else declined("amount_exceeds_refundable")

    @precondition(lambda self: self.answers)
    @rule(at=picks)
    def record(self, at: int) -> None:
        hand, intent, outcome = self.answers.pop(at % len(self.answers))
        self.recorded(hand, intent, outcome)

    def recorded(self, hand: Hand, intent: Intent, outcome: Outcome) -> None:
        left = hand.record(intent, outcome, wait=1.0)
        if left is None:
            return
        seen = self.look(hand)
        if not hand.unit(lambda unit: refunds.adopt(unit, left, seen)):
            again = self.resolve(hand, left)
            if again:
                self.approved.append((hand, again))

    # What must always be so

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        requests = self.requests()
        reserved = {request.id: request.reserved_minor for request in requests if request.reserved_minor}
        if not reserved:
            # What is mirrored may still count what came back; nothing is promised by it.
            self.unforeseen = 0
            return
        seen = self.workers[0].charge().refunds
        # A refund of ours that a look has shown takes the place of its reservation when its request hears of it.
        given = sum(r.amount_minor for r in seen if not r.over and r.metadata.get(REQUEST_ID) not in reserved)
        assert given + sum(reserved.values()) <= CAPTURED + self.unforeseen
        assert sum(reserved.values()) <= CAPTURED

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        paid = [
            refund.metadata[REQUEST_ID]
            for refund in self.stripe.refunds.values()
            if REQUEST_ID in refund.metadata and not refund.over
        ]
        assert len(paid) == len(set(paid)), "two living refunds carry one id"
        assert self.stripe.given() <= CAPTURED

    @invariant()
    def nobody_says_paid_of_what_stripe_does_not_have(self) -> None:
        for request in self.requests():
            if request.state in AT_STRIPE:
                refund = self.stripe.refunds[str(request.refund)]
                assert refund.metadata[REQUEST_ID] == request.id
                assert (refund.amount_minor, request.reserved_minor) == (request.amount_minor, 0)

    def teardown(self) -> None:
        """Let everything come to its end without further faults, then hold it against Stripe."""
        if not hasattr(self, "stack"):
            return
        try:
            self.crash()
            self.come_to_an_end()
            self.judge_the_end()
        finally:
            self.stack.close()

    def come_to_an_end(self) -> None:
        for _ in range(ROUNDS_MAX):
            with self.database.reading() as unit:
                if refunds.next_due(unit, ACCOUNT) is None:
                    break
            self.clock.move(LEASE_SECONDS + 1)
            self.take_up(0)
            while self.approved:
                hand, claimed = self.approved.pop()
                intent = hand.submit(claimed)
                if intent is not None:
                    self.recorded(hand, intent, self.outcome(intent, "answered"))
            self.nothing_is_paid_twice()

    def judge_the_end(self) -> None:
        living = {
            refund.metadata[REQUEST_ID]: refund.amount_minor
            for refund in self.stripe.refunds.values()
            if REQUEST_ID in refund.metadata and not refund.over
        }
        requests = self.requests()
        persons = [r for r in requests if r.hold is not None and r.hold.reason in FOR_A_PERSON]
        claimed_by_them = any(request.reserved_minor for request in persons)
        for request in requests:
            # Who waits for a sibling that waits for a person waits for that person too.
            behind = claimed_by_them and request.hold is not None and request.hold.reason is HeldReason.SIBLING
            assert request.state not in MOVING or request in persons or behind, request
            if request.state is State.SETTLED and request.id not in living:
                assert self.stripe.refunds[str(request.refund)].over, "nobody has told us yet that it came back"
            elif request.id in living:
                assert (request.state, request.amount_minor) == (State.SETTLED, living[request.id])
        assert self.workers[0].audit_is_sound()
