"""Whose an event is: its own account and mode say so, and a secret vouches for no account that its key does not reach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.inbox.model import HANDLED, Door
from refundry.inbox.rules import whose
from tests.support.events import seen

pytestmark = pytest.mark.unit

DOOR = Door("acct_1|test", ("whsec_1",), frozenset({"acct_2|test"}), "STRIPE_WEBHOOK_SECRET")


@pytest.mark.parametrize("account", [None, "acct_1"])
def test_an_event_of_the_doors_own_account_is_its(account: str | None) -> None:
    assert whose(DOOR, replace(seen(), account=account)) == ("acct_1|test", "")


def test_an_event_of_a_connected_account_is_that_ones() -> None:
    assert whose(DOOR, replace(seen(), account="acct_2")) == ("acct_2|test", "")


def test_an_event_of_another_account_is_nobodys() -> None:
    name, why = whose(DOOR, replace(seen(), account="acct_3"))
    assert name == "acct_3|test"
    assert "acct_3" in why


@pytest.mark.parametrize("account", [None, "acct_2"])
def test_an_event_of_the_other_mode_is_nobodys(account: str | None) -> None:
    name, why = whose(DOOR, replace(seen(livemode=True), account=account))
    assert name == f"{account or 'acct_1'}|live"
    assert why == "it is of live mode, and test mode is served here"


def test_a_secret_is_never_shown() -> None:
    assert "whsec_1" not in repr(DOOR)


def test_exactly_the_types_that_change_something_are_handled() -> None:
    assert sorted(HANDLED) == sorted(
        "refund.created refund.updated refund.failed charge.refunded charge.refund.updated charge.succeeded charge.failed charge.updated "
        "charge.dispute.created charge.dispute.updated charge.dispute.closed charge.dispute.funds_withdrawn charge.dispute.funds_reinstated "
        "radar.early_fraud_warning.created radar.early_fraud_warning.updated credit_note.created".split()
    )
