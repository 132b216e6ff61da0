"""What the doctor sees of Stripe: the key, its account and its rights, the balance, webhooks, and the three clocks.

Every call is harmless: it reads, or asks for a change to what does not exist. All of them together take a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from refundry import bootstrap
from refundry.accounts.model import Account, NoSuchAccount
from refundry.accounts.rules import Choice, choose, kept_out_by
from refundry.cli import doctor_database, doctor_machine, output, session
from refundry.cli.doctor_findings import Area, Finding, Level, of_error
from refundry.cli.webhook_endpoints import lacks, ours
from refundry.cli.webhook_trial import probe
from refundry.follow.rules import HEALTHY_SECONDS
from refundry.gateways.base import GatewayError, PaymentGateway, Right, SeenEndpoint, Trouble
from refundry.infra import loop, pace
from refundry.infra.settings import STRIPE_API, Access, Settings, account_twice
from refundry.kernel.clock import Clock, SystemClock
from refundry.kernel.errors import RefundryError
from refundry.kernel.lane import Lane
from refundry.refunds.rules import CLOCKS_APART

# Who runs the doctor waits for it. A Stripe that answers needs a second; this is time for two slow tries of a call.
SECONDS_MAX = 20.0
# Stripe's `Date` has whole seconds, and the answer takes a moment.
CLOCK_EXACT_SECONDS = 5.0
# So far apart are calls at most, and once one was turned away, also the tries of one call: a batch at full pace leaves a sandbox's account two or three calls a
# second, and eight tries of each of a dozen calls find that room. Where Stripe refuses all of them, they end in half of `SECONDS_MAX`.
APART_SECONDS = 0.1
LIMITED_WAIT_SECONDS = 0.25
NO_ORDER = "refundry-doctor"
DASHBOARD = "https://dashboard.stripe.com"


class OwnPace:
    """Slots for the doctor's dozen calls: at the account's rate, and more slowly once Stripe turns one away, as beside a batch at full pace.

    The account's budgets are kept in the database, which may be the very thing that is broken.

    Args:
        clock: Tells how long to wait.
        rate: Calls a second; zero means any number.
    """

    def __init__(self, clock: Clock, rate: float) -> None:
        """Begin with nobody waiting."""
        self._clock = clock
        # An account of a few calls a second would have the doctor wait longer than anybody does.
        self._apart = min(1 / rate, APART_SECONDS) if rate else 0.0
        self._next = 0.0

    async def take(self, operation: str, lane: Lane) -> float:  # noqa: ARG002  # the port's
        """Wait for those that were asked for before."""
        now = self._clock.boot_seconds()
        slot = max(now, self._next)
        self._next = slot + self._apart
        await self._clock.sleep(slot - now)
        return slot

    def took(self, operation: str, seconds: float) -> None:
        """Remember nothing."""

    async def limited(self, operation: str, reason: str | None, taken_at: float) -> None:  # noqa: ARG002  # the port's
        """Slow down, and give Stripe a moment before the call is made again."""
        self._apart = APART_SECONDS
        await self._clock.sleep(LIMITED_WAIT_SECONDS)


@dataclass(frozen=True, slots=True)
class Need:
    """A right that the key should have.

    Args:
        label: As Stripe's dashboard names it.
        slugs: As the dashboard's link names it (stripe-facts 12); empty for what only some installations need.
        level: How bad it is to be without.
        why: What does not work without.
    """

    label: str
    slugs: tuple[str, ...]
    level: Level
    why: str


# Write includes read (stripe-facts 12), and the dashboard may show charges and refunds as one row.
NEEDS: dict[Right, Need] = {
    Right.CHARGE_READ: Need("Charges: Read", ("rak_charge_read",), Level.WRONG, "no charge can be looked at, and nothing is paid unseen"),
    Right.REFUND_READ: Need("Refunds: Read", ("rak_refund_read",), Level.WRONG, "what became of a refund is not seen"),
    Right.REFUND_WRITE: Need("Refunds: Write", ("rak_refund_write", "rak_charge_write"), Level.WRONG, "nothing can be paid"),
    Right.DISPUTE_READ: Need("Disputes: Read", ("rak_dispute_read",), Level.WRONG, "a disputed charge cannot be judged, and stops its account"),
    Right.PAYMENT_INTENT_READ: Need(
        "PaymentIntents: Read", ("rak_payment_intent_read",), Level.WARNING, "a row that names a payment intent stops its account"
    ),
    Right.PAYMENT_INTENT_WRITE: Need(
        "PaymentIntents: Write", (), Level.NOTE, "an uncaptured payment cannot be released; only --cancel-uncaptured needs it"
    ),
    Right.ACCOUNT_READ: Need("Account: Read", (), Level.NOTE, "whose key it is, is believed as REFUNDRY_STRIPE__ACCOUNT says it"),
    Right.BALANCE_READ: Need("Balance: Read", ("rak_balance_read",), Level.WARNING, "a balance that runs dry is only noticed by the refund"),
    # Nobody knows whether it is a right of its own, nor how the link names it (stripe-facts 12).
    Right.BALANCE_TRANSACTION_READ: Need(
        "Balance Transaction Sources: Read", (), Level.NOTE, "a batch with --keep-balance waits, and a plan estimates Stripe's fees"
    ),
    Right.EVENT_READ: Need(
        "Events: Read", ("rak_event_read",), Level.WARNING,
        "what no webhook brings is not found, but for refunds, which are listed: a dispute is then seen when its charge is looked at",
    ),
    # Nobody knows how the link names Radar.
    Right.RADAR_READ: Need(
        "Radar: Read", (), Level.NOTE, "early fraud warnings are not shown, and their events are parked; nothing else needs it"
    ),
    Right.WEBHOOK_READ: Need(
        "Webhook Endpoints: Read", (), Level.NOTE, "they cannot be checked here; `refundry webhooks` needs Write"
    ),
}  # fmt: skip


def look(settings: Settings, database: doctor_database.Seen, account: str | None = None) -> list[Finding]:
    """Ask Stripe what it says to each key, or to that of one account.

    Args:
        settings: As read.
        database: What was seen there.
        account: Its `acct_…`, the beginning of it, or its name in the settings; all of them, if `None`.

    Raises:
        NoSuchAccount: None of that name opened.
    """
    try:
        accesses = settings.accesses
    except RefundryError as error:
        if error.code == "webhook_secret_wrong":
            wrong = of_error(Area.STRIPE, "webhooks", error, "no command that pays starts before that is mended")
            others = look(_without_secrets(settings), database, account)
            # Left out by us, it is not missing.
            return [wrong, *(finding for finding in others if finding.code != "webhook_secret_missing")]
        keyless = of_error(Area.STRIPE, "key", error, "nothing can be looked up or paid without one")
        return [keyless, *doctor_machine.limits(settings)]
    seen = loop.run(_look_at_all(settings, accesses, database))
    _together(settings, accesses, seen, database.accounts)
    if account is not None:
        choices = [
            Choice(found or access.said or "", access.name, settings.mode)
            for access, (found, _) in zip(accesses, seen, strict=True)
        ]
        try:
            seen = [seen[choose(account, choices)]]
        except NoSuchAccount as error:
            # A key that does not tell its account may be that of the one that is meant, so all is told then.
            if error.code == "account_ambiguous" or all(choice.id for choice in choices):
                raise
    if len(seen) == 1:
        return seen[0][1]
    return [
        replace(finding, said=f"{found or access.opened_by}: {finding.said}")
        for access, (found, findings) in zip(accesses, seen, strict=True)
        for finding in findings
    ]


def _without_secrets(settings: Settings) -> Settings:
    """Leave out the secrets of webhooks, so that a wrong one keeps nothing else from being looked at."""
    further = {name: own.model_copy(update={"webhook_secret": None}) for name, own in settings.accounts.items()}
    return settings.model_copy(update={"stripe_webhook_secret": None, "accounts": further})


@asynccontextmanager
async def _opened(settings: Settings, access: Access) -> AsyncIterator[PaymentGateway]:
    clock = SystemClock()
    gateway = bootstrap.gateway_of(settings, OwnPace(clock, _rate(settings, access)), clock, access)
    try:
        yield gateway
    finally:
        await gateway.close()


def _rate(settings: Settings, access: Access) -> float:
    """Tell how many calls a second the account may make; zero means any number."""
    try:
        limits = bootstrap.limits_of(settings, access)
    except RefundryError:
        # What is wrong with them is told where they are looked at.
        limits = pace.NAMED["live" if settings.mode == "live" else "sandbox"]
    return (limits.total or limits.endpoint) * (1 - access.headroom)


async def _look_at_all(
    settings: Settings, accesses: Sequence[Access], database: doctor_database.Seen
) -> list[tuple[str, list[Finding]]]:
    """Look at all at once, so that several silent ones take no longer than one."""
    return await asyncio.gather(*(_look(settings, access, database) for access in accesses))


async def _look(settings: Settings, access: Access, database: doctor_database.Seen) -> tuple[str, list[Finding]]:
    """Look at one account; tells its `acct_…`, which is empty where its key does not open it, and what was found."""
    findings, account = list[Finding](), None
    async with _opened(settings, access) as gateway:
        try:
            async with asyncio.timeout(SECONDS_MAX):
                account = await _key(settings, access, gateway, findings)
                if account is not None or findings[-1].code == "account_unknown":
                    # A key that does not say whose it is still tells what else it may; that it may not say so is told already.
                    needs = [right for right in NEEDS if account is not None or right is not Right.ACCOUNT_READ]
                    findings += [*await _rights(settings, access, gateway, needs), *await _balance(settings, gateway)]
                if account is not None:
                    findings += await _webhooks(
                        settings, access, account, gateway, database.webhook_ages.get(account.name)
                    )
        except TimeoutError:
            findings.append(_silent())
        except GatewayError as error:
            findings.append(of_error(Area.STRIPE, "stripe", error, "what else Stripe would say is not known"))
        findings += _clocks(gateway.stripe_now(), database.ahead)
    findings += doctor_machine.limits(settings, access)
    return account.id if account is not None else "", findings


def _silent() -> Finding:
    return Finding(
        Area.STRIPE, "stripe", f"it did not answer everything within {SECONDS_MAX:g} s", Level.WRONG, "stripe_unreachable",
        "nothing can be looked up or paid without it", "check the network, a proxy or firewall, and REFUNDRY_STRIPE__API_BASE",
    )  # fmt: skip


# The key and its rights


async def _key(settings: Settings, access: Access, gateway: PaymentGateway, findings: list[Finding]) -> Account | None:
    try:
        account = await bootstrap.account_of(settings, gateway, access)
    except GatewayError as error:
        why = "Stripe cannot be asked" if error.passing else "Stripe does not take this key"
        findings.append(of_error(Area.STRIPE, "key", error, why))
        return None
    except RefundryError as error:
        findings.append(of_error(Area.STRIPE, "key", error, "the account is part of every refund request's id"))
        return None
    base = settings.stripe.api_base
    at = "" if base in {None, STRIPE_API} else f", at {base} (not Stripe)"
    findings.append(Finding(Area.STRIPE, "key", f"opens {account.id} ({account.mode}){at}, API {gateway.api_version}"))
    if access.key.startswith("sk_") and access.connected is None:
        findings.append(
            Finding(
                Area.STRIPE, "key", "it is a full secret key", Level.NOTE, "key_unrestricted",
                "whoever gets hold of it can do everything with the account", f"take a restricted one, filled in by this link{_besides(access)}: {link(settings)}",
            )
        )  # fmt: skip
    return account


def _together(
    settings: Settings, accesses: Sequence[Access], seen: Sequence[tuple[str, list[Finding]]], known: list[Account]
) -> None:
    """Add what keeps the accounts from being opened together: two keys of one, or one that the database does not take."""
    opened = [Account(found, settings.mode) if found else None for found, _ in seen]
    closed = {access.said for access, one in zip(accesses, opened, strict=True) if one is None and access.said}
    beside = {one.name for one in opened if one is not None} | {Account(said, settings.mode).name for said in closed}
    first: dict[str, Access] = {}
    for access, account, (_, findings) in zip(accesses, opened, seen, strict=True):
        if account is None:
            continue
        if (other := first.setdefault(account.id, access)) is not access:
            twice = account_twice(account.id, other, access)
            findings.append(of_error(Area.STRIPE, "account", twice, "nothing starts before that is mended"))
        meant = bool(access.name) and access.said is not None
        if kept_out_by(account, known, beside=beside, meant=meant):
            findings.append(_of_database(access, account, known))


def _of_database(access: Access, account: Account, known: list[Account]) -> Finding:
    told = ", ".join(f"{one.id} ({one.mode})" for one in known)
    named = f", or {access.setting('account')} to {account.id} if it is meant" if access.name else ""
    return Finding(
        Area.STRIPE, "account", f"the database belongs to {told}, and the key opens {account.id} ({account.mode})", Level.WRONG,
        "database_of_other_account", "money of two accounts is never mixed up, so nothing starts",
        f"take the other key, or set REFUNDRY_STATE_DIR or REFUNDRY_DATABASE_URL to a database of its own{named}", "REFUNDRY_STATE_DIR",
    )  # fmt: skip


def link(settings: Settings) -> str:
    """Tell the page of the dashboard that makes a restricted key, filled in with what we need (stripe-facts 12)."""
    slugs = [slug for need in NEEDS.values() for slug in need.slugs]
    # Write includes read, so a resource is named once.
    named = [slug for slug in slugs if not (slug.endswith("_read") and slug.removesuffix("read") + "write" in slugs)]
    query = urlencode([("name", "Refundry"), *(("permissions[]", slug) for slug in named)])
    return f"{_page(settings, 'apikeys/create')}?{query}"


def _page(settings: Settings, name: str) -> str:
    """Tell the address of a page of the dashboard, which shows the test mode's things on pages of their own."""
    return f"{DASHBOARD}{'' if settings.mode == 'live' else '/test'}/{name}"


