"""`/_sim`: how tests and demos steer the simulator, and how they judge what was done to it.

A wrong call gets a 400 that names the field and what is wrong with it, and changes nothing: everything is read and checked
before anything is written, and written in one transaction.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import parse_qsl

import orjson

from stripesim import cards, faults, ids, invariants, limits, params, registry, webhooks
from stripesim.api import Answer, Api, Request, die, encoded
from stripesim.clock import LATEST
from stripesim.errors import StripeError
from stripesim.money import SUPPORTED
from stripesim.resources import disputes, early_fraud_warnings, refunds, reviews
from stripesim.scenarios import NAMED, BadScenario, load, load_rows, rows_of
from stripesim.store import Doc
from stripesim.world import Scope, Settings, World

BODY_MAX = 512_000_000
AMOUNT_MAX = 10**15
# A million to one: with the largest charge it stays far inside what SQLite's integers hold.
RATE_MAX = 10**12
Verb = Callable[["Control", dict[str, str], Any], Doc]
VERBS: dict[str, Verb] = {}


class BadControl(Exception):  # noqa: N818  # it names the field and the reason
    """A control call that cannot be taken; nothing was changed."""

    def __init__(self, field: str, why: str, status: int = 400) -> None:
        """Name the field, an empty string for the call as a whole."""
        super().__init__(f"{field}: {why}" if field else why)
        self.field = field
        self.status = status


def verb(operation: str) -> Callable[[Verb], Verb]:
    """Add a control call; `{name}` in its path is handed over by name."""

    def add(function: Verb) -> Verb:
        VERBS[operation] = function
        return function

    return add


class Control:
    """Answers `/_sim`.

    Args:
        world: The state.
        api: The Stripe side, whose limits and faults are set here.
    """

    def __init__(self, world: World, api: Api) -> None:
        """Begin with no snapshots, and with the faults that the state file kept."""
        self.world = world
        self.api = api
        self.snapshots: dict[str, bytes] = {}
        self.resume_faults()

    def answer(self, request: Request) -> Answer:
        """Answer one call."""
        try:
            status, body = 200, self._answered(request)
        except (BadControl, faults.BadRule) as error:
            status, body = getattr(error, "status", 400), _error(error.field, str(error))
        except BadScenario as error:
            status, body = 400, _error("charges", str(error))
        except StripeError as error:
            status, body = error.status, _error(str(error.error.get("param", "")), str(error))
        return Answer(status, encoded(body), {})

    def _answered(self, request: Request) -> Any:  # noqa: ANN401  # JSON
        for operation, function in VERBS.items():
            names = _match(operation, f"{request.method} {request.path.rstrip('/')}")
            if names is not None:
                names |= _query(request)
                body = _csv(request.body) if _is_csv(request) else _json(request.body)
                self.world.catch_up()
                with self.world.store.transaction(), self.world.quiet():
                    answer = function(self, names, body)
                for wake in self.world.wakes:
                    wake()
                return answer
        raise BadControl("", f"there is no {request.method} {request.path}; there are: {', '.join(VERBS)}", 404)

    def faults_from(self, plan: Doc) -> None:
        """Put a fault plan in force.

        Raises:
            BadRule: The field and what is wrong with it; the old plan stays.
        """
        rules = [faults.parsed(rule, f"rules[{at}]") for at, rule in enumerate(plan["rules"])]
        self.api.faults = faults.Faults(rules, plan["seed"])
        self.world.keep_history = self.api.faults.stale_bound > 0

    def resume_faults(self) -> None:
        """Go on with the fault plan that the state holds, at the place where it was."""
        meta = self.world.store.meta
        self.faults_from(meta("faults") or {"seed": 0, "rules": []})
        self.api.faults.resume(meta("fault_counts") or {"met": [], "hits": []})

    def keep_faults(self, plan: Doc) -> None:
        """Put a fault plan in force, also after a restart.

        Raises:
            BadRule: The field and what is wrong with it; the old plan stays.
        """
        self.faults_from(plan)
        self.world.store.keep("faults", plan)
        self.world.store.keep("fault_counts", self.api.faults.counts())

    def scope(self, body: Doc) -> Scope:
        """Take the account and mode that a call means: by default the platform in test mode."""
        account = _text(body, "account", self.world.platform)
        livemode = _flag(body, "livemode", default=False)
        scope = self.world.scopes.get((account, livemode))
        if scope is None:
            raise BadControl(
                "account", f"there is no account {account} in this mode; there are {_accounts(self.world)}"
            )
        return scope

    def doc(self, kind: str, object_id: str, field: str) -> tuple[Scope, Doc]:
        """Find an object in whatever account it lives."""
        found = self.world.store.get(kind, object_id)
        if found is None:
            raise BadControl(field, f"there is no {kind} {object_id}", 404)
        return self.world.numbered[found[0]], found[1]


# Reading what came in


def _match(operation: str, called: str) -> dict[str, str] | None:
    wanted, given = operation.split("/"), called.split("/")
    if len(wanted) != len(given):
        return None
    names: dict[str, str] = {}
    for want, got in zip(wanted, given, strict=True):
        if want.startswith("{"):
            names[want[1:-1]] = got
        elif want != got:
            return None
    return names


def _is_csv(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("text/csv")


def _csv(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadControl("", f"the body is not UTF-8: {error}") from error


def _query(request: Request) -> dict[str, str]:
    """Take what stands behind the question mark: a CSV body has no other place to name its account."""
    given = dict(parse_qsl(request.query, keep_blank_values=True))
    allowed = {"account", "livemode"} if _is_csv(request) else set()
    if unknown := sorted(given.keys() - allowed):
        raise BadControl(unknown[0], "is not known behind the question mark of this call")
    return given


def _json(raw: bytes) -> Any:  # noqa: ANN401  # JSON from outside
    if not raw:
        return {}
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadControl("", f"the body is not JSON: {error}") from error


def _error(field: str, message: str) -> Doc:
    return {"error": {"type": "control_error", "field": field, "message": message}}


def _known(body: Any, *names: str) -> Doc:  # noqa: ANN401  # JSON from outside
    if not isinstance(body, dict):
        raise BadControl("", "the body should be a JSON object")
    if unknown := sorted(body.keys() - set(names)):
        raise BadControl(unknown[0], f"is not known here; there are {', '.join(names) or 'no fields'}")
    return body


def _text(body: Doc, name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BadControl(name, "is missing" if value is None else "should be a string")
    return value


def _flag(body: Doc, name: str, *, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise BadControl(name, "should be true or false")
    return value


def _whole(body: Doc, name: str, default: int | None = None, *, least: int = 0) -> int:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= AMOUNT_MAX:
        raise BadControl(name, "is missing" if value is None else f"should be a whole number from {least}")
    return value


def _number(body: Doc, name: str) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= AMOUNT_MAX:
        raise BadControl(name, "is missing" if value is None else "should be a number of seconds")
    return float(value)


def _delay(body: Doc, name: str, default: float = 0.0) -> float:
    """Take a time from now on, not one that has passed."""
    value = _number(body, name) if name in body else default
    if not 0 <= value <= LATEST:
        raise BadControl(name, "should be a number of seconds, 0 or more")
    return value


def _currency(body: Doc, name: str) -> str:
    value = _text(body, name).lower()
    if value not in SUPPORTED:
        raise BadControl(name, f"should be a currency that Stripe knows, not '{value}'")
    return value


def _empty(body: Any) -> None:  # noqa: ANN401  # JSON from outside
    """See that a call that takes nothing was given nothing."""
    _known(body)


def _accounts(world: World) -> str:
    return ", ".join(f"{account} ({'live' if live else 'test'})" for account, live in sorted(world.scopes))


# Health, clock, limits, faults, settings


@verb("GET /_sim")
def index(_: Control, __: dict[str, str], ___: Any) -> Doc:  # noqa: ANN401
    """List the control calls."""
    return {
        "object": "control",
        "calls": {name: (function.__doc__ or "").split("\n")[0] for name, function in VERBS.items()},
    }


@verb("GET /_sim/health")
def health(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell that it runs, its seed, its time, its accounts."""
    world = control.world
    accounts = [{"account": account, "livemode": live} for account, live in sorted(world.scopes)]
    return {"ok": True, "seed": world.seed, "now": world.clock.now(), "platform": world.platform, "accounts": accounts}


