"""What people say of a request of unknown outcome: which refund has paid it, or, two of them and late enough, that none has."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.audit import service as audit
from refundry.follow import service as follow
from refundry.kernel import ids
from refundry.kernel.actor import Actor, ActorKind
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from refundry.refunds.rules import ABSENT_AFTER, Clocks
from refundry.refunds.service import StateForbids
from refundry.tasks import service as tasks
from refundry.tasks.model import How, Kind, Task, TaskChoiceWrong, TaskForbids
from refundry.tasks.tables import tasks as tasks_table
from refundry.worker.main import take_charge
from tests.support.builders import ACCOUNT
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration
BEN = Actor(ActorKind.PERSON, "ben")


async def sent_in_vain(scene: Scene, request: RefundRequest, attempt: int = 1) -> Task:
    """Have an attempt sent under a key that Stripe knows with other parameters: what became of it, nobody can say."""
    key, other = ids.idempotency_key(request.id, attempt), await scene.sim.charge(900)
    await scene.sim.call("POST /v1/refunds", charge=other, amount=1, idempotency_key=key)
    await scene.pay_due()
    await scene.move(3)
    await scene.pay_due()
    (task,) = scene.tasks()
    return task


async def unknown(scene: Scene) -> tuple[RefundRequest, Task]:
    """Have a request sent whose outcome nobody can say."""
    request = await scene.requested(await scene.sim.charge(5000), 1200)
    task = await sent_in_vain(scene, request)
    return scene.now(request), task


async def said(
    scene: Scene, task: Task, actor: Actor, clocks: Clocks | None = None, *, counted: int | None = None
) -> Task:
    """Look at the charge, and say that it was not paid; `counted` is what Stripe's own sum says then, whatever refunds it shows."""
    await scene.move(0.01)
    look, now = await scene.gateway.look(task.charge, Lane.DESK), scene.clock.now()
    if counted is not None:
        look = replace(look, charge=replace(look.charge, refunded_minor=counted))
    with scene.database.unit() as unit:
        assert follow.take_look(unit, ACCOUNT, look, "order_id")
        return tasks.say_not_paid(unit, task.id, clocks or Clocks(now, now, now), actor, f"seen by {actor.name}")


async def named(scene: Scene, task: Task, refund: str) -> RefundRequest:
    """Name a refund."""
    seen = await scene.gateway.refund(refund, Lane.DESK)
    await scene.move(0.01)
    with scene.database.unit() as unit:
        return tasks.paid_by(unit, task.id, seen, scene.clock.now(), ADA, "found it")


def events(scene: Scene, request: RefundRequest) -> list[str]:
    """Read the timeline of a request, without what only machines did."""
    with scene.database.reading() as unit:
        return [
            f"{one.event} {one.actor}" for one in audit.timeline(unit, request.id) if one.actor != "system:refundry"
        ]


async def test_an_unknown_outcome_opens_a_task_with_its_two_ways_out(scene: Scene) -> None:
    request, task = await unknown(scene)
    assert (request.state, request.reserved_minor) == (State.OUTCOME_UNKNOWN, 1200)
    assert (task.kind, task.request, task.amount_minor, task.charge) == (
        Kind.OUTCOME_UNKNOWN, request.id, 1200, request.content.charge,
    )  # fmt: skip
    assert task.options == (How.PAID_BY, How.NOT_PAID)
    assert "other parameters" in task.text
    assert task.due_at == task.opened_at + 2 * 86_400


async def test_the_refund_that_a_person_names_pays_it_and_is_followed_like_any_other(scene: Scene) -> None:
    await scene.listen()
    request, task = await unknown(scene)
    made = await scene.by_hand(request.content.charge, 1200)
    done = await named(scene, task, made)
    assert (done.state, done.refund, done.reserved_minor) == (State.SETTLED, made, 0)
    assert scene.tasks() == []
    assert events(scene, request) == ["task.resolved person:ada", "refund_request.refund_named person:ada"]
    with scene.database.reading() as unit:
        (kept,) = tasks.of_charge(unit, task.charge)
    assert (kept.how, kept.resolved_by, kept.note) == (How.PAID_BY, "person:ada", "found it")
    await scene.follow()
    await scene.control(f"POST /_sim/refunds/{made}/fail", {"reason": "declined"})
    await scene.follow()
    assert (scene.state(request), scene.kinds()) == (State.FAILED, ["refund_failed"])


