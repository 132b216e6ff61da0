"""The SDK drives Connect: accounts, direct and destination charges, application fees, transfers."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.support.server import Server

pytestmark = pytest.mark.contract
Client = Any


@pytest.fixture
def shop(client: Client) -> str:
    """Connect an account."""
    return str(client.v1.accounts.create({"type": "express", "country": "US", "email": "shop@example.com"}).id)


def test_accounts_are_connected_read_and_changed(client: Client, server: Server, shop: str) -> None:
    accounts = client.v1.accounts
    assert accounts.retrieve_current().id == server.account
    assert accounts.retrieve_current({}, {"stripe_account": shop}).id == shop
    assert accounts.retrieve(shop).email == "shop@example.com"
    assert accounts.update(shop, {"metadata": {"shop": "7"}}).metadata["shop"] == "7"
    assert [one.id for one in accounts.list().data] == [shop]


def test_a_direct_charge_lives_on_the_connected_account(client: Client, shop: str) -> None:
    there: Any = {"stripe_account": shop}
    params: Any = {"amount": 10_000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intent = client.v1.payment_intents.create(params | {"application_fee_amount": 1000}, there)
    charge = client.v1.charges.retrieve(intent.latest_charge, {}, there)
    assert charge.application_fee_amount == 1000
    with pytest.raises(stripe.InvalidRequestError, match="No such charge"):
        client.v1.charges.retrieve(charge.id)
    fee = client.v1.application_fees.retrieve(charge.application_fee)
    assert (fee.amount, fee.account, fee.charge) == (1000, shop, charge.id)

    client.v1.refunds.create({"charge": charge.id, "amount": 5000}, there)
    assert client.v1.application_fees.retrieve(fee.id).amount_refunded == 0, "the platform keeps its fee"
    client.v1.refunds.create({"charge": charge.id, "amount": 5000, "refund_application_fee": True}, there)
    after = client.v1.application_fees.retrieve(fee.id)
    assert after.amount_refunded == 500, "in proportion to the refund"
    back = client.v1.application_fees.refunds.create(fee.id, {"amount": 100})
    assert client.v1.application_fees.refunds.retrieve(fee.id, back.id).amount == 100
    assert client.v1.application_fees.refunds.update(fee.id, back.id, {"metadata": {"a": "b"}}).metadata["a"] == "b"
    assert [one.amount for one in client.v1.application_fees.refunds.list(fee.id).data] == [100, 500]
    assert [one.id for one in client.v1.application_fees.list({"charge": charge.id}).data] == [fee.id]


def test_a_destination_charge_is_refunded_by_the_platform(client: Client, pay: Any, shop: str) -> None:
    intent = pay(10_000, transfer_data={"destination": shop}, application_fee_amount=1000)
    charge = client.v1.charges.retrieve(intent.latest_charge)
    transfer = client.v1.transfers.retrieve(charge.transfer)
    assert (transfer.amount, transfer.destination, transfer.source_transaction) == (10_000, shop, charge.id)

    plain = client.v1.refunds.create({"charge": charge.id, "amount": 2000})
    assert plain.transfer_reversal is None, "the connected account keeps its money"
    assert client.v1.transfers.retrieve(transfer.id).amount_reversed == 0
    both: Any = {"charge": charge.id, "amount": 4000, "reverse_transfer": True, "refund_application_fee": True}
    refund = client.v1.refunds.create(both)
    reversal = client.v1.transfers.reversals.retrieve(transfer.id, refund.transfer_reversal)
    assert (reversal.amount, reversal.source_refund) == (4000, refund.id)
    assert client.v1.application_fees.retrieve(charge.application_fee).amount_refunded == 400


def test_a_fee_goes_back_only_with_its_transfer(client: Client, pay: Any, shop: str) -> None:
    intent = pay(10_000, transfer_data={"destination": shop}, application_fee_amount=1000)
    with pytest.raises(stripe.InvalidRequestError, match="you must also reverse the transfer"):
        client.v1.refunds.create({"payment_intent": intent.id, "refund_application_fee": True})


def test_transfers_are_made_and_reversed_apart_from_charges(client: Client, shop: str) -> None:
    transfers = client.v1.transfers
    made = transfers.create({"amount": 4000, "currency": "usd", "destination": shop, "transfer_group": "week_7"})
    part = transfers.reversals.create(made.id, {"amount": 1500, "metadata": {"ticket": "9"}})
    assert transfers.reversals.update(made.id, part.id, {"metadata": {"ticket": "10"}}).metadata["ticket"] == "10"
    transfers.reversals.create(made.id)
    after = transfers.retrieve(made.id)
    assert (after.amount_reversed, after.reversed) == (4000, True)
    assert [one.amount for one in transfers.reversals.list(made.id).data] == [2500, 1500]
    assert [one.id for one in transfers.list({"transfer_group": "week_7"}).data] == [made.id]
    assert transfers.update(made.id, {"metadata": {"a": "b"}}).metadata["a"] == "b"


def test_an_account_that_is_not_connected_is_refused(client: Client) -> None:
    for call in (client.v1.charges.list, client.v1.balance.retrieve):
        with pytest.raises(stripe.PermissionError) as caught:
            call({}, {"stripe_account": "acct_1stranger"})
        assert caught.value.error.code == "account_invalid"
