"""What a person has to do: opened with its cause, once, with options that do what they say."""

from __future__ import annotations

import pytest

from refundry.audit import service as audit
from refundry.disputes.model import Loss
from refundry.gateways.base import RefundBody
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Outcome
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from refundry.tasks import repository
from refundry.tasks import service as tasks
from refundry.tasks.model import How, Kind, Task, TaskChoiceWrong, TaskForbids, TaskUnknown
from refundry.tasks.rules import double_loss
from tests.support.builders import ACCOUNT, seen_refund
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration


async def failed(scene: Scene) -> Task:
    """Have a refund fail after it was told as paid."""
    await scene.listen()
    await scene.paid(await scene.sim.charge(5000, card="pm_card_refundFail"), 1200)
    await scene.move(400)
    await scene.follow()
    (task,) = scene.tasks()
    return task


async def test_a_late_failure_opens_one_task_with_the_three_ways_out(scene: Scene) -> None:
    task = await failed(scene)
    assert (task.kind, task.amount_minor, task.currency) == (Kind.REFUND_FAILED, 1200, "usd")
    assert task.options == (How.PAID_OTHERWISE, How.REPLACE, How.GIVE_UP)
    assert "had been told as paid" in task.text
    assert "expired" in task.text
    assert task.due_at == task.opened_at + 2 * 86_400
    await scene.days(1)
    assert [one.id for one in scene.tasks()] == [task.id]
    with scene.database.reading() as unit:
        assert tasks.overdue(unit, ACCOUNT) == 0
    await scene.days(2)
    with scene.database.reading() as unit:
        assert (tasks.overdue(unit, ACCOUNT), tasks.counts(unit, ACCOUNT)) == (1, {Kind.REFUND_FAILED: 1})


@pytest.mark.parametrize("ends", ["win", "lose"])
@pytest.mark.parametrize("heard", [False, True], ids=["decided before it was heard", "heard while it is open"])
async def test_what_waits_for_a_dispute_is_due_when_that_is_decided(scene: Scene, ends: str, heard: bool) -> None:  # noqa: FBT001
    await scene.listen()
    charge = await scene.sim.charge(5000, card="pm_card_pendingRefund")
    await scene.paid(charge, 200)
    dispute = await scene.disputed(charge)
    if heard:
        await scene.follow()
        await scene.days(3)
        (open_,) = scene.tasks()
        assert open_.kind is Kind.REFUND_FAILED
        with scene.database.reading() as unit:
            assert tasks.overdue(unit, ACCOUNT) == 0
    await scene.control(f"POST /_sim/disputes/{dispute}/{ends}")
    await scene.move(1)
    await scene.follow()
    (task,) = [one for one in scene.tasks() if one.kind is Kind.REFUND_FAILED]
    assert scene.clock.now() < task.due_at <= scene.clock.now() + 2 * 86_400


async def test_paid_in_another_way_needs_a_note_and_stands_in_the_timeline(scene: Scene) -> None:
    task = await failed(scene)
    with scene.database.unit() as unit, pytest.raises(TaskChoiceWrong, match="note") as missing:
        tasks.resolve(unit, task.id, How.PAID_OTHERWISE, ADA, "  ")
    assert missing.value.code == "task_note_missing"
    with scene.database.unit() as unit:
        done = tasks.resolve(unit, task.id, How.PAID_OTHERWISE, ADA, "bank transfer")
    assert (done.how, done.note, done.resolved_by) == (How.PAID_OTHERWISE, "bank transfer", "person:ada")
    assert scene.tasks() == []
    with scene.database.unit() as unit, pytest.raises(TaskForbids, match="was resolved by person:ada"):
        tasks.resolve(unit, task.id, How.GIVE_UP, ADA)
    with scene.database.reading() as unit:
        assert [
            entry.facts["how"] for entry in audit.timeline(unit, task.request or "") if entry.event == "task.resolved"
        ] == ["paid_otherwise"]


