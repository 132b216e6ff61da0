"""Whether the property search would notice: each bug that loses money is planted, and has to be found in the same budget."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from stripesim.api import Api
from stripesim.call import Call
from stripesim.idempotency import Idempotency, Kept
from stripesim.limits import Locks
from stripesim.resources import charges, refunds
from stripesim.store import Store
from stripesim.world import Scope
from tests.property.stripesim.machine import walk

pytestmark = pytest.mark.property
# The same walks each time, so that a planted bug is found each time.
WALKS, STEPS = 30, 50
Plant = Callable[[pytest.MonkeyPatch], None]


def search() -> None:
    """Look for a walk that breaks the books."""
    for seed in range(WALKS):
        walk(seed, STEPS)


def over_refund_under_concurrency(patch: pytest.MonkeyPatch) -> None:
    """The lock is ignored, and what is left is read before the wait."""
    seen: ContextVar[dict[str, int] | None] = ContextVar("seen", default=None)
    executed, rest = Api._executed, charges.rest

    async def take(*_: Any) -> bool:
        return True

    async def read_early(self: Api, *parts: Any) -> Any:
        call = next(part for part in parts if isinstance(part, Call))
        seen.set({doc["id"]: rest(doc) for doc in self.world.store.every("charge", call.scope.number)})
        try:
            return await executed(self, *parts)
        finally:
            seen.set(None)

    patch.setattr(Locks, "take", take)
    patch.setattr(Locks, "free", lambda *_: None)
    patch.setattr(Api, "_executed", read_early)
    patch.setattr(charges, "rest", lambda doc: (seen.get() or {}).get(doc["id"], rest(doc)))


def replay_with_other_parameters(patch: pytest.MonkeyPatch) -> None:
    """A key is enough: whoever has it is told the first answer."""
    begin = Idempotency.begin

    def lenient(self: Idempotency, scope: Scope, key: str, endpoint: str, parameters: bytes) -> Kept | None:
        sql = "SELECT parameters FROM idempotency WHERE scope=? AND key=?"
        row = self._world.store.db.execute(sql, (scope.number, key)).fetchone()
        return begin(self, scope, key, endpoint, row[0] if row else parameters)

    patch.setattr(Idempotency, "begin", lenient)


def refund_lost_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    """Every second commit is put off until the next: an answer goes out, and what it tells of is only in memory."""
    pause, calls = Store.pause, [0]

    def lazy(self: Store) -> None:
        calls[0] += 1
        if calls[0] % 2:
            pause(self)

    patch.setattr(Store, "pause", lazy)


def refund_row_lost_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The newest refund does not outlive the process."""
    opened = Store._open

    def forgetful(self: Store) -> None:
        opened(self)
        self.db.execute("DELETE FROM refund WHERE seq=(SELECT max(seq) FROM refund)")

    patch.setattr(Store, "_open", forgetful)


def refund_booked_twice(patch: pytest.MonkeyPatch) -> None:
    """The money of a refund leaves the balance twice."""
    book = refunds._book

    def twice(*parts: Any) -> None:
        book(*parts)
        book(*parts)

    patch.setattr(refunds, "_book", twice)


def stored_trouble_runs_anew(patch: pytest.MonkeyPatch) -> None:
    """A 500 is not kept: the same key runs again, and refunds again what was refunded behind the 500."""
    keep = Idempotency.keep

    def without_trouble(
        self: Idempotency, scope: Scope, key: str, endpoint: str, parameters: bytes, kept: Kept
    ) -> None:
        if kept.status < 500:
            keep(self, scope, key, endpoint, parameters, kept)

    patch.setattr(Idempotency, "keep", without_trouble)


def failed_refund_keeps_the_money(patch: pytest.MonkeyPatch) -> None:
    """A refund fails, and its money is neither with the customer nor back on the balance."""
    undo = refunds.undo

    def quietly(world: Any, scope: Scope, refund: dict[str, Any], status: str, reason: str) -> None:
        undo(world, scope, refund | {"booked": 0}, status, reason)

    patch.setattr(refunds, "undo", quietly)


FOUND_BY: dict[Plant, str] = {
    over_refund_under_concurrency: "refunded_beyond_charge",
    replay_with_other_parameters: "replay_of_other_request|other words got the answer",
    refund_lost_at_a_restart: "confirmed, and now gone or different|ran anew|a replay differs",
    refund_row_lost_at_a_restart: "acknowledged_refund_lost|booked_without_refund|amount_refunded_wrong",
    refund_booked_twice: "refund_booked_wrong",
    stored_trouble_runs_anew: "ran anew|request_paid_twice|a replay differs",
    failed_refund_keeps_the_money: "refund_booked_wrong",
}


@pytest.mark.parametrize("plant", FOUND_BY, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=FOUND_BY[plant]):
        search()


def test_the_same_search_finds_nothing_where_nothing_is_planted() -> None:
    search()
