"""Refunds that were not made here: whose they are, what they take away, and what they repeat."""

from __future__ import annotations

import pytest

from refundry.inbox.model import State as EventState
from refundry.kernel import ids
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from tests.support.builders import ACCOUNT
from tests.support.events import body_of, written
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration
OTHER = "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"


@pytest.mark.parametrize("by", ["webhook", "polling"])
async def test_a_refund_from_the_dashboard_is_its_own_record_and_lowers_what_is_left(scene: Scene, by: str) -> None:
    if by == "webhook":
        await scene.listen()
    else:
        await scene.poll()
    charge = await scene.sim.charge(5000)
    await scene.paid(charge, 1000)
    made = await scene.by_hand(charge, 1500)
    await scene.move(70)
    await (scene.follow() if by == "webhook" else scene.days(0.25))
    assert scene.origin(made) == "external"
    assert scene.charge(charge).unrefunded_minor == 2500


@pytest.mark.parametrize(
    ("asked", "by_hand", "ticket", "held"),
    [
        (1200, 1200, None, "possible_repeat"),
        (None, 5000, None, "possible_repeat"),
        (5000, 5000, None, "possible_repeat"),
        (1200, 5000, None, "possible_repeat"),
        (1200, 700, "T-7", "possible_repeat"),
        (1200, 700, None, "schedule"),
        (None, 700, None, "schedule"),
    ],
)
async def test_a_waiting_request_for_the_same_is_held(
    scene: Scene, asked: int | None, by_hand: int, ticket: str | None, held: str
) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.looked(charge)
    request = await scene.requested(charge, asked, ticket_id=ticket)
    with scene.database.unit() as unit:
        refunds.make_wait(unit, [request.id], ADA)
    await scene.follow()
    await scene.by_hand(charge, by_hand, **({"metadata": {"ticket_id": ticket}} if ticket else {}))
    await scene.follow()
    assert scene.held(request) == held


async def test_what_a_person_allows_is_not_held_again(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.paid(charge, 100)
    request = await scene.requested(charge, 1200)
    await scene.by_hand(charge, 1200)
    await scene.follow()
    assert scene.held(request) == "possible_repeat"
    with scene.database.unit() as unit:
        refunds.allow_repeat(unit, request.id, ADA)
    await scene.pay_due()
    await scene.follow()
    assert scene.state(request) is State.SETTLED


@pytest.mark.parametrize("sign", ["mark", "key"])
async def test_a_refund_of_another_refundry_is_never_taken_for_an_external_one(scene: Scene, sign: str) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.paid(charge, 100)
    mark = {"metadata": {"refundry_request_id": OTHER}} if sign == "mark" else {}
    key = f"{OTHER}.1" if sign == "key" else None
    made = await scene.sim.call("POST /v1/refunds", charge=charge, amount=300, idempotency_key=key, **mark)
    await scene.follow()
    assert scene.origin(made["id"]) == "unknown_refundry"
    (task,) = scene.tasks()
    assert (task.kind, task.refund, task.amount_minor) == ("unknown_refundry", made["id"], 300)
    reads = scene.follower.done.reads
    await scene.sim.call(f"POST /v1/refunds/{made['id']}", metadata={"note": "x"})
    await scene.follow()
    assert scene.follower.done.reads == reads, "it stands here as it is told"
    assert scene.origin(made["id"]) == "unknown_refundry"


async def test_the_task_ends_once_the_request_of_that_refund_is_handed_in_here_too(scene: Scene) -> None:
    """As when a database was lost, events come of what it had paid, and then the file is run again."""
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.looked(charge)
    mark = {"refundry_request_id": ids.request_id("acct_1", "test", "key:lost")}
    made = await scene.sim.call("POST /v1/refunds", charge=charge, amount=300, metadata=mark)
    await scene.follow()
    assert scene.kinds() == ["unknown_refundry"]
    request = await scene.paid(charge, 300, key="key:lost")
    assert (request.state, request.refund) == (State.SETTLED, made["id"])
    assert scene.origin(made["id"]) == "ours"
    assert scene.kinds() == []


@pytest.mark.parametrize("by", ["follower", "executor"])
async def test_of_two_refunds_with_one_mark_the_one_whose_money_is_out_pays_the_request(scene: Scene, by: str) -> None:
    """As where a script has made a failed one anew, with its metadata, and the database was lost since."""
    if by == "follower":
        await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 300)
    mark = {"refundry_request_id": request.id}
    made = [
        (await scene.sim.call("POST /v1/refunds", charge=charge, amount=300, metadata=mark))["id"] for _ in range(2)
    ]
    # Whichever comes first by its name.
    first, second = sorted(made)
    await scene.control(f"POST /_sim/refunds/{first}/fail", {"reason": "declined"})
    await scene.move(1)
    await (scene.follow() if by == "follower" else scene.pay_due())
    after = scene.now(request)
    assert (after.state, after.refund) == (State.SETTLED, second)
    assert scene.kinds() == []