@verb("GET /_sim/clock")
def clock(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell the time."""
    return {"now": control.world.clock.now(), "frozen": control.world.clock.frozen}


@verb("POST /_sim/clock")
def move_clock(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Move the clock (`move_seconds` or `to`), stop it or let it run (`frozen`); what falls due happens."""
    given, world = _known(body, "move_seconds", "to", "frozen"), control.world
    if {"move_seconds", "to"} <= given.keys():
        raise BadControl("to", "give move_seconds or to, not both")
    frozen = _flag(given, "frozen", default=world.clock.frozen)
    to = _number(given, "to") if "to" in given else None
    by = _number(given, "move_seconds") if "move_seconds" in given else 0.0
    if not 0 <= (world.clock.now() + by if to is None else to) <= LATEST:
        text = f"would set the clock before 1970 or after 9998: it reads {world.clock.now()}, and may go to {LATEST}"
        raise BadControl("move_seconds" if to is None else "to", text)
    world.clock.freeze(frozen=frozen)
    world.clock.move(to=to, by=by)
    world.store.keep("clock", world.clock.state())
    world.catch_up()
    return clock(control, names, None)


@verb("GET /_sim/limits")
def show_limits(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell the limits in force."""
    return asdict(control.api.limiter.limits)


@verb("POST /_sim/limits")
def set_limits(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Change the limits, also while calls run: `{"limits": "live"}` or `"global=50,endpoint=10"`."""
    text = _text(_known(body, "limits"), "limits")
    try:
        control.api.limiter.limits = limits.parsed(text)
    except ValueError as error:
        raise BadControl("limits", str(error)) from error
    return show_limits(control, names, None)


@verb("GET /_sim/faults")
def show_faults(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell the fault plan, and how often each rule met and hit a call."""
    plan = control.api.faults
    rules = [
        asdict(rule) | {"met": met, "hits": hits}
        for rule, met, hits in zip(plan.rules, plan.met, plan.hits, strict=True)
    ]
    return {"seed": plan.seed, "rules": rules}


@verb("POST /_sim/faults")
def set_faults(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Put a fault plan in force instead of the old one: `{"seed": 1, "rules": [{"kind": "drop_after", …}]}`."""
    given = _known(body, "seed", "rules")
    rules = given.get("rules")
    if not isinstance(rules, list):
        raise BadControl("rules", "should be a list of rules")
    control.keep_faults({"seed": _whole(given, "seed", 0), "rules": rules})
    return show_faults(control, names, None)


@verb("DELETE /_sim/faults")
def clear_faults(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let everything go well again."""
    _empty(body)
    control.keep_faults({"seed": 0, "rules": []})
    return show_faults(control, names, None)


@verb("GET /_sim/settings")
def show_settings(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell how this world behaves where Stripe leaves it open."""
    return asdict(control.world.settings)


@verb("POST /_sim/settings")
def set_settings(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Change settings by name."""
    known = {f.name: f for f in fields(Settings)}
    given = _known(body, *known)
    for name, value in given.items():
        _check_setting(name, value, known[name].default)
    control.world.change_settings(given)
    return show_settings(control, names, None)


def _check_setting(name: str, value: Any, default: Any) -> None:  # noqa: ANN401  # JSON against a default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadControl(name, "should be true or false")
    elif isinstance(default, str):
        if value not in registry.VERSIONS:
            raise BadControl(name, f"should be one of {', '.join(registry.VERSIONS)}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= AMOUNT_MAX:
        raise BadControl(name, "should be a number from 0")
    elif isinstance(default, int) and not isinstance(value, int):
        raise BadControl(name, "should be a whole number")


# Accounts and money


@verb("POST /_sim/accounts")
def open_account(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Open a further account that is connected to none: only its own `secret` opens it."""
    given = _known(body, "secret", "livemode")
    secret, livemode = _secret(given), _flag(given, "livemode", default=False)
    world = control.world
    if secret in world.keys:
        raise BadControl("secret", "opens an account already", 409)
    scope = world.open_account("acct_1" + ids.token(world.seed, "own account", secret, length=15), livemode=livemode)
    world.add_key(secret, scope, None)
    world.reload()
    return {"account": scope.account, "livemode": livemode, "secret": secret}


def _secret(given: Doc) -> str:
    secret = _text(given, "secret")
    if not secret.isascii() or not secret or any(not letter.isprintable() or letter in " /" for letter in secret):
        raise BadControl("secret", "should be letters, digits and underscores, as in sk_test_mine")
    return secret


@verb("POST /_sim/keys")
def add_key(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let a secret open an account, with all rights or only some `permissions` (`refund_write`, `charge_read`, …)."""
    given = _known(body, "secret", "account", "livemode", "permissions")
    secret, scope = _secret(given), control.scope(given)
    allowed = given.get("permissions")
    known = sorted({route.permission for route in registry.ROUTES.values()})
    if allowed is not None and (not isinstance(allowed, list) or not all(name in known for name in allowed)):
        raise BadControl("permissions", f"should be a list out of {', '.join(known)}")
    control.world.add_key(secret, scope, allowed)
    control.world.reload()
    return {"secret": secret, "account": scope.account, "livemode": scope.livemode, "permissions": allowed}


@verb("DELETE /_sim/keys/{secret}")
def remove_key(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Revoke a secret."""
    _empty(body)
    if names["secret"] not in control.world.keys:
        raise BadControl("secret", "is not known", 404)
    control.world.store.db.execute("DELETE FROM api_key WHERE secret=?", (names["secret"],))
    control.world.reload()
    return {"secret": names["secret"], "deleted": True}


@verb("POST /_sim/keys/{secret}/expire")
def expire_key(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let a secret expire: calls with it get a 401 `api_key_expired`."""
    _known(body)
    if names["secret"] not in control.world.keys:
        raise BadControl("secret", "is not known", 404)
    control.world.expire_key(names["secret"])
    control.world.reload()
    return {"secret": names["secret"], "expired": True}


@verb("POST /_sim/settlement")
def set_settlement(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let an account be paid in another currency: `currency`, `into`, and the rate in `rate_millionths`."""
    given = _known(body, "account", "livemode", "currency", "into", "rate_millionths")
    scope, world = control.scope(given), control.world
    settings = world.scope_settings(scope)
    settle = settings.setdefault("settle", {})
    currency, into, rate = (
        _currency(given, "currency"),
        _currency(given, "into"),
        _whole(given, "rate_millionths", least=1),
    )
    if rate > RATE_MAX:
        raise BadControl("rate_millionths", f"should be at most {RATE_MAX}")
    settle[currency] = [into, rate]
    world.set_scope_settings(scope, settings)
    return settings


@verb("POST /_sim/balance")
def set_balance(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Set what is available in a currency, in minor units; waiting refunds go out as far as it bears them."""
    given = _known(body, "account", "livemode", "currency", "available")
    scope, world, currency = control.scope(given), control.world, _currency(given, "currency")
    wanted = _whole(given, "available", least=-AMOUNT_MAX)
    change = wanted - world.available(scope, currency)
    if change:
        world.book(scope, type="adjustment", amount=change, currency=currency, exact=True, description="Set by hand")
    refunds.balance_grew(world, scope.number)
    return {"account": scope.account, "currency": currency, "available": world.available(scope, currency)}


@verb("POST /_sim/load")
def load_charges(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Load past charges: `{"scenario": "online-retail"}`, `{"charges": [{…}]}`, or a CSV body (`text/csv`).

    Beside JSON stand `account` and `livemode`; a CSV body has them behind the question mark.
    """
    if isinstance(body, str):
        where: Doc = dict(names)
        if "livemode" in where:
            where["livemode"] = {"true": True, "false": False}.get(where["livemode"], where["livemode"])
        return {"charges": load_rows(control.world, control.scope(where), rows_of(io.StringIO(body, newline="")))}
    given = _known(body, "account", "livemode", "scenario", "charges")
    scope = control.scope(given)
    if {"scenario", "charges"} <= given.keys():
        raise BadControl("charges", "give scenario or charges, not both")
    if "scenario" in given:
        if _text(given, "scenario") not in NAMED:
            raise BadControl("scenario", f"should be one of {', '.join(NAMED)}")
        return {"charges": load(control.world, scope, _text(given, "scenario"))}
    charges = given.get("charges")
    if not isinstance(charges, list) or not all(isinstance(row, dict) for row in charges):
        raise BadControl("charges", "should be a list of objects")
    return {"charges": load_rows(control.world, scope, ((f"charges[{at}]", row) for at, row in enumerate(charges)))}


# Refunds, disputes, warnings


@verb("POST /_sim/refunds")
def refund_by_hand(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Refund a charge as a person in Stripe's Dashboard would: `charge`, `amount`, `reason`, `metadata`."""
    given = _known(body, "charge", "amount", "reason", "metadata")
    scope, charge = control.doc("charge", _text(given, "charge"), "charge")
    wanted: Doc = {name: given[name] for name in ("amount", "reason", "metadata") if name in given}
    metadata = wanted.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadControl("metadata", "should map names to strings")
    params.checked({"metadata": {"map": "str"}}, [(f"metadata[{name}]", value) for name, value in metadata.items()])
    if "amount" in wanted:
        _whole(wanted, "amount", least=1)
    refund = refunds.by_hand(control.world, scope, charge, wanted)
    return control.world.show("refund", refund, scope)


def _refund(control: Control, names: dict[str, str], *states: str) -> tuple[Scope, Doc]:
    scope, refund = control.doc("refund", names["refund"], "refund")
    if refund["status"] not in states:
        raise BadControl("refund", f"is {refund['status']}; this needs {' or '.join(states)}", 409)
    return scope, refund


@verb("POST /_sim/refunds/{refund}/settle")
def settle_refund(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let a pending refund succeed now."""
    _known(body)
    scope, refund = _refund(control, names, "pending")
    refunds.settle(control.world, scope, refund)
    return control.world.show("refund", refund, scope)


@verb("POST /_sim/refunds/{refund}/fail")
def fail_refund(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let a refund fail now, or `after_seconds`; `reason` is Stripe's `failure_reason`."""
    given = _known(body, "reason", "after_seconds")
    reason = _text(given, "reason", "declined")
    if reason not in refunds.FAILURES:
        raise BadControl("reason", f"should be one of {', '.join(refunds.FAILURES)}")
    after = _delay(given, "after_seconds")
    scope, refund = _refund(control, names, "pending", "succeeded", "requires_action")
    if after > 0:
        control.world.schedule(after, "refund_fails", scope=scope.number, refund=refund["id"], reason=reason)
    else:
        refunds.undo(control.world, scope, refund, "failed", reason)
    return control.world.show("refund", refund, scope)


@verb("POST /_sim/refunds/{refund}/require_action")
def require_action(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """A bank sent the money back: the customer has to say again where to."""
    _known(body)
    scope, refund = _refund(control, names, "pending", "succeeded")
    refunds.returned(control.world, scope, refund)
    return control.world.show("refund", refund, scope)


@verb("POST /_sim/refunds/{refund}/act")
def act_on_refund(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """The customer says where the money of a `requires_action` refund should go."""
    _known(body)
    scope, refund = _refund(control, names, "requires_action")
    refunds.customer_acts(control.world, scope, refund)
    return control.world.show("refund", refund, scope)


@verb("POST /_sim/charges/{charge}/behaviour")
def set_behaviour(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Choose how later refunds of a charge go: succeeds, pends, stays, fails, bank, …; or the code that refuses them."""
    ways = (*cards.WAYS, *refunds.CLOSED)
    way = _text(_known(body, "refund"), "refund")
    if way not in ways:
        raise BadControl("refund", f"should be one of {', '.join(ways)}")
    _, charge = control.doc("charge", names["charge"], "charge")
    charge["refund_behaviour"] = way
    control.world.save("charge", charge)
    return {"charge": charge["id"], "refund": way}


@verb("POST /_sim/disputes")
def open_dispute(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Open a dispute: `charge`, `amount`, `reason`, `inquiry`, and `after_seconds` for one that opens later."""
    given = _known(body, "charge", "amount", "reason", "inquiry", "after_seconds")
    scope, charge = control.doc("charge", _text(given, "charge"), "charge")
    amount = _whole(given, "amount", least=1) if "amount" in given else None
    inquiry, reason = _flag(given, "inquiry", default=False), _text(given, "reason", "fraudulent")
    if reason not in disputes.REASONS:
        raise BadControl("reason", f"should be one of {', '.join(disputes.REASONS)}")
    if not charge.get("captured", True):
        raise BadControl("charge", f"{charge['id']} took no money that could be disputed", 409)
    if "after_seconds" in given:
        later = {"scope": scope.number, "charge": charge["id"], "amount": amount, "reason": reason, "inquiry": inquiry}
        control.world.schedule(_delay(given, "after_seconds"), "dispute_later", **later)
        return {"scheduled": later}
    dispute = disputes.open_dispute(control.world, scope, charge, amount=amount, reason=reason, inquiry=inquiry)
    return control.world.show("dispute", dispute, scope)


@registry.job("dispute_later")
def dispute_later(world: World, scope: int, charge: str, **more: Any) -> None:  # noqa: ANN401  # amount, reason, inquiry
    """Open the dispute that was asked for earlier."""
    doc = world.find("charge", charge)
    if doc is not None:
        disputes.open_dispute(world, world.numbered[scope], doc, **more)


@verb("POST /_sim/disputes/{dispute}/{verdict}")
def end_dispute(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Move a dispute on: escalate (inquiry → chargeback), win, lose, close_inquiry."""
    _known(body)
    verdicts = {
        "escalate": disputes.escalate,
        "win": disputes.win,
        "lose": disputes.lose,
        "close_inquiry": disputes.close_inquiry,
    }
    if names["verdict"] not in verdicts:
        raise BadControl("verdict", f"should be one of {', '.join(verdicts)}", 404)
    scope, dispute = control.doc("dispute", names["dispute"], "dispute")
    verdicts[names["verdict"]](control.world, scope, dispute)
    return control.world.show("dispute", dispute, scope)


@verb("POST /_sim/warnings")
def warn(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let an early fraud warning arrive for a `charge`."""
    scope, charge = control.doc("charge", _text(_known(body, "charge"), "charge"), "charge")
    warning = early_fraud_warnings.warn(control.world, scope, charge)
    return control.world.show("radar.early_fraud_warning", warning, scope)


@verb("POST /_sim/reviews")
def review(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Put a `charge` under review; a full refund or a dispute closes it, or a person who approves the payment."""
    scope, charge = control.doc("charge", _text(_known(body, "charge"), "charge"), "charge")
    if charge.get("review"):
        raise BadControl("charge", f"has its review already: {charge['review']}", 409)
    return control.world.show("review", reviews.begin(control.world, scope, charge), scope)


@verb("POST /_sim/reviews/{review}/approve")
def approve_review(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let a person approve a payment under review."""
    _empty(body)
    scope, doc = control.doc("review", names["review"], "review")
    if not doc["open"]:
        raise BadControl("review", f"is closed: {doc['closed_reason']}", 409)
    _, charge = control.doc("charge", doc["charge"], "charge")
    reviews.end(control.world, scope, charge, "approved")
    return control.world.show("review", control.doc("review", doc["id"], "review")[1], scope)


# Memory


@verb("POST /_sim/idempotency/prune")
def prune(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Forget stored answers: all of them, or those `older_than_seconds`."""
    given = _known(body, "older_than_seconds")
    before = control.world.clock.now() - _delay(given, "older_than_seconds") if given else math.inf
    return {"pruned": control.api.idempotency.prune(before)}


@verb("POST /_sim/snapshots/{name}")
def take_snapshot(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Keep a copy of everything under a name, in memory; `{"download": true}` also answers it."""
    given = _known(body, "download")
    download = _flag(given, "download", default=False)
    store = control.world.store
    store.keep("clock", control.world.clock.state())
    store.keep("fault_counts", control.api.faults.counts())
    store.pause()
    taken = control.snapshots[names["name"]] = store.snapshot()
    answer: Doc = {"snapshot": names["name"], "bytes": len(taken)}
    return answer | ({"content": base64.b64encode(taken).decode()} if download else {})


@verb("POST /_sim/snapshots/{name}/restore")
def restore_snapshot(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Go back to a copy; with `content`, to one that was answered earlier."""
    given = _known(body, "content")
    taken = control.snapshots.get(names["name"])
    if "content" in given:
        try:
            taken = base64.b64decode(_text(given, "content"), validate=True)
        except ValueError as error:
            raise BadControl("content", f"is not base64: {error}") from error
    if taken is None:
        raise BadControl(
            "name", f"there is no snapshot {names['name']}; there are {', '.join(control.snapshots) or 'none'}", 404
        )
    world = control.world
    world.store.pause()
    try:
        world.store.restore(taken)
    except ValueError as error:
        raise BadControl("content", str(error)) from error
    world.reload()
    world.clock.restore(world.store.meta("clock"))
    # Ids of requests derive from it: what was answered since the snapshot was taken must not come a second time.
    world.store.keep("boot", world.boot)
    control.resume_faults()
    return {"snapshot": names["name"], "now": world.clock.now()}


@verb("POST /_sim/crash")
def crash(_: Control, __: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Die at once, as by kill -9; what was acknowledged stays in the state file."""
    _empty(body)
    die()
    return {}


# Webhooks


@verb("GET /_sim/webhooks/plan")
def show_plan(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell how deliveries go wrong."""
    plan: Doc = control.world.store.meta("delivery_plan") or {"seed": 0, "rules": []}
    return plan


@verb("POST /_sim/webhooks/plan")
def set_plan(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Let deliveries be late, doubled, out of order, lost: `{"seed": 1, "rules": [{"kind": "lost", …}]}`."""
    given = _known(body, "seed", "rules")
    webhooks.set_plan(control.world, {"seed": _whole(given, "seed", 0), "rules": given.get("rules")})
    return show_plan(control, names, None)


@verb("POST /_sim/webhooks/{endpoint}/roll")
def roll(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Roll an endpoint's secret; the old one signs too for `keep_old_seconds` (at most a day)."""
    given = _known(body, "keep_old_seconds")
    scope, endpoint = control.doc("webhook_endpoint", names["endpoint"], "endpoint")
    secret = webhooks.roll_secret(control.world, scope, endpoint["id"], _whole(given, "keep_old_seconds", 86_400))
    return {"id": endpoint["id"], "secret": secret}


@verb("POST /_sim/events/{event}/resend")
def resend(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Send an event to an `endpoint` once more, as by hand in the Dashboard."""
    control.doc("event", names["event"], "event")
    _, endpoint = control.doc("webhook_endpoint", _text(_known(body, "endpoint"), "endpoint"), "endpoint")
    webhooks.resend(control.world, names["event"], endpoint["id"])
    return {"event": names["event"], "endpoint": endpoint["id"]}


@verb("GET /_sim/events/{event}/deliveries")
def deliveries(control: Control, names: dict[str, str], _: Any) -> Doc:  # noqa: ANN401
    """Tell what became of an event's deliveries, try by try."""
    control.doc("event", names["event"], "event")
    return {"event": names["event"], "deliveries": webhooks.history(control.world, names["event"])}


# Judgement


@verb("GET /_sim/calls")
def calls(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Count calls: by operation, by status, 429s by reason, and the most that passed in any second and tenth of one."""
    return control.api.log.told()


@verb("GET /_sim/calls/times")
def call_times(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Tell by operation when each call passed, in seconds of the machine's monotonic clock."""
    return {"operations": control.api.log.times()}


@verb("GET /_sim/calls/accounts")
def calls_by_account(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Count the calls that passed, by account, then by the account whose key they carried, then by operation."""
    return {"seconds": control.api.log.seconds(), "accounts": control.api.log.by_account()}


@verb("DELETE /_sim/calls")
def forget_calls(control: Control, names: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Count from nothing."""
    _empty(body)
    control.api.log.clear()
    return calls(control, names, None)


@verb("GET /_sim/audit")
def audit(control: Control, _: dict[str, str], __: Any) -> Doc:  # noqa: ANN401
    """Check everything: sums, repeats, balances, what was acknowledged."""
    return invariants.audit(control.world)


@verb("POST /_sim/audit")
def audit_against(control: Control, _: dict[str, str], body: Any) -> Doc:  # noqa: ANN401
    """Check against `obligations`: what was paid double, not paid, or never asked for."""
    given = _known(body, "obligations")
    rows = given.get("obligations")
    if not isinstance(rows, list):
        raise BadControl("obligations", "should be a list")
    return invariants.audit(control.world, [_obligation(row, f"obligations[{at}]") for at, row in enumerate(rows)])


def _obligation(row: Any, path: str) -> invariants.Obligation:  # noqa: ANN401  # JSON from outside
    if not isinstance(row, dict):
        raise BadControl(path, "should be an object")
    try:
        given = _known(row, "charge", "amount", "request", "ticket", "name")
        optional = {name: _text(given, name) for name in ("request", "ticket") if given.get(name) is not None}
        return invariants.Obligation(
            _text(given, "charge"), _whole(given, "amount", least=1), name=_text(given, "name", ""), **optional
        )
    except BadControl as error:
        raise BadControl(f"{path}.{error.field}", str(error).partition(": ")[2]) from error