async def test_a_refund_that_cannot_be_the_one_is_refused_and_changes_nothing(scene: Scene) -> None:
    before = await scene.sim.charge(5000)
    old = await scene.by_hand(before, 1200)
    await scene.move(1000)
    request, task = await unknown(scene)
    charge, other = request.content.charge, await scene.sim.charge(5000)
    await scene.move(1)
    failed = await scene.by_hand(charge, 1200)
    await scene.control(f"POST /_sim/refunds/{failed}/fail", {"reason": "declined"})
    marked = await scene.sim.call(
        "POST /v1/refunds", charge=charge, amount=1200, metadata={"refundry_request_id": "another"}
    )
    wrong = {
        await scene.by_hand(other, 1200): other, await scene.by_hand(charge, 1100): "11.00", failed: "failed",
        str(marked["id"]): "another", old: before,
    }  # fmt: skip
    for refund, why in wrong.items():
        with pytest.raises(StateForbids, match=why) as refused:
            await named(scene, task, refund)
        assert refused.value.code == "refund_misfits"
    assert (scene.state(request), [one.id for one in scene.tasks()]) == (State.OUTCOME_UNKNOWN, [task.id])
    assert events(scene, request) == []


async def test_a_refund_from_before_its_first_send_is_not_the_one(scene: Scene) -> None:
    charge = await scene.sim.charge(5000)
    old = await scene.by_hand(charge, 1200)
    await scene.move(1000)
    request = await scene.requested(charge, 1200, allowed=frozenset({old}))
    task = await sent_in_vain(scene, request)
    with pytest.raises(StateForbids, match="before this request was sent"):
        await named(scene, task, old)


async def test_the_refund_of_another_request_whose_mark_was_wiped_at_stripe_is_not_the_one(scene: Scene) -> None:
    request, task = await unknown(scene)
    paid = await scene.sim.call(
        "POST /v1/refunds", charge=request.content.charge, amount=1200, metadata={"refundry_request_id": "another"}
    )
    await scene.looked(request.content.charge)
    await scene.sim.call(f"POST /v1/refunds/{paid['id']}", metadata={"refundry_request_id": ""}, check=False)
    with pytest.raises(StateForbids, match="refund request another"):
        await named(scene, task, paid["id"])


async def test_two_people_say_that_it_was_not_paid_and_it_may_be_tried_again_under_the_next_number(
    scene: Scene,
) -> None:
    request, task = await unknown(scene)
    await scene.move(ABSENT_AFTER + 1)
    first = await said(scene, task, ADA)
    assert (first.first_by, first.first_at, first.resolved_at) == ("person:ada", scene.clock.now(), None)
    assert scene.state(request) is State.OUTCOME_UNKNOWN
    await scene.days(3)
    assert scene.state(request) is State.OUTCOME_UNKNOWN, "one person's word moves nothing"
    with pytest.raises(TaskForbids, match="ada has said so already") as alone:
        await said(scene, task, ADA)
    assert alone.value.code == "second_person_needed"
    done = await said(scene, task, BEN)
    over = scene.now(request)
    assert (done.how, done.resolved_by, done.note) == (How.NOT_PAID, "person:ben", "seen by ada; seen by ben")
    assert (over.state, over.reason_code, over.reserved_minor) == (State.DECLINED, "not_paid", 0)
    assert over.reason_text == "ada and ben say that it was not paid: seen by ada; seen by ben"
    assert events(scene, request) == [
        "task.not_paid_said person:ada", "task.resolved person:ben", "refund_request.declined person:ben",
    ]  # fmt: skip
    assert [one["amount"] for one in await scene.at_stripe()] == [1], "nothing was sent by a word"
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    again = scene.now(request)
    assert (again.state, again.attempt) == (State.SETTLED, 2)
    assert scene.tasks() == []


