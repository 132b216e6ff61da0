"""A payment that is only authorised is offered to be canceled, and canceled when that is asked for; it is never refunded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration

CREATE = ("refund", "create", "--order", "held", "--full", "--reason", "duplicate", "--ticket", "T-1", "--json")


@pytest.fixture
def called(refundry: Run, stripe: Server) -> Callable[[str], int]:
    """Load an authorised payment of the order `held`, and count calls of an operation."""
    assert refundry is not None  # its fixture puts the simulator back
    charge = {"order_id": "held", "amount_minor": 5000, "currency": "gbp", "captured": False, "created": 1_780_000_000}
    stripe.control("POST /_sim/load", {"charges": [charge]})
    stripe.control("DELETE /_sim/calls")

    def count(operation: str) -> int:
        told = stripe.control("GET /_sim/calls")["operations"].get(operation, {"calls": 0})
        return int(told["calls"])

    return count


REFUND, CANCEL = "POST /v1/refunds", "POST /v1/payment_intents/{intent}/cancel"


def test_it_is_offered_then_canceled_once_and_never_refunded(refundry: Run, called: Callable[[str], int]) -> None:
    refused = refundry(*CREATE)
    assert (refused.code, refused.json["code"]) == (3, "charge_uncaptured"), refused.err
    assert "--cancel-uncaptured" in refused.json["why"]
    assert "50.00 GBP authorised and not captured" in refused.err
    foreseen = refundry(*CREATE, "--cancel-uncaptured", "--dry-run")
    assert (foreseen.code, foreseen.json["cancels_payment"]) == (0, True), foreseen.err
    assert called(CANCEL) == 0
    canceled = refundry(*CREATE, "--cancel-uncaptured")
    assert (canceled.code, canceled.json["state"], canceled.json["amount"]) == (0, "payment_canceled", 5000)
    again = refundry(*CREATE, "--cancel-uncaptured")
    assert (again.code, again.json) == (0, canceled.json)
    assert "released before" in again.err
    after = refundry(*CREATE)
    assert (after.code, after.json["code"]) == (3, "charge_uncaptured")
    assert "is released" in after.json["why"]
    assert (called(CANCEL), called(REFUND)) == (1, 0)


def test_in_a_file_its_row_is_refused(refundry: Run, called: Callable[[str], int], tmp_path: Path) -> None:
    file = tmp_path / "refunds.csv"
    file.write_text("ticket_id,order_id,amount\nT-1,held,10.00\n")
    told = refundry("batch", "run", str(file), "--yes", "--json")
    assert (told.code, told.json["reasons"]) == (3, {"charge_uncaptured": 1}), told.err
    assert (called(CANCEL), called(REFUND)) == (0, 0)


def test_what_was_captured_is_refunded_all_the_same(
    refundry: Run, called: Callable[[str], int], refunds_of: Callable[[], int]
) -> None:
    told = refundry(
        "refund", "create", "--order", "o1", "--full", "--reason", "duplicate", "--cancel-uncaptured", "--json"
    )
    assert (told.code, told.json["outcome"]) == (0, "paid"), told.err
    assert (called(CANCEL), refunds_of()) == (0, 1)