async def test_a_replacement_goes_through_policy_and_is_paid_once(scene: Scene) -> None:
    task = await failed(scene)
    now = await scene.gateway.refund(task.refund or "", Lane.DESK)
    await scene.move(0.01)
    with scene.database.unit() as unit:
        new = tasks.replace_failed(unit, task.id, now, scene.clock.now(), ADA)
    assert (new.replaces, new.content.asked_minor, new.state) == (task.request, 1200, State.RECEIVED)
    await scene.control(f"POST /_sim/charges/{task.charge}/behaviour", {"refund": "succeeds"})
    await scene.pay_due()
    assert scene.state(new) is State.SETTLED
    with scene.database.reading() as unit:
        assert refunds.replaced_by(unit, task.request or "") == new.id
        assert [one.replacement for one in tasks.of_charge(unit, task.charge)] == [new.id]
    assert sum(one["status"] == "succeeded" for one in await scene.at_stripe()) == 1


async def test_nothing_is_replaced_that_is_alive_at_stripe(scene: Scene) -> None:
    task = await failed(scene)
    alive = seen_refund(task.refund or "", charge=task.charge, status="pending")
    with scene.database.unit() as unit, pytest.raises(TaskForbids) as refused:
        tasks.replace_failed(unit, task.id, alive, scene.clock.now(), ADA)
    assert refused.value.code == "refund_not_over"
    with scene.database.reading() as unit:
        assert refunds.replaced_by(unit, task.request or "") is None
    assert len(scene.tasks()) == 1


async def test_nothing_is_replaced_of_which_another_refund_is_alive(scene: Scene) -> None:
    """Two carry the request's id, and the one that was taken for its payment has failed: the customer has the other."""
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.paid(charge, 1200)
    mark = {"metadata": {"refundry_request_id": request.id}}
    second = await scene.sim.call("POST /v1/refunds", charge=charge, amount=1200, **mark)
    await scene.follow()
    await scene.control(f"POST /_sim/refunds/{request.refund}/fail", {"reason": "declined"})
    await scene.follow()
    (task,) = [one for one in scene.tasks() if one.kind is Kind.REFUND_FAILED]

    async def replaced() -> None:
        now = await scene.gateway.refund(task.refund or "", Lane.DESK)
        await scene.move(0.01)
        with scene.database.unit() as unit:
            tasks.replace_failed(unit, task.id, now, scene.clock.now(), ADA)

    with pytest.raises(TaskForbids, match=second["id"]) as refused:
        await replaced()
    assert refused.value.code == "refund_not_over"
    await scene.pay_due()
    assert [one["id"] for one in await scene.at_stripe() if one["status"] == "succeeded"] == [second["id"]]
    await scene.control(f"POST /_sim/refunds/{second['id']}/fail", {"reason": "declined"})
    await scene.follow()
    await replaced()
    await scene.pay_due()
    assert [one["status"] for one in await scene.at_stripe()].count("succeeded") == 1


async def test_what_does_not_fit_a_task_is_refused(scene: Scene) -> None:
    task = await failed(scene)
    with scene.database.unit() as unit, pytest.raises(TaskChoiceWrong, match="paid_otherwise or replace") as wrong:
        tasks.resolve(unit, task.id, How.CANCEL, ADA)
    assert wrong.value.code == "task_option_wrong"
    with scene.database.unit() as unit, pytest.raises(TaskUnknown):
        tasks.resolve(unit, "nothing", How.GIVE_UP, ADA)


