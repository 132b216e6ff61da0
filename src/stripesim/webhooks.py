"""Webhooks: who is told of an event, signed how, tried how often, and, by a seeded plan, told badly.

A delivery is a row, written in the transaction of its event, and marked done only after the receiver said 2xx: a simulator
that dies in between tells it again, as Stripe does. (docs.stripe.com/webhooks)

| plan kind | what happens to a delivery |
|---|---|
| `late` | it waits `delay_seconds` (or `low` to `high`) of the world's clock |
| `twice` | the same event, by the same id, is delivered a second time |
| `twin` | a second event with an id of its own tells of the same change |
| `out_of_order` | it waits `delay_seconds` (default 1), so that later events overtake it |
| `lost` | it is never delivered, and counts as failed |
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b, sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from stripesim import ids
from stripesim.faults import BadRule
from stripesim.registry import View
from stripesim.resources import events
from stripesim.store import Doc
from stripesim.world import Scope, World

if TYPE_CHECKING:
    import aiohttp

HOUR = 3600
# Stripe says "up to three days with exponential back-off" live and "three times over a few hours" in a sandbox; the steps
# between are not published, these are ours.
LIVE_STEPS = (60, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR, 12 * HOUR)
SANDBOX_STEPS = (60, HOUR, 3 * HOUR)
IN_FLIGHT = 16
SLICE = 64
KEEP_OLD_MAX = 86_400
# A disabled endpoint that is enabled again within this time still gets what waited for it, as with the longest retries.
HELD_SECONDS = 3 * 86_400
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
KINDS = ("late", "twice", "twin", "out_of_order", "lost")
OWN = {"late": {"delay_seconds", "low", "high"}, "out_of_order": {"delay_seconds"}}
NUMBERS = {"delay_seconds": 30 * 86_400, "low": 30 * 86_400, "high": 30 * 86_400, "probability": 1}

Send = Callable[[str, dict[str, str], bytes, float], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Parcel:
    """One try of a delivery: where to, what, and how often it was tried before."""

    number: int
    endpoint: str
    url: str
    headers: dict[str, str]
    body: bytes
    attempt: int


# Who is told


def enlist(world: World, scope: Scope, event: Doc) -> None:
    """Write the deliveries of a new event; called by the world for each event that it records."""
    for endpoint in _listening(world, scope, event):
        _plan(world, event, endpoint)


def _listening(world: World, scope: Scope, event: Doc) -> list[Doc]:
    found = [e for e in world.endpoints(scope) if not e.get("connect")]
    if platform := event.get("account") and world.find("account", scope.account):
        owner = world.scopes.get((platform["platform"], scope.livemode))
        found += [e for e in world.endpoints(owner) if e.get("connect")] if owner else []
    return [e for e in found if e["status"] == "enabled" and wants(e, event["type"])]


def wants(endpoint: Doc, event: str) -> bool:
    """Tell whether an endpoint asked for a type of event."""
    return "*" in endpoint["enabled_events"] or event in endpoint["enabled_events"]


def _plan(world: World, event: Doc, endpoint: Doc) -> None:
    delay, copies, lost = 0.0, 1, False
    plan = world.store.meta("delivery_plan") if world.delivery_plan is None else world.delivery_plan
    world.delivery_plan = plan or {"seed": 0, "rules": []}
    for index, rule in enumerate(world.delivery_plan["rules"]):
        if not fnmatchcase(event["type"], rule.get("event", "*")):
            continue
        seed = world.delivery_plan["seed"]
        if _chance(seed, index, event["id"], endpoint["id"]) >= rule.get("probability", 1):
            continue
        match rule["kind"]:
            case "late":
                low, high = rule.get("low", 0), rule.get("high", rule.get("delay_seconds", 0))
                low = high if "delay_seconds" in rule else low
                delay += low + (high - low) * _chance(seed, index, event["id"], "late")
            case "twice":
                copies += 1
            case "twin":
                _twin(world, event, endpoint)
            case "out_of_order":
                delay += rule.get("delay_seconds", 1)
            case _:
                lost = True
    for _ in range(copies):
        row = (None if lost else world.clock.now() + delay, event["id"], endpoint["id"], FAILED if lost else PENDING)
        world.store.db.execute("INSERT INTO delivery (due, event, endpoint, attempt, status) VALUES (?,?,?,0,?)", row)


def _twin(world: World, event: Doc, endpoint: Doc) -> None:
    """Record the same change as another event, for this endpoint alone, so that it has no twin of its own."""
    number = world.store.number("event")
    double = event | {"id": world.new_id("event", number)}
    found = world.store.place("event", event["id"])
    if found is not None:
        world.insert("event", world.numbered[found[0]], number, double)
        row = (world.clock.now(), double["id"], endpoint["id"], PENDING)
        world.store.db.execute("INSERT INTO delivery (due, event, endpoint, attempt, status) VALUES (?,?,?,0,?)", row)


def _chance(*parts: object) -> float:
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def set_plan(world: World, plan: Any) -> None:  # noqa: ANN401  # JSON from outside
    """Put a delivery plan in force for events to come.

    Args:
        world: The state.
        plan: `{"seed": 1, "rules": [{"kind": "lost", "event": "refund.*", "probability": 0.3}]}`.

    Raises:
        BadRule: The field and what is wrong with it; the old plan stays.
    """
    rules = plan.get("rules")
    if not isinstance(rules, list):
        raise BadRule("rules", "should be a list of rules")
    for at, rule in enumerate(rules):
        _check_rule(rule, f"rules[{at}]")
    world.delivery_plan = {"seed": plan.get("seed", 0), "rules": rules}
    world.store.keep("delivery_plan", world.delivery_plan)


def _check_rule(rule: Any, path: str) -> None:  # noqa: ANN401  # JSON from outside
    if not isinstance(rule, dict):
        raise BadRule(path, "should be an object")
    if unknown := sorted(rule.keys() - {"kind", "event", *NUMBERS}):
        raise BadRule(f"{path}.{unknown[0]}", f"is not known; there are event, kind, {', '.join(NUMBERS)}")
    kind = rule.get("kind")
    if kind not in KINDS:
        raise BadRule(f"{path}.kind", f"should be one of {', '.join(KINDS)}")
    if strange := sorted(rule.keys() & {"delay_seconds", "low", "high"} - OWN.get(kind, set())):
        raise BadRule(f"{path}.{strange[0]}", f"means nothing to {kind}")
    if not isinstance(rule.get("event", "*"), str):
        raise BadRule(f"{path}.event", "should be a pattern over event types")
    for name, most in NUMBERS.items():
        value = rule.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise BadRule(f"{path}.{name}", f"should be a number from 0 to {most}")
    if kind == "late" and not rule.keys() & {"delay_seconds", "high"}:
        raise BadRule(f"{path}.delay_seconds", "a late delivery needs delay_seconds, or low and high")
    if "low" in rule and rule["low"] > rule.get("high", -1):
        raise BadRule(f"{path}.low", "should be at most high")


# What is said


def signature(secrets: list[str], body: bytes, moment: int) -> str:
    """Sign a body: `t=…,v1=…`, one `v1` for each secret that is alive, and a `v0` that nobody should trust."""
    signed = f"{moment}.".encode() + body
    parts = [f"v1={hmac.new(secret.encode(), signed, sha256).hexdigest()}" for secret in secrets]
    return ",".join([f"t={moment}", *parts, f"v0={sha256(signed).hexdigest()}"])


def secrets_of(endpoint: Doc, moment: float) -> list[str]:
    """Tell an endpoint's secrets that are alive: the present one, and rolled ones until they end."""
    return [endpoint["secret"], *(s for s, until in endpoint.get("old_secrets", []) if until > moment)]


