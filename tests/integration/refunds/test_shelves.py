"""Rows stand on shelves while a unit is open: what pieces of one unit see of each other, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.charges import service as charges
from refundry.infra.db import Needs, Unit
from refundry.kernel.errors import InvariantViolated
from refundry.refunds import repository
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from refundry.refunds.service import Claimed, Intent
from tests.support.builders import CHARGE, accepted, content, refund_request
from tests.support.database import HandDatabase
from tests.support.hand import Hand

pytestmark = pytest.mark.integration
MANY = 20


def requests(count: int, of: str = "few") -> list[RefundRequest]:
    return [refund_request(f"key:{of}{n}", asked=content(charge=f"ch_{of}{n}", asked_minor=100)) for n in range(count)]


def approved(hand: Hand, count: int, of: str = "few") -> list[Claimed]:
    wanted = requests(count, of)
    for one in wanted:
        hand.looked(one.content.charge)
    hand.receive(*wanted)
    judged = [hand.judge(one) for one in hand.claim(most=count)]
    return [one for one in judged if one is not None]


def submitted(unit: Unit, claimed: Claimed) -> Intent | None:
    return refunds.submit(unit, claimed, at=unit.now, stripe_at=None, look_max_age=600, age_max_days=0)


@contextmanager
def counted(database: HandDatabase) -> Iterator[list[str]]:
    """Write down the statements that are handed to the driver."""
    said: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


def statements(hand: Hand, database: HandDatabase, count: int, of: str) -> list[str]:
    """Tell the statements that it takes to write that many intents, and to record what came of them."""
    taken = approved(hand, count, of)
    assert len(taken) == count
    needs = [Needs(one.request.content.charge, one.request.id) for one in taken]
    with counted(database) as said:
        with database.unit() as unit:
            database.fetch(unit, needs)
            intents = [submitted(unit, one) for one in taken]
        with database.unit() as unit:
            database.fetch(unit, needs)
            for intent in intents:
                assert intent is not None
                refunds.record(unit, intent, accepted(intent.claimed.request), unit.now)
    return said


def test_many_refunds_cost_no_more_statements_than_one(hand: Hand, database: HandDatabase) -> None:
    one = statements(hand, database, 1, "few")
    many = statements(hand, database, MANY, "many")
    assert len(many) == len(one)
    if database.postgres:
        # Word for word, so that each is prepared once: a list of values would make another statement of it for each number of them.
        assert many == one
    assert {hand.find(one).state for one in (*requests(1, "few"), *requests(MANY, "many"))} == {State.SETTLED}


def after_another(hand: Hand, database: HandDatabase, count: int, of: str) -> int:
    """Tell how many statements it takes to write that many intents in a unit in which another one was written before they were read."""
    first, *taken = approved(hand, count + 1, of)
    with counted(database) as said, database.unit() as unit:
        assert submitted(unit, first) is not None
        database.fetch(unit, [Needs(one.request.content.charge, one.request.id) for one in taken])
        assert all(submitted(unit, one) is not None for one in taken)
    return len(said)


def test_what_a_piece_before_them_has_changed_has_no_piece_read_its_own_rows(
    hand: Hand, database: HandDatabase
) -> None:
    one = after_another(hand, database, 1, "few")
    assert after_another(hand, database, MANY, "many") == one


def test_a_piece_sees_what_the_one_before_it_has_claimed(hand: Hand, database: HandDatabase) -> None:
    hand.looked(captured_minor=1000)
    wanted = [refund_request(f"key:{n}", asked=content(asked_minor=600)) for n in range(2)]
    hand.receive(*wanted)
    first = hand.claimed_one()
    with database.unit() as unit:
        database.fetch(unit, [Needs(CHARGE, first.request.id)])
        assert refunds.judge(unit, first, known=True, age_max_days=0) is not None
        assert repository.reserved(unit, CHARGE, but=wanted[1].id) == 600
        foreseen = refunds.foresee(unit, wanted[1], known=True, age_max_days=0)
    assert foreseen.code == "sibling"


def test_of_two_of_a_charge_one_leaves_its_place_before_the_other_takes_it(hand: Hand, database: HandDatabase) -> None:
    hand.looked(captured_minor=1000)
    two = [refund_request(f"key:{n}", asked=content(asked_minor=300, ticket_id=f"T{n}")) for n in range(2)]
    second, first = sorted(two, key=lambda one: one.id)
    hand.receive(first, second)

    def lead(unit: Unit, one: RefundRequest, state: State) -> None:
        kept = refunds.find(unit, one.id, hold=True)
        assert kept is not None
        after = replace(kept, state=state, version=kept.version + 1)
        assert repository.update(unit, kept, after, None, keep_lease=False)

    hand.unit(lambda unit: lead(unit, first, State.SUBMITTING))
    with database.unit() as unit:
        if database.postgres:
            # It goes through them by their ids then, as it may by any plan of its own.
            unit.connection.exec_driver_sql("SET LOCAL enable_nestloop = off; SET LOCAL enable_hashjoin = off")
        database.fetch(unit, [Needs(CHARGE, first.id), Needs(CHARGE, second.id)])
        lead(unit, first, State.SETTLED)
        lead(unit, second, State.SUBMITTING)
    assert [hand.find(one).state for one in (first, second)] == [State.SETTLED, State.SUBMITTING]


def test_a_statement_that_knows_nothing_of_shelves_sees_what_stands_on_them(hand: Hand, database: HandDatabase) -> None:
    [claimed] = approved(hand, 1)
    count = sa.select(sa.func.count()).select_from(repository.refund_requests)
    with database.unit() as unit:
        assert submitted(unit, claimed) is not None
        charges.touch(unit, claimed.request.content.charge, unit.now + 1)
        assert unit.connection.execute(count.where(repository.t.state == "submitting")).scalar_one() == 1
        assert unit.shelves == {}
        found = charges.find(unit, claimed.request.content.charge)
    assert found is not None
    assert found.stale


def test_what_a_statement_beside_them_changes_is_read_anew(hand: Hand, database: HandDatabase) -> None:
    [claimed] = approved(hand, 1)
    with database.unit() as unit:
        assert refunds.find(unit, claimed.request.id, hold=True) is not None
        change = sa.update(repository.refund_requests).values(version=repository.t.version + 1)
        unit.connection.execute(change)
        assert submitted(unit, claimed) is None


def test_nothing_of_a_unit_that_fails_is_kept(hand: Hand, database: HandDatabase) -> None:
    [claimed] = approved(hand, 1)
    before = hand.find(claimed)

    def fails() -> None:
        with database.unit() as unit:
            assert submitted(unit, claimed) is not None
            raise InvariantViolated("for a test")

    with pytest.raises(InvariantViolated):
        fails()
    assert hand.find(claimed) == before
    assert hand.submit(claimed) is not None


def test_a_row_that_changes_though_it_is_held_ends_the_unit(hand: Hand, database: HandDatabase) -> None:
    """Should holding ever fail, nothing is written over what somebody else has written."""
    [claimed] = approved(hand, 1)

    def overtaken() -> None:
        with database.unit() as unit:
            assert submitted(unit, claimed) is not None
            unit.direct.execute(sa.update(repository.refund_requests).values(version=repository.t.version + 5))

    with pytest.raises(InvariantViolated):
        overtaken()
    assert hand.find(claimed).state is State.APPROVED


def test_a_refund_of_a_charge_that_is_mirrored_later_in_the_unit_counts(hand: Hand, database: HandDatabase) -> None:
    [intent] = [hand.submit(one) for one in approved(hand, 1)]
    assert intent is not None
    refund = accepted(intent.claimed.request, refund_id="re_other").refund
    other = replace(refund, charge="ch_other", metadata={})
    with database.unit() as unit:
        charges.take_refund(unit, intent.claimed.request.account, other, unit.now)
    hand.looked("ch_other", began_at=hand.clock.now() + 1)
    with database.reading() as unit:
        kept = charges.find(unit, "ch_other")
    assert kept is not None
    assert [one.id for one in kept.refunds] == ["re_other"]