async def test_a_mark_that_was_copied_to_a_refund_of_another_charge_pays_nothing(scene: Scene) -> None:
    """As by a script that makes refunds with the metadata of others: the customer of this charge has got nothing."""
    await scene.listen()
    charge, another = await scene.sim.charge(5000), await scene.sim.charge(5000)
    request = await scene.requested(charge, 300)
    mark = {"refundry_request_id": request.id}
    made = await scene.sim.call("POST /v1/refunds", charge=another, amount=300, metadata=mark)
    await scene.follow()
    assert scene.state(request) is State.RECEIVED
    with scene.database.reading() as unit:
        ((of, opened),) = refunds.open_breaks(unit)
    assert (of, opened.code, opened.refund) == (request.id, "refund_unexpected", made["id"])
    await scene.move(3601)
    await scene.pay_due()
    after = scene.now(request)
    assert (after.state, scene.charge(charge).given_back_minor) == (State.SETTLED, 300)
    assert after.refund != made["id"]
    reads = scene.follower.done.reads
    await scene.sim.call(f"POST /v1/refunds/{made['id']}", metadata={"note": "x"})
    await scene.follow()
    assert scene.follower.done.reads == reads, "it stands here as it is told"


async def test_a_refund_whose_mark_was_taken_away_belongs_to_the_request_of_its_key(scene: Scene) -> None:
    """Its mark may be wiped by anybody with the key; the event of its making remembers under which key it was made."""
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 300)
    made = await scene.sim.call("POST /v1/refunds", charge=charge, amount=300, idempotency_key=f"{request.id}.1")
    await scene.follow()
    assert scene.origin(made["id"]) == "ours"
    after = scene.now(request)
    assert (after.state, after.refund) == (State.SETTLED, made["id"])
    await scene.pay_due()
    assert len(await scene.at_stripe()) == 1


async def test_a_refund_stays_ours_when_its_mark_is_wiped(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000, card="pm_card_refundFail")
    request = await scene.paid(charge, 300)
    await scene.follow()
    await scene.sim.call(f"POST /v1/refunds/{request.refund}", metadata="", check=False)
    await scene.move(400)
    await scene.follow()
    assert scene.state(request) is State.FAILED
    assert scene.origin(request.refund or "") == "ours"


async def test_a_list_finds_what_no_event_told(scene: Scene) -> None:
    charge = await scene.sim.charge(5000)
    await scene.paid(charge, 100)
    made = await scene.by_hand(charge, 700)
    await scene.catch_up.refunds_between(scene.clock.now() - 60, scene.clock.now() + 1)
    assert scene.origin(made) == "external"
    assert scene.catch_up.done.moved == 1
    with scene.database.reading() as unit:
        assert not refunds.any_going_on(unit, ACCOUNT)


