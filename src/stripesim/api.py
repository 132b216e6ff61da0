"""The way of a call through `/v1`: key, route, permission, version, limits, faults, idempotency, parameters, handler.

The order is Stripe's where it is known: limiters stand before the idempotency layer, parameter checks are not stored, and
what began to execute is (docs.stripe.com/error-low-level).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import dataclass
from typing import Any

import orjson

from stripesim import faults, ids, registry, resources
from stripesim.call import Call
from stripesim.errors import StripeError, internal, lock_timeout, missing, rate_limited, refused
from stripesim.idempotency import Idempotency, Kept, fingerprint, in_use
from stripesim.limits import Limiter, Limits, Locks, Log
from stripesim.params import Pairs, checked, pairs
from stripesim.registry import ROUTES, VERSIONS, Route
from stripesim.store import Doc
from stripesim.world import Scope, World

resources.load()
NO_KEY = (
    "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth "
    "(e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we "
    "can help at https://support.stripe.com/."
)
ANSWERED_WITH_REFUND = {"POST /v1/refunds", "POST /v1/charges/{charge}/refunds"}
TOKEN = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it arrived: method, path, query string, headers by lower-case name, body."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Answer:
    """What goes back.

    Args:
        status: HTTP status.
        body: JSON.
        headers: Further headers.
        cut: How the connection is to fail instead: `drop`, `reset`, `truncate`, or nothing.
    """

    status: int
    body: bytes
    headers: dict[str, str]
    cut: str = ""


def _tree() -> dict[tuple[str, int], list[tuple[Route, re.Pattern[str]]]]:
    """Group the routes by method and number of segments; literal segments are tried before parameters."""
    groups: dict[tuple[str, int], list[tuple[Route, re.Pattern[str]]]] = {}
    for route in ROUTES.values():
        pattern = re.compile(TOKEN.sub(r"(?P<\1>[^/]+)", route.path))
        groups.setdefault((route.method, route.path.count("/")), []).append((route, pattern))
    for group in groups.values():
        group.sort(key=lambda pair: pair[0].path.count("{"))
    return groups


TREE = _tree()
EXACT = {(route.method, route.path): route for route in ROUTES.values() if "{" not in route.path}


def matched(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Find the operation.

    Raises:
        StripeError: 404 in Stripe's words, for what it does not have or this simulator does not.
    """
    if exact := EXACT.get((method, path)):
        return exact, {}
    for route, pattern in TREE.get((method, path.count("/")), ()):
        if found := pattern.fullmatch(path):
            return route, found.groupdict()
    raise StripeError(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at "
        "https://support.stripe.com/.",
        stored=False,
    )