@pytest.mark.parametrize("late", ["ours", "database", "stripe"])
async def test_not_paid_is_not_believed_before_25_hours_by_every_clock(scene: Scene, late: str) -> None:
    request, task = await unknown(scene)
    await scene.move(ABSENT_AFTER + 1)
    now = scene.clock.now()
    clocks = replace(Clocks(now, now, now), **{late: now - 60})
    with pytest.raises(TaskForbids, match="not_paid can be said from 20") as early:
        await said(scene, task, ADA, clocks)
    assert early.value.code == "too_early"
    assert [one.first_by for one in scene.tasks()] == [None]
    assert scene.state(request) is State.OUTCOME_UNKNOWN


@pytest.mark.parametrize("first", [True, False])
async def test_not_paid_is_not_believed_while_stripe_counts_what_may_be_its_refund_and_does_not_show_it(
    scene: Scene,
    first: bool,  # noqa: FBT001  # pytest's own
) -> None:
    request, task = await unknown(scene)
    await scene.by_hand(request.content.charge, 300)
    await scene.move(ABSENT_AFTER + 1)
    who = ADA if first else BEN
    if not first:
        # Less than it asks for cannot be its refund.
        await said(scene, task, ADA, counted=1499)
    with pytest.raises(TaskForbids, match=r"12\.00 USD as given back") as hidden:
        await said(scene, task, who, counted=1500)
    assert hidden.value.code == "refunds_not_shown"
    assert (scene.state(request), [one.first_by is None for one in scene.tasks()]) == (State.OUTCOME_UNKNOWN, [first])
    # What Stripe shows later explains its sum.
    await scene.by_hand(request.content.charge, 1200)
    told = await said(scene, task, who)
    assert (told.how, scene.state(request)) == (
        (None, State.OUTCOME_UNKNOWN) if first else (How.NOT_PAID, State.DECLINED)
    )


async def test_a_refund_of_it_that_is_there_after_all_ends_the_task_by_itself(scene: Scene) -> None:
    request, task = await unknown(scene)
    await scene.sim.call(
        "POST /v1/refunds", charge=request.content.charge, amount=1200, metadata={"refundry_request_id": request.id}
    )
    await scene.looked(request.content.charge)
    with scene.database.unit() as unit:
        refunds.notice(unit, ACCOUNT, request.content.charge)
    assert (scene.state(request), scene.tasks()) == (State.SETTLED, [])
    with scene.database.unit() as unit, pytest.raises(TaskForbids) as over:
        tasks.say_not_paid(unit, task.id, Clocks(0, 0, 0), ADA, "note")
    assert over.value.code == "task_resolved"


async def test_a_second_unknown_outcome_of_the_same_request_is_a_task_of_its_own(scene: Scene) -> None:
    request, task = await unknown(scene)
    await scene.move(ABSENT_AFTER + 1)
    await said(scene, task, ADA)
    await said(scene, task, BEN)
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    second = await sent_in_vain(scene, request, 2)
    assert (second.kind, second.request, second.first_by) == (Kind.OUTCOME_UNKNOWN, request.id, None)
    assert second.id != task.id


async def test_nobody_has_to_say_what_became_of_a_request_whose_outcome_is_known(scene: Scene) -> None:
    request = await scene.paid(await scene.sim.charge(5000), 1200)
    with scene.database.unit() as unit, pytest.raises(StateForbids, match="settled"):
        refunds.say_not_paid(unit, request.id, ADA, "text")
    other = await scene.gateway.refund(await scene.by_hand(request.content.charge, 1200), Lane.DESK)
    with scene.database.unit() as unit, pytest.raises(StateForbids, match="settled"):
        refunds.name_refund(unit, request.id, other, scene.clock.now(), ADA, "note")
    assert scene.now(request).refund == request.refund