def _besides(access: Access) -> str:
    """Tell what a key needs besides what the link fills in: nobody knows how the link names the account."""
    setting = access.setting("account")
    return "" if access.said else f", and add Account: Read (or set {setting}=acct_…)"


async def _rights(settings: Settings, access: Access, gateway: PaymentGateway, needs: Sequence[Right]) -> list[Finding]:
    asked = await asyncio.gather(*(_right(settings, gateway, right) for right in needs))
    missing = [finding for finding in asked if finding is not None]
    there = [NEEDS[right].label for right, finding in zip(needs, asked, strict=True) if finding is None]
    findings = [Finding(Area.STRIPE, "permissions", ", ".join(there))] if there else []
    if any(finding.code == "permission_missing" for finding in missing):
        findings += missing
        findings.append(
            Finding(
                Area.STRIPE, "permissions", "a new key that has what is needed", Level.NOTE, "key_link", "",
                f"create it by this link{_besides(access)}: {link(settings)}",
            )
        )  # fmt: skip
    else:
        findings += missing
    return findings


async def _right(settings: Settings, gateway: PaymentGateway, right: Right) -> Finding | None:
    need = NEEDS[right]
    try:
        await gateway.ask(right)
    except GatewayError as error:
        if error.trouble is not Trouble.FORBIDDEN:
            level = Level.WARNING if error.passing else need.level
            return Finding(
                Area.STRIPE, "permissions", f"{need.label} could not be asked for: {error.message}", level, error.code, need.why,
                "run this again later",
            )  # fmt: skip
        called = f" (Stripe calls it {error.permission})" if error.permission else ""
        return Finding(
            Area.STRIPE, "permissions", f"{need.label} is missing{called}", need.level, "permission_missing", need.why,
            f"edit the key at {_page(settings, 'apikeys')}" if need.level is not Level.NOTE else "grant it only if you want that",
        )  # fmt: skip
    return None


