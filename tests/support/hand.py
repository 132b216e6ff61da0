"""A worker whose every step is taken by the test, in the real services on a real database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from refundry.audit import service as audit
from refundry.audit.model import Entry
from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.infra.db import Database, Unit
from refundry.kernel.actor import SYSTEM, Actor, ActorKind
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Outcome, SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.model import Attempt, Break, RefundRequest
from refundry.refunds.rules import Plan
from refundry.refunds.service import Claimed, Intent, Received
from tests.support.builders import ACCOUNT, CHARGE, look
from tests.support.clock import HandClock

Result = TypeVar("Result")
ADA = Actor(ActorKind.PERSON, "ada")
ORDER_KEY = "order_id"
LEASE_SECONDS = 20.0
# Time passes between any two steps, so that a look is never as old as what came before it.
TICK = 0.001


class Hand:
    """One worker.

    Args:
        database: Where everything is kept.
        clock: The time of the worker and of the database.
        lease: Its token; another worker has another.
    """

    def __init__(self, database: Database, clock: HandClock, lease: str = "lease-1") -> None:
        """Hold nothing yet."""
        self.database = database
        self.clock = clock
        self.lease = lease

    def unit(self, work: Callable[[Unit], Result]) -> Result:
        """Do something in a unit of its own."""
        self.clock.move(TICK)
        with self.database.unit() as unit:
            return work(unit)

    def looked(self, charge: str = CHARGE, **seen: Any) -> None:
        """See a charge at Stripe as it is now, and mirror it; `seen` is that of `builders.look`."""
        self.clock.move(TICK)
        seen.setdefault("began_at", self.clock.now())
        self.unit(lambda unit: charges.mirror(unit, ACCOUNT, [look(charge, **seen)], ORDER_KEY))

    def receive(self, *requests: RefundRequest) -> list[Received]:
        """Hand requests in."""
        return self.unit(lambda unit: refunds.receive(unit, requests, SYSTEM))

    def claim(self, most: int = 50, lane: Lane = Lane.BULK, seconds: float = LEASE_SECONDS) -> list[Claimed]:
        """Take what is due."""
        return self.unit(lambda unit: refunds.claim(unit, ACCOUNT, lane, self.lease, seconds=seconds, most=most))

    def judge(self, claimed: Claimed, *, known: bool = True, age_max_days: int = 0) -> Claimed | None:
        """Decide about a claimed request."""
        return self.unit(lambda unit: refunds.judge(unit, claimed, known=known, age_max_days=age_max_days))

    def submit(self, claimed: Claimed, *, look_max_age: float = 600.0) -> Intent | None:
        """Write an intent."""
        at = self.clock.now()
        return self.unit(
            lambda unit: refunds.submit(
                unit, claimed, at=at, stripe_at=at, look_max_age=look_max_age, age_max_days=0
            )
        )  # fmt: skip

    def record(self, intent: Intent, outcome: Outcome, wait: float = 0.0) -> Claimed | None:
        """Keep what came of a send."""
        return self.unit(lambda unit: refunds.record(unit, intent, outcome, unit.now + wait))

    def resolve(self, claimed: Claimed, plan: Plan) -> Claimed | None:
        """Take the next step with an attempt in doubt."""
        return self.unit(lambda unit: refunds.resolve(unit, claimed, plan))

    def judge_again(self, claimed: Claimed, attempt: Attempt) -> Claimed | None:
        """Decide whether the next attempt may follow."""
        return self.unit(lambda unit: refunds.judge_again(unit, claimed, attempt, known=True, age_max_days=0))

    def found(self, refund: SeenRefund) -> bool:
        """Hear of a refund at Stripe."""
        return self.unit(lambda unit: refunds.found(unit, ACCOUNT, refund))

    # What is there

    def find(self, request: RefundRequest | Claimed | Intent) -> RefundRequest:
        """Read a request as it is now."""
        match request:
            case RefundRequest(id=found):
                request_id = found
            case Claimed(request=RefundRequest(id=found)):
                request_id = found
            case Intent(claimed=Claimed(request=RefundRequest(id=found))):
                request_id = found
        with self.database.reading() as unit:
            return refunds.need(unit, request_id)

    def attempts(self, request: RefundRequest) -> list[Attempt]:
        """Read a request's attempts."""
        with self.database.reading() as unit:
            return refunds.attempts(unit, request.id)

    def breaks(self) -> list[tuple[str, Break]]:
        """Read all breaks."""
        with self.database.reading() as unit:
            return refunds.open_breaks(unit)

    def charge(self, charge: str = CHARGE) -> Charge:
        """Read the mirror of a charge."""
        with self.database.reading() as unit:
            found = charges.find(unit, charge)
        assert found is not None
        return found

    def timeline(self, subject: str) -> list[Entry]:
        """Read what was done to something."""
        with self.database.reading() as unit:
            return audit.timeline(unit, subject)

    def audit_is_sound(self) -> bool:
        """Tell whether the audit log verifies."""
        with self.database.reading() as unit:
            return audit.first_fault(unit) is None

    # Several steps at once

    def claimed_one(self) -> Claimed:
        """Take the one that is due."""
        (claimed,) = self.claim()
        return claimed

    def approved(self, request: RefundRequest) -> Claimed:
        """Hand a request in, take it, and have it approved."""
        self.receive(request)
        approved = self.judge(self.claimed_one())
        assert approved is not None
        return approved

    def intended(self, request: RefundRequest) -> Intent:
        """Hand a request in, and bring it to where its first attempt may be sent."""
        intent = self.submit(self.approved(request))
        assert intent is not None
        return intent