async def turned_up(scene: Scene, request: RefundRequest, amount: int = 1200) -> str:
    """Have a refund of a request appear at Stripe, long after anybody has looked for it."""
    mark = {"refundry_request_id": request.id}
    made = await scene.sim.call("POST /v1/refunds", charge=request.content.charge, amount=amount, metadata=mark)
    return str(made["id"])


async def not_paid(scene: Scene) -> RefundRequest:
    """Have two people say of a request that it was not paid."""
    request, task = await unknown(scene)
    await scene.move(ABSENT_AFTER + 1)
    await said(scene, task, ADA)
    await said(scene, task, BEN)
    return scene.now(request)


@pytest.mark.parametrize("by", ["webhook", "polling", "look", "payment"])
async def test_a_refund_that_turns_up_after_two_people_have_said_not_paid_is_told_and_pays_the_request_once_it_is_wanted(
    scene: Scene, by: str
) -> None:
    if by == "webhook":
        await scene.listen()
    request = await not_paid(scene)
    if by == "polling":
        await scene.poll()
    made = await turned_up(scene, request)
    if by == "webhook":
        await scene.follow()
    elif by == "polling":
        await scene.days(1)
    elif by == "look":
        await scene.move(0.01)
        seen = await scene.gateway.look(request.content.charge, Lane.DESK)
        with scene.database.unit() as unit:
            assert follow.take_look(unit, ACCOUNT, seen, "order_id")
    else:
        # Somebody asks for another refund of the charge, and the look for that shows it.
        await scene.move(700)
        await scene.paid(request.content.charge, 100)
    assert scene.state(request) is State.DECLINED
    (task,) = scene.tasks()
    assert (task.kind, task.request, task.refund, task.amount_minor) == (Kind.PAID_AFTER_ALL, request.id, made, 1200)
    assert task.options == (How.NOTED,)
    for word in (made, request.id, "declined", "ada and ben say that it was not paid", "nothing is sent"):
        assert word in task.text
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    after = scene.now(request)
    assert (after.state, after.refund, after.amount_minor, after.reserved_minor) == (State.SETTLED, made, 1200, 0)
    await scene.days(2)
    assert scene.kinds() == ["paid_after_all"], "told once"
    assert [one["id"] for one in await scene.at_stripe() if one["amount"] == 1200] == [made]


async def test_asked_for_again_before_its_refund_turns_up_it_is_not_paid_a_second_time(scene: Scene) -> None:
    request = await not_paid(scene)
    made = await turned_up(scene, request)
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    after = scene.now(request)
    assert (after.state, after.refund, after.attempt) == (State.SETTLED, made, 1)
    assert [one["id"] for one in await scene.at_stripe() if one["amount"] == 1200] == [made]


async def test_one_that_gives_back_another_amount_is_told_as_that_too(scene: Scene) -> None:
    await scene.listen()
    request = await not_paid(scene)
    made = await turned_up(scene, request, 900)
    await scene.follow()
    assert [(one.kind, one.amount_minor) for one in scene.tasks()] == [(Kind.PAID_AFTER_ALL, 900)]
    assert "9.00 USD" in scene.tasks()[0].text
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    after = scene.now(request)
    assert (after.state, after.refund, after.amount_minor) == (State.SETTLED, made, 900)


async def test_a_refund_that_turns_up_and_has_failed_pays_nothing(scene: Scene) -> None:
    await scene.listen()
    request = await not_paid(scene)
    made = await turned_up(scene, request)
    await scene.control(f"POST /_sim/refunds/{made}/fail", {"reason": "declined"})
    await scene.follow()
    assert (scene.state(request), scene.tasks()) == (State.DECLINED, [])


