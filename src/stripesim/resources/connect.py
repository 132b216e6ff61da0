"""What Connect adds to charges and refunds: application fees, transfers, and their way back.

Direct charges live on the connected account, destination charges on the platform. (docs.stripe.com/connect/charges)
"""

from stripesim import cards, ids
from stripesim.call import Call
from stripesim.cards import Means
from stripesim.errors import StripeError, missing, refused
from stripesim.money import share
from stripesim.resources import application_fees, transfers
from stripesim.store import Doc
from stripesim.world import Scope, World

DESTINATION_PAYMENT = Means("stripe_account", "stripe_account")
cards.BY_NAME[DESTINATION_PAYMENT.name] = DESTINATION_PAYMENT


def application_of(world: World, platform: str) -> str:
    """Tell the id of a platform's application."""
    return "ca_" + ids.token(world.seed, "application", platform, length=32)


def prepare_charge(call: Call, doc: Doc) -> None:
    """Check the Connect parameters of a charge or payment intent, and put what they mean into its document.

    Raises:
        StripeError: 400, for a fee without a connected account, or a destination that is not connected.
    """
    params, direct = call.params, call.scope != call.caller
    fee = params.get("application_fee_amount")
    destination = (params.get("transfer_data") or {}).get("destination")
    if fee is not None and not direct and destination is None:
        text = (
            "Can only apply an application_fee_amount when the PaymentIntent is attempting a direct payment (using an OAuth "
            "key or Stripe-Account header) or destination payment (using `transfer_data[destination]`)."
        )
        raise refused("application_fee_amount", text)
    if fee is not None and fee > params["amount"]:
        text = "The application fee cannot be greater than the amount of the charge."  # text unverified
        raise refused("application_fee_amount", text)
    if destination is not None:
        account = call.world.find("account", destination)
        if (
            account is None
            or account.get("platform") != call.caller.account
            or account["livemode"] != call.scope.livemode
        ):
            raise missing("destination", destination, param="transfer_data[destination]", status=400)
        doc["transfer_data"] = params["transfer_data"]
    if params.get("on_behalf_of"):
        doc["on_behalf_of"] = params["on_behalf_of"]
    if fee is not None:
        doc["application_fee_amount"] = fee
    if direct:
        doc["application"] = application_of(call.world, call.caller.account)


def charge_captured(world: World, scope: Scope, charge: Doc) -> None:
    """Collect the application fee of a direct charge; transfer the money of a destination charge."""
    destination = (charge.get("transfer_data") or {}).get("destination")
    fee = charge.get("application_fee_amount")
    if destination is not None:
        _pass_on(world, scope, charge, destination)
    elif fee and (connected := world.find("account", scope.account)):
        platform = world.scopes[connected["platform"], scope.livemode]
        charge["application_fee"] = application_fees.make(world, platform, scope, charge, fee)["id"]
    if fee or destination:
        world.save("charge", charge)


def _pass_on(world: World, scope: Scope, charge: Doc, destination: str) -> None:
    to = world.scopes[destination, scope.livemode]
    amount = charge["transfer_data"].get("amount") or charge["amount_captured"]
    fee = charge.get("application_fee_amount") or 0
    made = transfers.make(world, scope, to, amount, charge["currency"], source=charge, fee=fee)
    charge["transfer"] = made["id"]
    charge["transfer_group"] = charge.get("transfer_group") or f"group_{ids.stem_of(charge['id'])}"
    if fee:
        charge["application_fee"] = application_fees.make(world, scope, to, charge, fee)["id"]


def check_refund(call: Call, charge: Doc) -> None:
    """Refuse `reverse_transfer` and `refund_application_fee` where they do not apply.

    Raises:
        StripeError: 400.
    """
    reverse, fee = call.params.get("reverse_transfer"), call.params.get("refund_application_fee")
    if reverse and not charge.get("transfer"):
        text = f"Charge {charge['id']} does not have an associated transfer, so reverse_transfer cannot be used."
        raise StripeError(400, text, param="reverse_transfer")  # text unverified
    if fee and not charge.get("application_fee"):
        text = f"Charge {charge['id']} does not have an application fee, so refund_application_fee cannot be used."
        raise StripeError(400, text, param="refund_application_fee")  # text unverified
    if fee and charge.get("transfer") and not reverse:
        text = "If you refund the application fee for a destination charge, you must also reverse the transfer."
        raise StripeError(400, text, param="refund_application_fee")  # text unverified
    if fee and call.scope == call.caller and not charge.get("transfer"):
        text = "An application fee can be refunded only by the application that created the charge."
        raise StripeError(400, text, param="refund_application_fee")  # text unverified


def refunded(call: Call, charge: Doc, refund: Doc) -> None:
    """Reverse the transfer and refund the application fee, in proportion, where the call asks for it."""
    world = call.world
    if call.params.get("reverse_transfer"):
        transfer = world.find("transfer", charge["transfer"])
        if transfer is not None:
            part = _part(transfer["amount"], transfer["amount_reversed"], charge, refund)
            if part:
                reversal = transfers.reverse(world, call.scope, transfer, part, refund=refund["id"])
                refund |= {"transfer_reversal": reversal["id"], "source_transfer_reversal": None}
    if call.params.get("refund_application_fee"):
        fee = world.find("application_fee", charge["application_fee"])
        if fee is not None:
            part = _part(fee["amount"], fee["amount_refunded"], charge, refund)
            if part:
                application_fees.give_back(world, fee, part)


def _part(whole: int, gone: int, charge: Doc, refund: Doc) -> int:
    """Take the share of a transfer or fee that goes with a refund.

    Shares are differences of rounded running totals, so that those of all refunds of a charge add up to the whole.
    """
    before = charge.get("amount_refunded", 0)
    captured = charge["amount_captured"]
    due = share(whole, before + refund["amount"], captured) - share(whole, before, captured)
    return min(due, whole - gone)