class Api:
    """Answers `/v1`.

    Args:
        world: The state.
        limits: What the limiters let through.
        monotonic: The clock of the limiters, in seconds.
    """

    def __init__(self, world: World, limits: Limits, monotonic: Any) -> None:  # noqa: ANN401  # a callable
        """Begin with no faults."""
        self.world = world
        self.limiter = Limiter(limits, monotonic)
        self.locks = Locks()
        self.idempotency = Idempotency(world)
        self.faults = faults.Faults([], 0)
        self.log = Log(monotonic)
        self._requests = 0

    def _request_id(self) -> str:
        self._requests += 1
        return "req_" + ids.token(self.world.seed, "request", self.world.boot, self._requests, length=14)

    async def answer(self, request: Request) -> Answer:
        """Answer one call; never raises but for a cancelled task."""
        request_id = self._request_id()
        headers = {"Request-Id": request_id}
        try:
            answer = await self._answered(request, request_id, headers)
        except StripeError as error:
            answer = self._refusal(error, headers, request_id)
        self.log.status(answer.status)
        return answer

    def _refusal(self, error: StripeError, headers: dict[str, str], request_id: str) -> Answer:
        body = error.body()
        body["error"]["request_log_url"] = f"https://dashboard.stripe.com/{self.world.platform}/logs/{request_id}"
        if error.code == "lock_timeout":
            # A lock timeout comes without a request id (docs.stripe.com/rate-limits).
            headers = {name: value for name, value in headers.items() if name != "Request-Id"}
            del body["error"]["request_log_url"]
        return Answer(error.status, encoded(body), headers | error.headers)

    async def _answered(self, request: Request, request_id: str, headers: dict[str, str]) -> Answer:
        caller, permissions, secret = self._caller(request.headers)
        scope = self._acting(request.headers, caller, secret)
        route, path = matched(request.method, request.path)
        version = self._version(request.headers)
        headers["Stripe-Version"] = version
        if scope != caller:
            headers["Stripe-Account"] = scope.account
        keyed = request.method == "POST" and "idempotency-key" in request.headers
        plan = self.faults.plan(route.operation, scope.account, keyed=keyed)
        self._permit(permissions, route, scope, secret, plan)
        counted = self._counted(scope, caller)
        reason = self._enter(counted, route.operation)
        if reason is not None:
            self.log.limited(reason)
            raise rate_limited(reason, coded=self.world.settings.limiter_code)
        self.log.passed(route.operation, scope.account, caller.account)
        try:
            if plan is not faults.NOTHING and plan.before and (cut := self._before(plan.before)):
                return Answer(0, b"", headers, cut)
            flat = pairs(request.query) + (pairs(_text(request.body)) if request.body else [])
            self.world.catch_up()
            call = Call(self.world, scope, caller, version, {}, path)
            if request.method == "GET":
                return await self._read(route, call, flat, plan, headers)
            return await self._write(request, request_id, route, call, flat, plan, headers)
        except StripeError as error:
            if plan.after is None:
                raise
            # A connection that fails does not ask whether the answer was a refusal.
            return self._after(plan.after, self._refusal(error, headers, request_id))
        finally:
            for number in counted:
                self.limiter.leave(number, route.operation)

    # Who asks

    def _caller(self, headers: dict[str, str]) -> tuple[Scope, frozenset[str] | None, str]:
        kind, _, rest = headers.get("authorization", "").partition(" ")
        secret = rest.strip()
        if kind.lower() == "basic":
            secret = _basic(secret)
        if not secret or kind.lower() not in {"bearer", "basic"}:
            raise StripeError(401, NO_KEY, stored=False)
        known = self.world.keys.get(secret)
        if known is None:
            raise invalid_key(secret)
        if secret in self.world.expired_keys:
            text = f"Expired API Key provided: {masked(secret)}"
            raise StripeError(401, text, code="api_key_expired", stored=False)
        return (*known, secret)

    def _acting(self, headers: dict[str, str], caller: Scope, secret: str) -> Scope:
        account = headers.get("stripe-account")
        if account is None or account == caller.account:
            return caller
        scope = self.world.scopes.get((account, caller.livemode))
        connected = self.world.find("account", account)
        if scope is None or connected is None or connected.get("platform") != caller.account:
            raise StripeError(
                403,
                f"The provided key '{masked(secret)}' does not have access to account '{account}' (or that account does "
                "not exist). Application access may have been revoked.",
                code="account_invalid",
                stored=False,
            )
        return scope

    def _counted(self, scope: Scope, caller: Scope) -> tuple[int, ...]:
        """Tell against whose limits a call counts: a platform's for a connected account, against both by default."""
        both = scope != caller and self.world.settings.connect_limits_both
        return (caller.number, scope.number) if both else (scope.number,)

    def _enter(self, counted: tuple[int, ...], operation: str) -> str | None:
        for at, number in enumerate(counted):
            if (reason := self.limiter.enter(number, operation)) is not None:
                for passed in counted[:at]:
                    self.limiter.leave(passed, operation)
                return reason
        return None

    def _permit(
        self, permissions: frozenset[str] | None, route: Route, scope: Scope, secret: str, plan: faults.Plan
    ) -> None:
        kind = plan.before.kind if plan.before else ""
        if kind == "unauthorized":
            raise invalid_key(secret)
        if kind != "forbidden" and (permissions is None or route.permission in permissions):
            return
        resource, _, action = route.permission.rpartition("_")
        if kind != "forbidden" and action == "read" and permissions is not None and f"{resource}_write" in permissions:
            return
        label = f"{resource.replace('_', ' ').title()}s {action.title()}"
        raise StripeError(
            403,
            f"Permission denied. The provided key '{shortened(secret)}' does not have the required permissions for this "
            f"endpoint on account '{scope.account}'. Enabling \"{label}\" ('{route.permission}') permissions on this key "
            "would allow this request to continue.",
            stored=False,
        )

    def _version(self, headers: dict[str, str]) -> str:
        version = headers.get("stripe-version", self.world.settings.account_default_version)
        if version not in VERSIONS:
            raise refused(None, f"Invalid Stripe API version: {version}")
        return version

    # What happens

    def _before(self, rule: faults.Rule) -> str:
        match rule.kind:
            case "drop_before":
                return "drop"
            case "reset_before":
                return "reset"
            case "error_before":
                error = _trouble(rule)
                error.stored = False
                raise error
            case "rate_limit":
                reason = rule.more.get("reason", "global-rate")
                self.log.limited(reason)
                raise rate_limited(reason, coded=self.world.settings.limiter_code)
            case "lock_timeout":
                raise lock_timeout()
            case _:
                return ""

    async def _read(self, route: Route, call: Call, flat: Pairs, plan: faults.Plan, headers: dict[str, str]) -> Answer:
        call.params = checked(route.parameters, flat)
        await self._wait(plan.latency / 2)
        if plan.stale is not None:
            self.world.as_of = self.world.clock.now() - plan.stale
            self.world.forget_history(self.world.clock.now() - self.faults.stale_bound)
        try:
            with self.world.store.transaction():
                body = encoded(call.expand(route.handler(call)))
        finally:
            self.world.as_of = None
        await self._wait(plan.latency / 2)
        return self._after(plan.after, Answer(200, body, headers))

    async def _write(  # noqa: PLR0917  # the parts of a call
        self,
        request: Request,
        request_id: str,
        route: Route,
        call: Call,
        flat: Pairs,
        plan: faults.Plan,
        headers: dict[str, str],
    ) -> Answer:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        if key is None:
            answer = await self._executed(request_id, None, route, call, flat, plan)
            answer.headers = headers | answer.headers
            return self._after(plan.after, answer)
        headers["Idempotency-Key"] = key
        endpoint, parameters = f"POST {request.path}", fingerprint(flat)
        if plan.before and plan.before.kind == "conflict":
            raise in_use(key, own_type=self.world.settings.conflict_as_idempotency_error)
        kept = self.idempotency.begin(call.scope, key, endpoint, parameters)
        if kept is not None:
            self._acknowledge(route, Kept(kept.status, kept.body, request_id), kept.request, parameters)
            replay = {"Idempotent-Replayed": "true", "Original-Request": kept.request}
            return self._after(plan.after, Answer(kept.status, kept.body, headers | replay))
        try:
            keep = (key, endpoint, parameters)
            answer = await self._executed(request_id, keep, route, call, flat, plan)
            answer.headers = headers | {"Original-Request": request_id} | answer.headers
        finally:
            self.idempotency.end(call.scope, key)
        return self._after(plan.after, answer)

    async def _executed(  # the parts of a call
        self,
        request_id: str,
        keep: tuple[str, str, bytes] | None,
        route: Route,
        call: Call,
        flat: Pairs,
        plan: faults.Plan,
    ) -> Answer:
        call.params = checked(route.parameters, flat)
        held = route.locks(call) if route.locks else ()
        if held and not await self.locks.take(held, self.world.settings.lock_wait):
            raise lock_timeout()
        try:
            await self._wait(plan.latency / 2)
            answer = self._execute(request_id, keep, route, call, flat, plan)
            await self._wait(plan.latency / 2)
        finally:
            if held:
                self.locks.free(held)
        return answer

    def _execute(  # the parts of a call
        self,
        request_id: str,
        keep: tuple[str, str, bytes] | None,
        route: Route,
        call: Call,
        flat: Pairs,
        plan: faults.Plan,
    ) -> Answer:
        """Run the handler and store its answer, in one transaction."""
        world = self.world
        world.request = {"id": request_id, "idempotency_key": keep[0] if keep else None}
        try:
            try:
                with world.store.transaction():
                    answer = self._handled(request_id, route, call, flat, plan, keep[0] if keep else None)
                    self._keep(call.scope, keep, answer, request_id)
                    self._acknowledge(
                        route, Kept(answer.status, answer.body, request_id), request_id, keep[2] if keep else b""
                    )
            except StripeError as refusal:
                # What the handler wrote is undone; that it refused is kept.
                answer = self._refusal(refusal, {}, request_id)
                if keep and refusal.stored:
                    with world.store.transaction():
                        self._keep(call.scope, keep, answer, request_id)
        finally:
            world.request = {"id": None, "idempotency_key": None}
        for wake in world.wakes:
            wake()
        return answer

    def _handled(  # the parts of a call
        self, request_id: str, route: Route, call: Call, flat: Pairs, plan: faults.Plan, key: str | None
    ) -> Answer:
        """Run the handler; a refusal that leaves effects is an answer like any other."""
        after = plan.after.kind if plan.after else ""
        if plan.before and plan.before.kind == "error_stored":
            raise _trouble(plan.before)
        if after == "error_later":
            self._later(route, call, flat, request_id, key, plan.after)
            return self._refusal(_trouble(plan.after), {}, request_id)
        try:
            body = encoded(call.expand(route.handler(call)))
        except StripeError as refusal:
            if not refusal.effects:
                raise
            return self._refusal(refusal, {}, request_id)
        return self._refusal(_trouble(plan.after), {}, request_id) if after == "error_after" else Answer(200, body, {})

    def _keep(self, scope: Scope, keep: tuple[str, str, bytes] | None, answer: Answer, request_id: str) -> None:
        if keep:
            self.idempotency.keep(scope, *keep, Kept(answer.status, answer.body, request_id))

    def _acknowledge(self, route: Route, given: Kept, original: str, parameters: bytes) -> None:
        """Remember that a refund was confirmed to somebody, so that the audit can miss it."""
        if route.operation in ANSWERED_WITH_REFUND and given.status == 200:  # noqa: PLR2004  # HTTP
            values = (given.request, original, parameters, orjson.loads(given.body)["id"])
            self.world.store.db.execute("INSERT INTO acknowledged VALUES (?,?,?,?)", values)

    def _later(  # what a call needs to run again
        self, route: Route, call: Call, flat: Pairs, request_id: str, key: str | None, rule: faults.Rule | None
    ) -> None:
        delay = rule.more.get("delay_seconds", 5) if rule else 0
        self.world.schedule(
            delay,
            "call",
            operation=route.operation,
            scope=call.scope.number,
            caller=call.caller.number,
            version=call.version,
            flat=flat,
            path=call.path,
            request=request_id,
            key=key,
        )

    def _after(self, rule: faults.Rule | None, answer: Answer) -> Answer:
        match rule.kind if rule else "":
            case "drop_after":
                answer.cut = "drop"
            case "reset_after":
                answer.cut = "reset"
            case "truncate":
                answer.cut = "truncate"
            case "crash":
                answer.cut = "crash"
                # What was hit before is not hit again after the restart.
                self.world.store.keep("fault_counts", self.faults.counts())
        return answer

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)