async def test_one_that_turns_up_once_another_has_paid_is_told_with_both_their_names(scene: Scene) -> None:
    await scene.listen()
    request = await not_paid(scene)
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    paid = scene.now(request)
    assert (paid.state, paid.attempt) == (State.SETTLED, 2)
    late = await turned_up(scene, request)
    await scene.follow()
    (task,) = scene.tasks()
    assert (task.kind, task.refund, task.amount_minor) == (Kind.PAID_TWICE, late, 1200)
    assert late in task.text
    assert str(paid.refund) in task.text
    await scene.control(f"POST /_sim/refunds/{paid.refund}/fail", {"reason": "declined"})
    await scene.follow()
    (failed,) = [one for one in scene.tasks() if one.kind is Kind.REFUND_FAILED]
    assert f"{late} over 12.00 USD carries the id of this request too" in failed.text
    assert "Pay nothing beside it" in failed.text
    assert "in another way" not in failed.text


async def test_one_that_turns_up_once_another_has_failed_is_told_so_that_nobody_pays_a_second_time(
    scene: Scene,
) -> None:
    await scene.listen()
    request = await not_paid(scene)
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    paid = scene.now(request)
    await scene.control(f"POST /_sim/refunds/{paid.refund}/fail", {"reason": "declined"})
    await scene.follow()
    assert scene.kinds() == ["refund_failed"]
    late = await turned_up(scene, request)
    await scene.follow()
    assert scene.kinds() == ["paid_after_all", "refund_failed"]
    (task,) = [one for one in scene.tasks() if one.kind is Kind.PAID_AFTER_ALL]
    assert (task.refund, task.request) == (late, request.id)
    assert f"{paid.refund}" in task.text
    assert "give_up" in task.text


async def test_the_refund_of_one_that_was_withdrawn_unsent_is_told_to_a_person(scene: Scene) -> None:
    """As where another installation pays the same file."""
    await scene.listen()
    request = await scene.requested(await scene.sim.charge(5000), 1200)
    with scene.database.unit() as unit:
        refunds.withdraw(unit, request.id, ADA, "the customer kept it")
    made = await turned_up(scene, request)
    await scene.follow()
    assert scene.state(request) is State.WITHDRAWN
    (task,) = scene.tasks()
    assert (task.kind, task.refund, task.amount_minor) == (Kind.PAID_AFTER_ALL, made, 1200)
    assert "withdrawn (the customer kept it)" in task.text
    assert "second installation" in task.text
    await scene.sim.call(f"POST /v1/refunds/{made}", metadata={"note": "x"})
    await scene.follow()
    assert len(scene.tasks()) == 1


async def test_what_is_asked_for_again_after_its_refund_was_seen_is_paid_by_that_and_not_once_more(
    scene: Scene,
) -> None:
    """As long as the look that has shown it is young, nobody need look again for any other reason."""
    await scene.paid(await scene.sim.charge(5000), 100)
    request = await scene.requested(await scene.sim.charge(5000), 1200)
    with scene.database.unit() as unit:
        refunds.withdraw(unit, request.id, ADA, "the customer kept it")
    made = await turned_up(scene, request)
    await scene.looked(request.content.charge)
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA)
    await scene.pay_due()
    assert [one["id"] for one in await scene.at_stripe() if one["amount"] == 1200] == [made]
    assert (scene.state(request), scene.now(request).refund) == (State.SETTLED, made)


@pytest.mark.parametrize("name", ["Ada", " ada", "ADA "])
async def test_the_same_person_written_otherwise_is_no_second_one(scene: Scene, name: str) -> None:
    request, task = await unknown(scene)
    await scene.move(ABSENT_AFTER + 1)
    await said(scene, task, ADA)
    with pytest.raises(TaskForbids, match="a second person") as alone:
        await said(scene, task, Actor(ActorKind.PERSON, name))
    assert alone.value.code == "second_person_needed"
    assert scene.state(request) is State.OUTCOME_UNKNOWN


