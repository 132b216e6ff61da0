"""The means of payment of a sandbox: test card numbers, their tokens, other methods, and what each one leads to.

Source: docs.stripe.com/testing; where a name is only known from memory, `docs/design/simulator.md` says so.
"""

from dataclasses import dataclass

# How a refund to this method goes: at once; pending first; at once and failed later; as a bank transfer that takes days;
# or only after the customer has said where to.
SUCCEEDS, PENDS, FAILS, BANK, ACTION = "succeeds", "pends", "fails", "bank", "action"
# Ways that no method has by itself, and a test chooses: pending until somebody settles it; as a reversal of the payment;
# at once, and its reference number never comes.
STAYS, REVERSES, UNREFERENCED = "stays", "reverses", "unreferenced"
WAYS = (SUCCEEDS, PENDS, STAYS, FAILS, BANK, ACTION, REVERSES, UNREFERENCED)


@dataclass(frozen=True, slots=True)
class Means:
    """A means of payment and its fate.

    Args:
        name: Short name, kept with each charge.
        type: Stripe's payment method type: `card`, `sepa_debit`, ….
        last4: Last four digits of the number, where there is one.
        brand: Card brand.
        country: Where it was issued.
        funding: `credit`, `debit`, `prepaid`.
        decline: The code with which the charge is declined, if it is: `card_declined/insufficient_funds`.
        refund: How refunds go.
        dispute: What follows the charge: the reason of a chargeback, with `inquiry:` before that of an inquiry.
        warning: Whether an early fraud warning follows.
        bypass: Whether the money is available at once.
    """

    name: str
    type: str = "card"
    last4: str = ""
    brand: str = "visa"
    country: str = "US"
    funding: str = "credit"
    decline: str = ""
    refund: str = SUCCEEDS
    dispute: str = ""
    warning: bool = False
    bypass: bool = False


CARDS: dict[str, Means] = {
    "4242424242424242": Means("visa", last4="4242"),
    "4000056655665556": Means("visa_debit", last4="5556", funding="debit"),
    "5555555555554444": Means("mastercard", last4="4444", brand="mastercard"),
    "5200828282828210": Means("mastercard_debit", last4="8210", brand="mastercard", funding="debit"),
    "5105105105105100": Means("mastercard_prepaid", last4="5100", brand="mastercard", funding="prepaid"),
    "378282246310005": Means("amex", last4="0005", brand="amex"),
    "6011111111111117": Means("discover", last4="1117", brand="discover"),
    "3056930009020004": Means("diners", last4="0004", brand="diners"),
    "3566002020360505": Means("jcb", last4="0505", brand="jcb"),
    "6200000000000005": Means("unionpay", last4="0005", brand="unionpay"),
    "4000000760000002": Means("br", last4="0002", country="BR"),
    "4000002760003184": Means("de_3ds", last4="3184", country="DE"),
    "4000008260000000": Means("gb", last4="0000", country="GB"),
    "4000000000007726": Means("pendingRefund", last4="7726", refund=PENDS),
    "4000000000005126": Means("refundFail", last4="5126", refund=FAILS),
    "4000000000000077": Means("bypassPending", last4="0077", bypass=True),
    "4000000000000259": Means("createDispute", last4="0259", dispute="fraudulent"),
    "4000000000002685": Means("createDisputeProductNotReceived", last4="2685", dispute="product_not_received"),
    "4000000000001976": Means("createDisputeInquiry", last4="1976", dispute="inquiry:fraudulent"),
    "4000000000005423": Means("createIssuerFraudRecord", last4="5423", warning=True),
    "4000000404000079": Means("createMultipleDisputes", last4="0079", dispute="multiple:fraudulent"),
    "4000000000000002": Means("chargeDeclined", last4="0002", decline="card_declined/generic_decline"),
    "4000000000009995": Means(
        "chargeDeclinedInsufficientFunds", last4="9995", decline="card_declined/insufficient_funds"
    ),
    "4000000000009987": Means("chargeDeclinedLostCard", last4="9987", decline="card_declined/lost_card"),
    "4000000000009979": Means("chargeDeclinedStolenCard", last4="9979", decline="card_declined/stolen_card"),
    "4000000000000069": Means("chargeDeclinedExpiredCard", last4="0069", decline="expired_card"),
    "4000000000000127": Means("chargeDeclinedIncorrectCvc", last4="0127", decline="incorrect_cvc"),
    "4000000000000119": Means("chargeDeclinedProcessingError", last4="0119", decline="processing_error"),
    "4000000000000341": Means("chargeCustomerFail", last4="0341", decline="card_declined/generic_decline"),
}
OTHERS: dict[str, Means] = {
    means.type: means
    for means in (
        Means("sepa_debit", "sepa_debit", last4="3000", country="DE", refund=BANK),
        Means("us_bank_account", "us_bank_account", last4="6789", refund=BANK),
        Means("bacs_debit", "bacs_debit", last4="2345", country="GB", refund=BANK),
        Means("au_becs_debit", "au_becs_debit", last4="3456", country="AU", refund=BANK),
        Means("acss_debit", "acss_debit", last4="6789", country="CA", refund=BANK),
        Means("ideal", "ideal", country="NL", refund=PENDS),
        Means("bancontact", "bancontact", country="BE", refund=PENDS),
        Means("p24", "p24", country="PL", refund=PENDS),
        Means("eps", "eps", country="AT", refund=PENDS),
        Means("klarna", "klarna", country="SE"),
        Means("afterpay_clearpay", "afterpay_clearpay"),
        Means("paypal", "paypal"),
        Means("alipay", "alipay", country="CN"),
        Means("link", "link"),
        Means("cashapp", "cashapp"),
        Means("konbini", "konbini", country="JP", refund=ACTION),
        Means("promptpay", "promptpay", country="TH", refund=ACTION),
        Means("boleto", "boleto", country="BR", refund=ACTION),
        Means("customer_balance", "customer_balance", refund=ACTION),
    )
}
BY_NAME = {means.name: means for means in (*CARDS.values(), *OTHERS.values())}


def by_token(token: str) -> Means | None:
    """Find the card that a test token stands for: `pm_card_visa`, `tok_visa`, `pm_card_refundFail`."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix) and (means := BY_NAME.get(token[len(prefix) :])) and means.type == "card":
            return means
    return None