@registry.job("call")
def run_later(world: World, **kept: Any) -> None:  # noqa: ANN401  # what `_later` kept
    """Do what a call asked for, some time after it was answered with a 500."""
    route = ROUTES[kept["operation"]]
    flat = [(name, value) for name, value in kept["flat"]]
    call = Call(world, world.numbered[kept["scope"]], world.numbered[kept["caller"]], kept["version"], {}, kept["path"])
    call.params = checked(route.parameters, flat)
    world.request = {"id": kept["request"], "idempotency_key": kept["key"]}
    try:
        with world.store.part():
            route.handler(call)
    except StripeError:
        # It was refused after all: the caller has its 500, and nothing was made.
        world.store.keep("refused_later", int(world.store.meta("refused_later") or 0) + 1)
    finally:
        world.request = {"id": None, "idempotency_key": None}


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def encoded(answer: Doc) -> bytes:
    """Write JSON as Stripe does, indented by two."""
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2)


def masked(secret: str) -> str:
    """Hide a key as Stripe's texts do: its kind and its last four stay."""
    head = re.match(r"(?:[a-z]{2}_(?:test|live)_)?", secret)
    kept = head[0] if head else ""
    return kept + "*" * max(len(secret) - len(kept) - 4, 4) + secret[-4:]


def shortened(secret: str) -> str:
    """Hide a key as Stripe's 403 does: its kind and its last six stay, whatever its length."""
    head = re.match(r"(?:[a-z]{2}_(?:test|live)_)?", secret)
    kept = head[0] if head else ""
    return f"{kept}***{secret[len(kept) :][-6:]}"


def invalid_key(secret: str) -> StripeError:
    """Build the 401 for an unknown key."""
    return StripeError(401, f"Invalid API Key provided: {masked(secret)}", stored=False)


def _trouble(rule: faults.Rule | None) -> StripeError:
    return internal(rule.more.get("status", 500) if rule else 500)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise refused(None, "Invalid request: the body is not UTF-8.") from error


def _basic(secret: str) -> str:
    import base64
    import binascii

    try:
        return base64.b64decode(secret, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


__all__ = ["Answer", "Api", "Request", "die", "matched", "missing"]
