"""Accounts: the platform that owns the key, and the accounts connected to it."""

from stripesim import ids
from stripesim.call import Call, only_connected
from stripesim.errors import StripeError
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.resources.charges import METADATA, NO_ADDRESS
from stripesim.store import Doc

NOTHING_DUE: Doc = {
    "alternatives": [],
    "current_deadline": None,
    "currently_due": [],
    "disabled_reason": None,
    "errors": [],
    "eventually_due": [],
    "past_due": [],
    "pending_verification": [],
}
PROFILE: Doc = {
    "annual_revenue": None,
    "estimated_worker_count": None,
    "mcc": None,
    "minority_owned_business_designation": None,
    "name": None,
    "product_description": None,
    "support_address": NO_ADDRESS,
    "support_email": None,
    "support_phone": None,
    "support_url": None,
    "url": None,
}
SETTINGS: Doc = {
    "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
    "card_payments": {
        "decline_on": {"avs_failure": True, "cvc_failure": True},
        "statement_descriptor_prefix": None,
        "statement_descriptor_prefix_kana": None,
        "statement_descriptor_prefix_kanji": None,
    },
    "dashboard": {"display_name": None, "timezone": "Etc/UTC"},
    "payments": {
        "statement_descriptor": None,
        "statement_descriptor_kana": None,
        "statement_descriptor_kanji": None,
    },
    "payouts": {
        "debit_negative_balances": True,
        "schedule": {"delay_days": 2, "interval": "daily"},
        "statement_descriptor": None,
    },
}
CURRENCIES = {"US": "usd", "GB": "gbp", "CA": "cad", "JP": "jpy", "AU": "aud", "CH": "chf", "IS": "isk"}
EURO = frozenset(["AT", "BE", "DE", "ES", "FI", "FR", "GR", "IE", "IT", "LU", "NL", "PT"])
CHANGE = {
    "email": "str",
    "business_type": {"enum": ["company", "government_entity", "individual", "non_profit"]},
    "business_profile": {"hash": {"name": "str", "url": "str", "mcc": "str", "product_description": "str"}},
    "capabilities": {"map": "str"},
    "metadata": METADATA,
    "expand": {"list": "str"},
}
CREATE = CHANGE | {
    "type": {"enum": ["custom", "express", "standard"]},
    "country": {"is": "str", "max": 2},
    "default_currency": "str",
    "controller": {"map": "str"},
}


@kind("account", "acct_", "platform")
def render(_: View, doc: Doc) -> Doc:
    """Show an account, ready to be paid."""
    kept = {name: value for name, value in doc.items() if name not in {"platform", "livemode"}}
    connected = bool(doc.get("platform"))
    return {
        "object": "account",
        "business_profile": PROFILE | doc.get("business_profile", {}),
        "business_type": None,
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "controller": {"type": "application", "is_controller": True} if connected else {"type": "account"},
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "external_accounts": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/accounts/{doc['id']}/external_accounts",
        },
        "future_requirements": NOTHING_DUE,
        "metadata": {},
        "payouts_enabled": True,
        "requirements": NOTHING_DUE,
        "settings": SETTINGS,
        "tos_acceptance": {"date": None, "ip": None, "user_agent": None},
        "type": "standard",
    } | {name: value for name, value in kept.items() if name != "business_profile"}


def _own(call: Call) -> Doc:
    account = call.scope.account
    return call.world.find("account", account) or {
        "id": account,
        "created": 1_600_000_000,
        "email": "owner@example.com",
    }


@route("GET /v1/account", "account")
def retrieve_own(call: Call) -> Doc:
    """Retrieve the account of the key, or the one named by `Stripe-Account`."""
    return call.show("account", _own(call))


@route("GET /v1/accounts/{account}", "account")
def retrieve_account(call: Call) -> Doc:
    """Retrieve the platform's own account or one connected to it."""
    return call.show("account", _need(call))


def _need(call: Call) -> Doc:
    if call.path["account"] == call.scope.account:
        return _own(call)
    doc = call.world.find("account", call.path["account"])
    if doc is None or doc.get("platform") != call.caller.account or doc["livemode"] != call.caller.livemode:
        text = (
            f"The provided key does not have access to account '{call.path['account']}' (or that account does not exist). "
            "Application access may have been revoked."
        )
        raise StripeError(403, text, code="account_invalid", stored=False)
    return doc


@route("GET /v1/accounts", "account", parameters={"limit": "int", "starting_after": "str", "ending_before": "str"})
def list_accounts(call: Call) -> Doc:
    """List the connected accounts."""
    return call.page("account", "/v1/accounts", equal={"platform": call.caller.account})


@route("POST /v1/accounts", "account", parameters=CREATE)
def create_account(call: Call) -> Doc:
    """Connect a new account to the platform."""
    only_connected(call)
    params, world = call.params, call.world
    country = params.get("country", "US").upper()
    currency = "eur" if country in EURO else CURRENCIES.get(country, "usd")
    number = world.store.number("account")
    doc: Doc = {
        "id": "acct_1" + ids.token(world.seed, "account", number, length=15),
        "created": world.clock.seconds(),
        "platform": call.caller.account,
        "livemode": call.caller.livemode,
        "country": country,
        "default_currency": params.get("default_currency", currency),
        "type": params.get("type", "standard"),
        "metadata": merged({}, params.get("metadata")),
        **{name: params[name] for name in ("email", "business_type", "business_profile") if name in params},
    }
    world.insert("account", call.caller, number, doc)
    world.open_account(doc["id"], livemode=call.caller.livemode)
    return call.show("account", doc)


@route("POST /v1/accounts/{account}", "account", parameters=CHANGE)
def update_account(call: Call) -> Doc:
    """Change a connected account."""
    doc = _need(call)
    if not doc.get("platform"):
        raise StripeError(403, "You cannot update your own account through the API.", stored=False)
    doc |= {name: call.params[name] for name in ("email", "business_type", "business_profile") if name in call.params}
    doc["metadata"] = merged(doc["metadata"], call.params.get("metadata"))
    call.world.save("account", doc)
    call.world.emit(call.scope, "account.updated", "account", doc, {})
    return call.show("account", doc)