@pytest.mark.parametrize("second", [BEN, ADA], ids=["two people", "one person twice"])
async def test_what_is_said_twice_in_the_same_moment_ends_it_only_if_two_people_have_said_it(
    scene: Scene, second: Actor
) -> None:
    request, task = await unknown(scene)
    await scene.move(ABSENT_AFTER + 1)
    now, both = scene.clock.now(), threading.Barrier(2)

    def say(actor: Actor) -> str:
        both.wait(10)
        try:
            with scene.database.unit() as unit:
                done = tasks.say_not_paid(unit, task.id, Clocks(now, now, now), actor, f"seen by {actor.name}")
        except TaskForbids as refused:
            return refused.code
        return done.how.value if done.how else "first"

    with ThreadPoolExecutor(2) as pool:
        told = sorted(pool.map(say, (ADA, second)))
    alone = second is ADA
    assert told == ["first", "second_person_needed" if alone else "not_paid"]
    assert scene.state(request) is (State.OUTCOME_UNKNOWN if alone else State.DECLINED)


async def test_a_request_that_an_older_program_left_without_its_task_gets_it(scene: Scene) -> None:
    request, task = await unknown(scene)
    with scene.database.unit() as unit:
        unit.connection.execute(sa.delete(tasks_table))
    await scene.move(5)
    for _ in range(2):
        with scene.database.unit() as unit:
            take_charge(unit, ACCOUNT, alone=False)
        await scene.move(5)
    (made,) = scene.tasks()
    assert (made.id, made.request, made.text, made.options) == (task.id, request.id, task.text, task.options)
    assert made.opened_at == scene.clock.now() - 10, "made once, and not again"
    await scene.move(ABSENT_AFTER + 1)
    await said(scene, made, ADA)
    await said(scene, made, BEN)
    assert scene.now(request).reason_code == "not_paid"
    with scene.database.unit() as unit:
        take_charge(unit, ACCOUNT, alone=False)
    assert scene.tasks() == []


async def test_two_processes_that_begin_at_once_give_it_one_task(scene: Scene) -> None:
    request, task = await unknown(scene)
    with scene.database.unit() as unit:
        unit.connection.execute(sa.delete(tasks_table))
    both = threading.Barrier(2)

    def begin() -> None:
        both.wait(10)
        with scene.database.unit() as unit:
            take_charge(unit, ACCOUNT, alone=False)

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(begin), pool.submit(begin)]:
            one.result()
    assert [(one.id, one.request) for one in scene.tasks()] == [(task.id, request.id)]


async def test_a_task_that_an_older_program_left_open_though_its_refund_was_found_is_over(scene: Scene) -> None:
    request, task = await unknown(scene)
    await turned_up(scene, request)
    await scene.looked(request.content.charge)
    with scene.database.unit() as unit:
        refunds.notice(unit, ACCOUNT, request.content.charge)
    with scene.database.unit() as unit:
        again = {"resolved_at": None, "resolved_by": None, "how": None}
        unit.connection.execute(sa.update(tasks_table).values(again))
    assert [one.id for one in scene.tasks()] == [task.id]
    with scene.database.unit() as unit:
        take_charge(unit, ACCOUNT, alone=False)
    assert scene.tasks() == []
    (over,) = scene.tasks(resolved=True)
    assert (over.how, over.resolved_by) == (How.OVER, "system:refundry")


@pytest.mark.parametrize(
    ("how", "note", "refund", "code"),
    [
        (How.PAID_BY, "", "", "task_refund_missing"),
        (How.NOT_PAID, " ", "", "task_note_missing"),
        (How.NOT_PAID, "note", "re_1", "task_option_wrong"),
        (How.GIVE_UP, "note", "", "task_option_wrong"),
    ],
)
async def test_a_choice_that_lacks_what_it_needs_is_refused(
    scene: Scene, how: How, note: str, refund: str, code: str
) -> None:
    _, task = await unknown(scene)
    with pytest.raises(TaskChoiceWrong) as refused:
        tasks.check(task, how, note, refund)
    assert refused.value.code == code