# The balance, and the webhooks


async def _balance(settings: Settings, gateway: PaymentGateway) -> list[Finding]:
    try:
        available = await gateway.balance()
    except GatewayError as error:
        if error.trouble is Trouble.FORBIDDEN:
            return []
        raise
    said = f"{output.amounts(available)} available"
    dry = sorted(currency.upper() for currency, minor in available.items() if minor <= 0)
    if not dry:
        return [Finding(Area.STRIPE, "balance", said)]
    return [
        Finding(
            Area.STRIPE, "balance", said, Level.WARNING if len(dry) == len(available) else Level.NOTE, "balance_dry",
            f"refunds out of {' and '.join(dry)} wait there, or fail, until money comes in", f"top it up at {_page(settings, 'balance')}",
        )
    ]  # fmt: skip


async def _webhooks(
    settings: Settings, access: Access, account: Account, gateway: PaymentGateway, age: float | None
) -> list[Finding]:
    """Look at the endpoints that lead to us, at the secrets, and at when an event came last.

    A connected account's events come through its platform, whose endpoints are told there.
    """
    about = session.about(account.id, several=len(settings.accesses) > 1)
    if access.connected is not None:
        return [_last(age, about)] if age is not None else []
    try:
        endpoints = await gateway.endpoints()
    except GatewayError as error:
        if error.trouble is Trouble.FORBIDDEN:
            return [_last(age, about)] if age is not None else []
        raise
    mine = [endpoint for endpoint in endpoints if ours(endpoint)]
    if not mine:
        return [
            Finding(
                Area.STRIPE, "webhooks", "no endpoint is registered", Level.NOTE, "webhooks_not_registered",
                "changes at Stripe are found by polling, within minutes instead of seconds", f"refundry webhooks register https://…{about}",
            )
        ]  # fmt: skip
    further = account.id if access.name else ""
    findings = [_endpoint(settings, one, lacks(one, gateway.api_version, further), about) for one in mine]
    if not access.webhook_secrets:
        setting = access.setting("webhook_secret")
        findings.append(
            Finding(
                Area.STRIPE, "webhooks", f"{setting} is not set", Level.WARNING, "webhook_secret_missing",
                "every event is refused; changes at Stripe are found by polling",
                f"set it to the secret that the endpoint was made with, or take a new one: refundry webhooks rotate {mine[0].url}{about}",
            )
        )  # fmt: skip
    else:
        findings += await asyncio.gather(*(_reached(access, one, age) for one in mine if one.enabled))
    return [*findings, _last(age, about)]