def roll_secret(world: World, scope: Scope, endpoint_id: str, keep_old_seconds: int = KEEP_OLD_MAX) -> str:
    """Give an endpoint a new secret; the old one signs too for a while, a day at most. Tells the new one."""
    endpoint = world.need("webhook_endpoint", endpoint_id, scope, param="webhook_endpoint")
    old = [pair for pair in endpoint.get("old_secrets", []) if pair[1] > world.clock.now()]
    old.append([endpoint["secret"], world.clock.now() + min(keep_old_seconds, KEEP_OLD_MAX)])
    secret = "whsec_" + ids.token(world.seed, "whsec", endpoint_id, len(old), world.clock.now(), length=32)
    endpoint |= {"secret": secret, "old_secrets": old}
    world.save("webhook_endpoint", endpoint)
    world.forget_endpoints()
    return secret


def resend(world: World, event_id: str, endpoint_id: str) -> None:
    """Deliver an event once more, now; the automatic retries of an earlier delivery go on."""
    row = (world.clock.now(), event_id, endpoint_id, PENDING)
    world.store.db.execute("INSERT INTO delivery (due, event, endpoint, attempt, status) VALUES (?,?,?,0,?)", row)


def history(world: World, event_id: str) -> list[Doc]:
    """Tell what became of an event's deliveries, and of each try."""
    out = []
    sql = "SELECT number, due, endpoint, attempt, status FROM delivery WHERE event=? ORDER BY number"
    for number, due, endpoint, attempt, status in world.store.db.execute(sql, (event_id,)).fetchall():
        tries = world.store.db.execute(
            "SELECT moment, answer FROM delivery_try WHERE delivery=? ORDER BY rowid", (number,)
        )
        told = [{"moment": moment, "answer": answer} for moment, answer in tries]
        out.append({"endpoint": endpoint, "due": due, "attempts": attempt, "status": status, "tries": told})
    return out


# How it is sent