@pytest.mark.parametrize("by", ["webhook", "list"])
async def test_a_refund_of_a_charge_that_nobody_here_has_asked_for_brings_its_charge(scene: Scene, by: str) -> None:
    await scene.listen({"kind": "lost", "event": "charge.*"})
    charge = await scene.sim.charge(5000)
    await scene.by_hand(charge, 700)
    if by == "webhook":
        await scene.follow()
    else:
        await scene.catch_up.refunds_between(scene.clock.now() - 60, scene.clock.now() + 1)
    # Whose order it is and what is left, an order system has to be told also when the charge's own event was lost.
    assert scene.charge(charge).unrefunded_minor == 4300


async def test_what_has_failed_by_the_time_its_first_event_is_applied_holds_nobody(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    made = await scene.by_hand(charge, 700)
    await scene.looked(charge)
    waiting = await scene.requested(charge, 700)
    await scene.control(f"POST /_sim/refunds/{made}/fail", {"reason": "declined"})
    await scene.follow()
    assert scene.held(waiting) == ""
    await scene.pay_due()
    assert scene.state(waiting) is State.SETTLED


async def invoiced(scene: Scene) -> tuple[str, str]:
    """Have an invoice paid; tells it and its charge."""
    customer = (await scene.sim.call("POST /v1/customers", payment_method="pm_card_visa"))["id"]
    invoice = (await scene.sim.call("POST /v1/invoices", customer=customer))["id"]
    item = {"customer": customer, "invoice": invoice, "amount": 1500, "currency": "gbp"}
    await scene.sim.call("POST /v1/invoiceitems", **item)
    await scene.sim.call(f"POST /v1/invoices/{invoice}/pay")
    expand = ["data.payment.payment_intent"]
    (link,) = (await scene.sim.call("GET /v1/invoice_payments", invoice=invoice, expand=expand))["data"]
    return invoice, str(link["payment"]["payment_intent"]["latest_charge"])


@pytest.mark.parametrize("known", [True, False])
async def test_a_credit_note_tells_of_its_refund_though_the_refunds_own_events_are_lost(
    scene: Scene,
    known: bool,  # noqa: FBT001
) -> None:
    await scene.listen({"kind": "lost", "event": "refund.*"}, {"kind": "lost", "event": "charge.*"})
    invoice, charge = await invoiced(scene)
    if known:
        await scene.looked(charge)
    note = await scene.sim.call("POST /v1/credit_notes", invoice=invoice, amount=500, refund_amount=500)
    await scene.move(1)
    await scene.follow()
    assert scene.origin(note.json["refunds"][0]["refund"]) == "external"
    assert scene.charge(charge).unrefunded_minor == 1000
    assert scene.events()[EventState.APPLIED] == 1


async def test_a_credit_note_whose_refund_is_known_costs_no_read(scene: Scene) -> None:
    await scene.listen({"kind": "lost", "event": "credit_note.*"})
    invoice, charge = await invoiced(scene)
    await scene.looked(charge)
    note = await scene.sim.call("POST /v1/credit_notes", invoice=invoice, amount=500, refund_amount=500)
    await scene.move(1)
    await scene.follow()
    assert scene.origin(note.json["refunds"][0]["refund"]) == "external"
    reads = scene.follower.done.reads
    body = body_of("evt_note", "credit_note.created", data={"object": note.json})
    await scene.send("", {}, written(body), 1.0)
    await scene.follow()
    assert scene.follower.done.reads == reads


async def test_a_refund_of_ours_whose_mark_was_wiped_is_no_repeat_by_others(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    paid = await scene.paid(charge, 1200)
    waiting = await scene.requested(charge, 1200)
    with scene.database.unit() as unit:
        refunds.make_wait(unit, [waiting.id], ADA)
    await scene.follow()
    await scene.sim.call(f"POST /v1/refunds/{paid.refund}", metadata="")
    await scene.by_hand(charge, 100)
    await scene.follow()
    assert scene.charge(charge).unrefunded_minor == 3700
    assert (scene.held(waiting), scene.now(waiting).reason_text) == ("schedule", "")
