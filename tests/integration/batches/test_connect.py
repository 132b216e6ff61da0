"""Destination charges: nobody guesses whose money pays a refund back; a row says it, or its account does."""

from __future__ import annotations

import pytest

from refundry.accounts.model import Connect
from refundry.batches import service as batches
from refundry.batches.model import Batch
from refundry.charges import service as charges
from refundry.kernel.actor import SYSTEM
from refundry.refunds import service as refunds
from tests.integration.batches.conftest import Clerk
from tests.support.builders import look
from tests.support.hand import ADA, ORDER_KEY

pytestmark = pytest.mark.integration

HEADER = "ticket_id,charge_id,amount,reverse_transfer,refund_application_fee\n"
ROWS = HEADER + (
    "T1,ch_1,1.00,,\n"
    "T2,ch_dest,1.00,,\n"
    "T3,ch_dest,1.00,true,\n"
    "T4,ch_fee,1.00,true,\n"
    "T5,ch_fee,1.00,,false\n"
    "T6,ch_fee,1.00,true,true\n"
    "T7,ch_fee,1.00,false,true\n"
)


@pytest.fixture
def platform(clerk: Clerk) -> Clerk:
    clerk.looked("ch_dest", destination="acct_shop")
    clerk.looked("ch_fee", destination="acct_shop", application_fee=True)
    return clerk


def planned(clerk: Clerk, batch: Batch, connect: Connect) -> list[tuple[str, str]]:
    clerk.unit(lambda unit: batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM, connect=connect))
    return clerk.told(batch)


def flags(clerk: Clerk, batch: Batch) -> dict[str, tuple[bool | None, bool | None]]:
    return {
        str(line.request.content.ticket_id): (
            line.request.content.reverse_transfer,
            line.request.content.refund_application_fee,
        )
        for line in clerk.lines(batch)
        if line.request is not None
    }


def test_row_by_row_what_nobody_decided_is_refused(platform: Clerk) -> None:
    batch = platform.accept(ROWS)
    assert planned(platform, batch, Connect()) == [
        ("waiting", "received"),
        ("refused", "connect_undecided"),
        ("waiting", "received"),
        ("refused", "connect_undecided"),
        ("refused", "connect_undecided"),
        ("waiting", "received"),
        ("refused", "connect_fee_alone"),
    ]
    assert flags(platform, batch) == {"T1": (None, None), "T3": (True, None), "T6": (True, True)}
    said = [line.text for line in platform.lines(batch) if line.code == "connect_undecided"]
    assert "nobody has decided on reverse_transfer:" in said[0]
    assert "nobody has decided on refund_application_fee:" in said[1]
    assert "REFUNDRY_ACCOUNTS__NAME" in said[0]


def test_what_is_set_for_the_account_decides_where_the_row_does_not(platform: Clerk) -> None:
    batch = platform.accept(ROWS)
    usual = Connect(reverse_transfer=True, refund_application_fee=False)
    assert [code for _, code in planned(platform, batch, usual)] == ["received"] * 6 + ["connect_fee_alone"]
    # Both are part of what is asked for, and of what goes to Stripe.
    assert flags(platform, batch) == {
        "T1": (None, None), "T2": (True, None), "T3": (True, None), "T4": (True, False), "T5": (True, False),
        "T6": (True, True),
    }  # fmt: skip
    paid = {request.content.ticket_id: request for request in platform.pay_what_is_due()}
    with platform.database.reading() as unit:
        attempt = refunds.attempts(unit, paid["T4"].id)[0]
    assert (attempt.body.reverse_transfer, attempt.body.refund_application_fee) == (True, False)


def test_rows_that_were_refused_are_paid_after_a_retry_once_the_account_decides(platform: Clerk) -> None:
    batch = platform.accept(ROWS)
    planned(platform, batch, Connect())
    assert platform.unit(lambda unit: batches.retry(unit, batch, ADA)) == 4
    usual = Connect(reverse_transfer=False, refund_application_fee=False)
    assert [code for _, code in planned(platform, batch, usual)] == ["received"] * 6 + ["connect_fee_alone"]


def test_another_decision_for_the_same_ticket_is_another_content(platform: Clerk) -> None:
    first = platform.accept(HEADER + "T1,ch_dest,1.00,true,\n", "one.csv")
    planned(platform, first, Connect())
    second = platform.accept(HEADER + "T1,ch_dest,1.00,false,\n", "two.csv")
    assert planned(platform, second, Connect()) == [("refused", "same_key_other_content")]


def test_a_request_that_nobody_decided_on_is_refused_by_the_worker_too(platform: Clerk) -> None:
    """The flags are checked where a row becomes a request, and once more where it is paid."""
    batch = platform.accept(HEADER + "T1,ch_1,1.00,,\n")
    planned(platform, batch, Connect())
    # What was an ordinary charge when the row was taken in.
    platform.looked("ch_1", destination="acct_shop", metadata={ORDER_KEY: "A1"}, payment_intent="pi_1")
    assert platform.pay_what_is_due() == []
    assert platform.told(batch) == [("refused", "connect_undecided")]


def test_a_charge_of_another_account_is_refused_and_says_whose_it_is(clerk: Clerk) -> None:
    clerk.unit(lambda unit: charges.mirror(unit, "acct_2|test", [look("ch_theirs")], ORDER_KEY))
    batch = clerk.planned("ticket_id,charge_id,amount\nT1,ch_theirs,1.00\n")
    assert clerk.told(batch) == [("refused", "charge_of_other_account")]
    assert "--account acct_2" in clerk.lines(batch)[0].text