async def _reached(access: Access, endpoint: SeenEndpoint, age: float | None) -> Finding:
    """See whether the secret is taken where Stripe sends to."""
    # The newest one has to prove itself; it is written last.
    failed = await probe(
        endpoint.url, access.webhook_secrets[-1], access.setting("webhook_secret"), SystemClock().now()
    )
    if failed is None:
        return Finding(Area.STRIPE, "webhooks", f"{endpoint.url} was reached from here, and takes the secret")
    why = "while Stripe finds the same, changes are found by polling, within minutes instead of seconds"
    # From inside of some networks their own public address cannot be reached: that events come proves that Stripe can.
    level = Level.NOTE if age is not None and age < HEALTHY_SECONDS else Level.WARNING
    told = replace(of_error(Area.STRIPE, "webhooks", failed, why), level=level)
    if failed.code != "webhook_unreachable":
        return told
    return replace(
        told, do="start `refundry serve` there, or see what stands before it: a proxy, a firewall, a certificate"
    )


def _last(age: float | None, about: str) -> Finding:
    """Tell when an event came last. That none came for long may be right: perhaps nothing has happened."""
    if age is not None:
        return Finding(Area.STRIPE, "webhooks", f"the last event came {output.span(age)} ago")
    return Finding(
        Area.STRIPE, "webhooks", "no event has come yet", Level.NOTE, "webhooks_silent", "changes at Stripe are found by polling meanwhile",
        f"refundry webhooks test{about}, with the address that Stripe calls",
    )  # fmt: skip