async def test_a_refund_that_waits_for_its_customer_says_what_and_until_when_and_ends_by_itself(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "action"})
    request = await scene.paid(charge, 1200)
    assert request.state is State.REQUIRES_ACTION
    (task,) = scene.tasks()
    (shown,) = await scene.at_stripe()
    assert task.kind is Kind.REQUIRES_ACTION
    assert task.due_at == shown["next_action"]["display_details"]["expires_at"]
    assert "e-mail" in task.text
    await scene.control(f"POST /_sim/refunds/{request.refund}/act")
    await scene.follow()
    assert (scene.state(request), scene.tasks()) == (State.PENDING, [])
    await scene.control(f"POST /_sim/refunds/{request.refund}/require_action")
    await scene.follow()
    assert scene.kinds() == ["requires_action"], "the bank sent it back: the customer is asked again"
    await scene.control(f"POST /_sim/refunds/{request.refund}/fail", {"reason": "declined"})
    await scene.follow()
    assert scene.kinds() == ["refund_failed"]


async def test_what_its_customer_may_still_take_is_called_back_before_it_is_paid_in_another_way(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "action"})
    request = await scene.paid(charge, 1200)
    (task,) = scene.tasks()
    with scene.database.unit() as unit, pytest.raises(TaskChoiceWrong, match="choose cancel or give_up"):
        tasks.resolve(unit, task.id, How.PAID_OTHERWISE, ADA, "bank transfer")
    assert [one.id for one in scene.tasks()] == [task.id]
    called_back = await scene.gateway.cancel_refund(request.refund or "")
    with scene.database.unit() as unit:
        tasks.resolve(unit, task.id, How.CANCEL, ADA)
        refunds.found(unit, ACCOUNT, called_back)
    (canceled,) = scene.tasks()
    assert canceled.kind is Kind.REFUND_CANCELED
    with scene.database.unit() as unit:
        tasks.resolve(unit, canceled.id, How.PAID_OTHERWISE, ADA, "bank transfer")
    await scene.follow()
    assert (scene.state(request), scene.tasks()) == (State.CANCELED, [])


async def test_money_that_has_gone_out_twice_is_told(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.paid(charge, 1200)
    mark = {"metadata": {"refundry_request_id": request.id}}
    again = await scene.sim.call("POST /v1/refunds", charge=charge, amount=1200, **mark)
    await scene.follow()
    (task,) = scene.tasks()
    assert (task.kind, task.refund, task.amount_minor) == (Kind.PAID_TWICE, again["id"], 1200)
    await scene.days(1)
    assert len(scene.tasks()) == 1


async def test_a_failure_in_the_answer_itself_opens_a_task_too(scene: Scene) -> None:
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 300)
    send = scene.gateway.send

    async def sent(body: RefundBody, key: str) -> Outcome:
        await send(body, key)
        (made,) = await scene.at_stripe()
        await scene.control(f"POST /_sim/refunds/{made['id']}/fail", {"reason": "declined"})
        return await scene.look_up(request, made["id"])

    scene.gateway.send = sent  # type: ignore[method-assign]
    await scene.pay_due()
    assert (scene.state(request), scene.kinds()) == (State.FAILED, ["refund_failed"])


async def test_a_double_loss_that_a_person_has_resolved_is_open_again_once_more_is_lost(scene: Scene) -> None:
    def lost(amount_minor: int) -> None:
        with scene.database.unit() as unit:
            loss = Loss(amount_minor, amount_minor, 5000)
            repository.open_all(unit, [double_loss(ACCOUNT, "ch_1", loss, "gbp", [], unit.now)])

    lost(200)
    (task,) = scene.tasks()
    with scene.database.unit() as unit:
        repository.resolve(unit, task.id, How.NOTED, "ada", "the bank was told", None)
    lost(200)
    assert scene.tasks() == []
    await scene.move(60)
    lost(700)
    (again,) = scene.tasks()
    assert (again.id, again.amount_minor, again.how) == (task.id, 700, None)
    assert again.opened_at > task.opened_at
    # One that is open is told anew, and stands as old as it is.
    await scene.move(60)
    lost(900)
    assert [(one.amount_minor, one.opened_at) for one in scene.tasks()] == [(900, again.opened_at)]