class Pump:
    """Sends what is due.

    Args:
        world: The state.
        anywhere: Whether deliveries may leave this machine.
    """

    def __init__(self, world: World, *, anywhere: bool = False) -> None:
        """Begin idle."""
        self._world = world
        self._anywhere = anywhere
        self._busy: set[int] = set()

    async def run(self) -> None:
        """Send for ever."""
        woken = asyncio.Event()
        self._world.wakes.append(woken.set)
        async with AsyncExitStack() as opened:
            session: aiohttp.ClientSession | None = None

            async def send(url: str, headers: dict[str, str], body: bytes, timeout: float) -> int:  # noqa: ASYNC109
                nonlocal session
                if session is None:
                    session = _opened()
                    opened.push_async_callback(session.close)
                return await _post(session, url, headers, body, timeout)

            while True:
                woken.clear()
                if not await self.deliver_due(send):
                    try:
                        await asyncio.wait_for(woken.wait(), 0.05)
                    except TimeoutError:
                        continue

    async def deliver_due(self, send: Send) -> int:
        """Send once what is due now; tells how many were sent."""
        parcels = self._take()
        if not parcels:
            return 0
        lanes: dict[str, list[Parcel]] = {}
        for parcel in parcels:
            lanes.setdefault(parcel.endpoint, []).append(parcel)
        try:
            await asyncio.gather(*(self._lane(lane, send) for lane in lanes.values()))
        finally:
            self._busy -= {parcel.number for parcel in parcels}
        return len(parcels)

    async def _lane(self, parcels: list[Parcel], send: Send) -> None:
        """Send to one endpoint, a few at a time."""
        gate, patience = asyncio.Semaphore(IN_FLIGHT), self._world.settings.webhook_timeout

        async def one(parcel: Parcel) -> None:
            async with gate:
                allowed = self._anywhere or loopback(parcel.url)
                answer = await send(parcel.url, parcel.headers, parcel.body, patience) if allowed else -1
                self._record(parcel, answer)

        await asyncio.gather(*(one(parcel) for parcel in parcels))

    def _take(self) -> list[Parcel]:
        world = self._world
        sql = "SELECT number, event, endpoint, attempt FROM delivery WHERE due<=? ORDER BY due, number LIMIT ?"
        rows = world.store.db.execute(sql, (world.clock.now(), SLICE)).fetchall()
        return [p for row in rows if row[0] not in self._busy and (p := self._packed(*row)) is not None]

    def _packed(self, number: int, event_id: str, endpoint_id: str, attempt: int) -> Parcel | None:
        world = self._world
        found, event = world.store.get("webhook_endpoint", endpoint_id), world.store.get("event", event_id)
        if found is None or event is None:
            world.store.db.execute("UPDATE delivery SET due=NULL, status=? WHERE number=?", (FAILED, number))
            return None
        endpoint = found[1]
        if endpoint["status"] != "enabled":
            # It is looked at again in an hour: a retry goes on if the endpoint is enabled in time.
            late = world.clock.now() > event[1]["created"] + HELD_SECONDS
            due, status = (None, FAILED) if late else (world.clock.now() + HOUR, PENDING)
            world.store.db.execute("UPDATE delivery SET due=?, status=? WHERE number=?", (due, status, number))
            return None
        scope = world.numbered[event[0]]
        version = endpoint.get("api_version") or event[1]["api_version"]
        body = orjson.dumps(
            events.render_in(View(world, scope.livemode, version), event[1]), option=orjson.OPT_INDENT_2
        )
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": signature(secrets_of(endpoint, world.clock.now()), body, world.clock.seconds()),
        }
        self._busy.add(number)
        return Parcel(number, endpoint_id, endpoint["url"], headers, body, attempt)

    def _record(self, parcel: Parcel, answer: int) -> None:
        world = self._world
        # The endpoint may have been deleted while its answer was on the way: then nothing is tried again.
        found = world.store.get("webhook_endpoint", parcel.endpoint)
        steps = () if found is None else LIVE_STEPS if world.numbered[found[0]].livemode else SANDBOX_STEPS
        status, due = DELIVERED, None
        if not 200 <= answer < 300:  # noqa: PLR2004  # HTTP
            tried = parcel.attempt
            status, due = (PENDING, world.clock.now() + steps[tried]) if tried < len(steps) else (FAILED, None)
        with world.store.transaction():
            sql = "UPDATE delivery SET due=?, status=?, attempt=attempt+1 WHERE number=?"
            world.store.db.execute(sql, (due, status, parcel.number))
            row = (parcel.number, world.clock.now(), answer)
            world.store.db.execute("INSERT INTO delivery_try VALUES (?,?,?)", row)


def loopback(url: str) -> bool:
    """Tell whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _opened() -> aiohttp.ClientSession:
    import aiohttp  # half of the simulator's start, and most simulators never send a webhook

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT))


async def _post(
    session: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    body: bytes,
    timeout: float,  # noqa: ASYNC109
) -> int:
    """Send; tells the HTTP status, 0 where no answer came."""
    import aiohttp  # as in `_opened`

    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with session.post(url, data=body, headers=headers, timeout=limit, allow_redirects=False) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0
