"""Rows become refund requests, or are refused each with its reason; nothing is guessed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from refundry.batches import repository
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState
from refundry.batches.service import SLICE, Missing
from refundry.connectors.base import Reference, ReferenceKind
from refundry.kernel import ids
from refundry.kernel.actor import SYSTEM
from refundry.refunds.model import State
from tests.integration.batches.conftest import Clerk
from tests.support.builders import ACCOUNT
from tests.support.hand import ADA, ORDER_KEY

pytestmark = pytest.mark.integration

HEAD = "charge_id,payment_intent,order_id,amount,ticket_id,request_key,reason,currency\n"


def row(charge: str = "", intent: str = "", order: str = "", amount: str = "10.00", **more: str) -> str:
    values = (charge, intent, order, amount, *(more.get(name, "") for name in ("ticket", "key", "reason", "currency")))
    return ",".join(values) + "\n"


def test_rows_find_their_charge_by_each_reference(clerk: Clerk) -> None:
    batch = clerk.planned(HEAD + row("ch_1") + row(intent="pi_2") + row(order="A3"))
    assert batch.state is BatchState.RUNNING
    requests = [line.request for line in clerk.lines(batch)]
    assert [request.content.charge for request in requests if request] == ["ch_1", "ch_2", "ch_3"]
    assert clerk.told(batch) == [("waiting", "received")] * 3


def test_a_requests_id_is_the_same_in_every_installation(clerk: Clerk) -> None:
    batch = clerk.planned(HEAD + row("ch_1") + row("ch_2", ticket="T1") + row("ch_3", key="k1"))
    told = [line.request.id for line in clerk.lines(batch) if line.request]
    keys = ["row:ch_1:1000:gbp", "ticket:T1:ch_2", "key:k1"]
    assert told == [ids.request_id("acct_1", "test", key) for key in keys]


def test_what_a_row_asks_for_is_kept_in_its_request(clerk: Clerk) -> None:
    text = "charge_id,amount,ticket_id,reason,metadata.agent\nch_1,full,T1,duplicate,Ada\n"
    (line,) = clerk.lines(clerk.planned(text))
    assert line.request is not None
    content = line.request.content
    assert (content.asked, content.ticket_id, content.reason) == ("full", "T1", "duplicate")
    assert (dict(content.metadata), content.currency) == ({"agent": "Ada"}, "gbp")


MISSING = {
    Reference(ReferenceKind.ORDER_ID, "A9"): Missing("order_unknown", "there is no charge for order_id A9"),
    Reference(ReferenceKind.CHARGE_ID, "ch_9"): Missing("charge_unknown", "there is no charge ch_9"),
}
REFUSED = {
    "order_unknown": (row(order="A9"), "A9"),
    "charge_unknown": (row("ch_9"), "ch_9"),
    "references_disagree": (row("ch_1", order="A2"), "ch_1 and ch_2"),
    "amount_too_precise": (row("ch_1", amount="10.001"), "decimals"),
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_row_without_a_clear_charge_and_amount_is_refused_with_its_reason(clerk: Clerk, code: str) -> None:
    text, said = REFUSED[code]
    batch = clerk.accept(HEAD + text + row("ch_3"))
    clerk.plan(batch, MISSING)
    refused, paid = clerk.lines(batch)
    assert (refused.standing, refused.code, refused.request) == ("refused", code, None)
    assert said in refused.text
    assert paid.request is not None
    assert len(clerk.claim()) == 1


def test_a_charge_that_was_not_found_is_unknown_though_nobody_said_so(clerk: Clerk) -> None:
    assert clerk.told(clerk.planned(HEAD + row("ch_8"))) == [("refused", "charge_unknown")]


def test_an_order_with_several_captured_charges_is_never_guessed(clerk: Clerk) -> None:
    clerk.looked("ch_4", metadata={ORDER_KEY: "A1"})
    (line,) = clerk.lines(clerk.planned(HEAD + row(order="A1")))
    assert (line.standing, line.code) == ("refused", "ambiguous_order")
    assert "ch_1, ch_4" in line.text
    assert "in a file as charge_id, by command as --charge" in line.text


@pytest.mark.parametrize("other", [{"status": "failed", "captured": False}, {"captured": False, "captured_minor": 0}])
def test_a_failed_or_uncaptured_charge_beside_the_paid_one_is_not_ambiguous(
    clerk: Clerk, other: dict[str, object]
) -> None:
    clerk.looked("ch_0", metadata={ORDER_KEY: "A1"}, **other)
    (line,) = clerk.lines(clerk.planned(HEAD + row(order="A1")))
    assert line.request is not None
    assert line.request.content.charge == "ch_1"


def test_references_that_agree_are_fine(clerk: Clerk) -> None:
    assert clerk.told(clerk.planned(HEAD + row("ch_1", "pi_1", "A1"))) == [("waiting", "received")]


# Rows that say the same


def test_a_repeated_row_is_refused_and_names_the_first(clerk: Clerk) -> None:
    batch = clerk.planned(
        HEAD + row("ch_2") + row("ch_1", ticket="T1") + row("ch_1", ticket="T1") + row("ch_1", ticket="T1")
    )
    lines = clerk.lines(batch)
    assert [(line.standing.value, line.code) for line in lines] == [
        ("waiting", "received"), ("waiting", "received"), ("refused", "repeated_row"), ("refused", "repeated_row")]  # fmt: skip
    assert [line.text for line in lines[2:]] == ["the same refund as row 2"] * 2
    assert lines[2].request == lines[1].request
    assert len(clerk.claim()) == 2


@pytest.mark.parametrize(
    "other", [row("ch_1", amount="11.00", ticket="T1"), row("ch_1", ticket="T1", reason="duplicate")]
)
def test_the_same_key_with_other_content_is_refused_and_changes_nothing(clerk: Clerk, other: str) -> None:
    first, second = clerk.lines(clerk.planned(HEAD + row("ch_1", ticket="T1") + other))
    assert (second.standing, second.code) == ("refused", "same_key_other_content")
    assert second.text.startswith("row 1 already asks with the same key for something else (1000 gbp of ch_1")
    assert first.request is not None
    assert first.request.content.asked_minor == 1000
    assert len(clerk.claim()) == 1


def test_a_second_row_without_ticket_or_key_is_a_possible_repeat(clerk: Clerk) -> None:
    first, second = clerk.lines(clerk.planned(HEAD + row("ch_1") + row(order="A1")))
    assert first.standing == "waiting"
    assert (second.standing, second.code) == ("refused", "possible_repeat")
    assert "row 1" in second.text
    assert "ticket_id or a request_key" in second.text


@pytest.mark.parametrize(
    "other", [row("ch_1", amount="9.00"), row("ch_1", ticket="T1"), row("ch_1", key="k1"), row("ch_2")]
)
def test_a_row_that_differs_is_another_refund(clerk: Clerk, other: str) -> None:
    assert clerk.told(clerk.planned(HEAD + row("ch_1") + other)) == [("waiting", "received")] * 2


def test_an_edited_file_pays_only_what_is_new(clerk: Clerk) -> None:
    first = clerk.planned(HEAD + row("ch_1", ticket="T1") + row("ch_2"))
    paid = clerk.pay_what_is_due()
    edited = clerk.planned(HEAD + row("ch_3") + row("ch_2") + row("ch_1", ticket="T1"), "again.csv")
    assert clerk.told(edited) == [("waiting", "received"), ("refused", "possible_repeat"), ("refused", "repeated_row")]
    texts = [line.text for line in clerk.lines(edited)]
    assert "row 2 of refunds.csv" in texts[1]
    assert texts[2] == "the same refund as row 1 of refunds.csv"
    assert [request.content.charge for request in clerk.pay_what_is_due()] == ["ch_3"]
    assert len(paid) == 2
    assert clerk.totals(first).told()["paid"] == 2


def test_a_row_that_repeats_one_that_was_taken_back_says_so(clerk: Clerk) -> None:
    wrong = clerk.planned(HEAD + row("ch_1", ticket="T1") + row("ch_2", ticket="T2"), "wrong.csv")
    clerk.unit(lambda unit: batches.withdraw(unit, wrong, ADA, "a row is missing"))
    corrected = clerk.planned(HEAD + row("ch_1", ticket="T1") + row("ch_3", ticket="T3"))
    assert clerk.told(corrected) == [("refused", "repeated_row"), ("waiting", "received")]
    assert clerk.lines(corrected)[0].text == (
        "the same refund as row 1 of wrong.csv, which is withdrawn and gives nothing back: `refundry refund create` asks for it anew"
    )


def test_the_same_file_run_again_continues(clerk: Clerk) -> None:
    text = HEAD + row("ch_1") + row("ch_2")
    clerk.planned(text)
    again = clerk.planned(text, "renamed.csv")
    assert clerk.told(again) == [("waiting", "received")] * 2


def test_rows_of_one_charge_are_paid_in_their_order(clerk: Clerk) -> None:
    clerk.planned(HEAD + "".join(row("ch_1", amount=f"{n}.00", ticket=f"T{n}") for n in (3, 1, 2)))
    assert [request.amount_minor for request in clerk.pay_what_is_due()] == [300, 100, 200]


# Slices


def test_a_file_is_planned_slice_by_slice_and_each_once(clerk: Clerk) -> None:
    count = SLICE + 3
    batch = clerk.accept("charge_id,amount,ticket_id\n" + "".join(f"ch_1,0.01,T{n}\n" for n in range(count)))
    assert clerk.plan(batch) == SLICE
    assert clerk.batch(batch).state is BatchState.ACCEPTED
    assert clerk.totals(batch).told()["waiting"] == count
    assert clerk.plan(batch) == 3
    assert clerk.batch(batch).state is BatchState.RUNNING
    assert clerk.plan(batch) == 0
    assert [line.row.number for line in clerk.lines(batch)] == list(range(1, count + 1))


def test_a_file_of_exactly_one_slice_is_planned_to_its_end(clerk: Clerk) -> None:
    batch = clerk.accept("charge_id,amount,ticket_id\n" + "".join(f"ch_1,0.01,T{n}\n" for n in range(SLICE)))
    clerk.plan(batch)
    assert clerk.batch(batch).state is BatchState.RUNNING


def test_a_repeat_in_a_later_slice_names_the_row_of_the_earlier(clerk: Clerk) -> None:
    rows = [f"ch_1,0.01,T{n}\n" for n in range(SLICE)]
    batch = clerk.planned("charge_id,amount,ticket_id\n" + "".join(rows) + rows[7])
    assert clerk.lines(batch)[-1].text == "the same refund as row 8 of refunds.csv"


def test_only_rows_that_were_looked_up_are_planned(clerk: Clerk) -> None:
    batch = clerk.accept(HEAD + row("ch_1") + row("ch_8") + row("ch_2"))
    looked = [row for row in clerk.unit(lambda unit: batches.next_unplanned(unit, batch.id)) if row.number != 2]
    done = clerk.unit(lambda unit: batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM, looked=looked))
    assert done == 2
    assert clerk.told(batch) == [("waiting", "received"), ("waiting", "not_looked_up"), ("waiting", "received")]
    assert clerk.batch(batch).state is BatchState.ACCEPTED


def test_rows_that_another_has_planned_since_they_were_looked_up_are_left_to_it(clerk: Clerk) -> None:
    batch = clerk.accept(HEAD + row("ch_1") + row("ch_2"))
    looked = clerk.unit(lambda unit: batches.next_unplanned(unit, batch.id))
    assert clerk.plan(batch) == 2
    assert clerk.unit(lambda unit: batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM, looked=looked)) == 0
    assert clerk.told(batch) == [("waiting", "received")] * 2


def test_a_row_that_became_a_request_since_it_was_looked_up_and_is_to_be_decided_anew_keeps_it(clerk: Clerk) -> None:
    batch = clerk.accept(HEAD + row("ch_1"))
    looked = clerk.unit(lambda unit: batches.next_unplanned(unit, batch.id))
    clerk.plan(batch)
    assert clerk.unit(lambda unit: repository.unplan_rows(unit, batch.id, [1])) == 1
    assert clerk.unit(lambda unit: batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM, looked=looked)) == 1
    # As it was read it became none, and would be called the repeat of a row: of itself.
    assert clerk.told(batch) == [("waiting", "received")]


def test_a_large_file_is_counted_once_row_by_row(clerk: Clerk) -> None:
    rows = 2 * repository.PAGE + 1
    batch = clerk.planned("charge_id,amount,ticket_id\n" + "".join(f"ch_1,0.01,T{n}\n" for n in range(rows)))
    totals = clerk.totals(batch)
    assert (totals.moving, totals.requested) == (rows, {"gbp": rows})


def test_two_planners_plan_each_row_once(clerk: Clerk) -> None:
    batch = clerk.accept("charge_id,amount,ticket_id\n" + "".join(f"ch_1,0.01,T{n}\n" for n in range(100)))

    def plan(_: int) -> int:
        with clerk.database.unit() as unit:
            return batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM)

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(plan, range(3))) == [0, 0, 100]
    assert clerk.told(batch) == [("waiting", "received")] * 100
    assert clerk.audit_is_sound()


def test_one_of_two_processes_looks_a_batch_up_until_it_says_so_or_has_been_silent_for_long(clerk: Clerk) -> None:
    batch, another = clerk.accept(HEAD + row("ch_1")), clerk.accept(HEAD + row("ch_2"), "another.csv")

    def hold(lease: str, of: Batch = batch) -> bool:
        return clerk.unit(lambda unit: batches.hold_planning(unit, of.id, lease, 20.0))

    assert [hold("one"), hold("two"), hold("two", another), hold("one")] == [True, False, True, True]
    clerk.unit(lambda unit: batches.release_planning(unit, batch.id, "two"))
    assert not hold("two")
    clerk.clock.move(15)
    assert hold("one")
    clerk.clock.move(15)
    assert not hold("two")
    # It died.
    clerk.clock.move(10)
    assert [hold("two"), hold("one")] == [True, False]
    clerk.unit(lambda unit: batches.release_planning(unit, batch.id, "two"))
    assert hold("one")
    # Alone on its database, whoever begins knows that all others are dead.
    clerk.unit(lambda unit: batches.end_planning(unit, ACCOUNT))
    assert hold("two")


def test_a_turn_that_a_clock_which_was_ahead_has_given_ends(clerk: Clerk) -> None:
    batch = clerk.accept(HEAD + row("ch_1"))
    with clerk.database.unit() as unit:
        unit.now += 86_400.0
        assert batches.hold_planning(unit, batch.id, "ahead", 20.0)
    assert clerk.unit(lambda unit: batches.hold_planning(unit, batch.id, "now", 20.0))


def test_what_is_planned_while_the_batch_is_paused_waits(clerk: Clerk) -> None:
    batch = clerk.accept(HEAD + row("ch_1") + row("ch_2"))
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    clerk.plan(batch)
    assert clerk.told(batch) == [("waiting", "stopped")] * 2
    assert clerk.claim() == []
    clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    assert clerk.batch(batch).state is BatchState.RUNNING
    assert len(clerk.claim()) == 2


def test_what_was_withdrawn_before_it_was_planned_becomes_no_request(clerk: Clerk) -> None:
    batch = clerk.accept(HEAD + row("ch_1") + row("ch_2"))
    assert clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file")) == 2
    assert clerk.plan(batch) == 0
    assert clerk.told(batch) == [("refused", "withdrawn")] * 2
    assert clerk.claim() == []


def test_another_batchs_request_is_left_alone_by_a_pause(clerk: Clerk) -> None:
    first = clerk.planned(HEAD + row("ch_1"))
    second = clerk.planned(HEAD + row("ch_1") + row("ch_2"), "more.csv")
    assert clerk.unit(lambda unit: batches.pause(unit, second, ADA)) == 1
    assert clerk.told(first) == [("waiting", "received")]
    assert [claimed.request.state for claimed in clerk.claim()] == [State.RECEIVED]