def _endpoint(settings: Settings, endpoint: SeenEndpoint, amiss: list[str], about: str) -> Finding:
    said = f"{endpoint.id} sends to {endpoint.url}"
    if not amiss:
        return Finding(Area.STRIPE, "webhooks", said)
    return Finding(
        Area.STRIPE, "webhooks", f"{said}; {'; '.join(amiss)}", Level.WARNING, "webhook_endpoint", "what it does not tell is found by polling",
        f"refundry webhooks rotate {endpoint.url}{about}" if endpoint.enabled else f"enable it at {_page(settings, 'webhooks')}",
    )  # fmt: skip


# Clocks


def _clocks(stripe: float | None, ahead: float | None) -> Iterator[Finding]:
    """Compare our clock with Stripe's, and the database's with both."""
    ours = SystemClock().now()
    if stripe is None:
        yield Finding(
            Area.STRIPE,
            "clock",
            "Stripe did not tell its time",
            Level.NOTE,
            "clock_unknown",
            "it could not be compared",
            "see above",
        )
    else:
        yield clock(Area.STRIPE, "ours", ours - stripe, "Stripe's")
    if ahead is not None:
        yield clock(Area.DATABASE, "the database's", ahead, "ours")
        if stripe is not None:
            yield clock(Area.DATABASE, "the database's", ours + ahead - stripe, "Stripe's")


def clock(area: Area, whose: str, apart: float, other: str) -> Finding:
    """Judge two clocks that are `apart` seconds from each other; they may be 300 (`CLOCKS_APART`)."""
    said = f"{whose} is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} {other}"
    if abs(apart) <= CLOCK_EXACT_SECONDS:
        return Finding(area, "clock", f"{whose} agrees with {other}")
    do = "let every machine keep its time by NTP: timedatectl set-ntp true"
    if abs(apart) <= CLOCKS_APART:
        return Finding(
            area, "clock", said, Level.NOTE, "clock_apart", f"from {CLOCKS_APART:.0f} s on it is not believed", do
        )
    why = "an attempt in doubt is not sent again by clocks that disagree that far: it waits for proof of absence, or for a person"
    return Finding(area, "clock", said, Level.WRONG, "clock_apart", why, do)
