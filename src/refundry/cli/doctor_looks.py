"""The doctor's looks. Each is harmless: it reads, and at Stripe asks for things that do not exist."""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import refundry
from refundry import bootstrap, migrations
from refundry.accounts import service as accounts
from refundry.cli import output, session
from refundry.gateways.base import GatewayError, PaymentGateway, Trouble
from refundry.infra.db import Database
from refundry.infra.settings import Settings
from refundry.kernel.clock import SystemClock
from refundry.kernel.errors import RefundryError
from refundry.kernel.lane import Lane
from refundry.refunds.rules import CLOCKS_APART
from refundry.worker.executor import REFUND

# Stripe's `Date` has whole seconds, and the answer takes a moment.
CLOCK_EXACT_SECONDS = 5.0
# Ids that are well-formed and belong to nobody.
NO_CHARGE, NO_REFUND, NO_INTENT, NO_ORDER = (
    "ch_refundrydoctor",
    "re_refundrydoctor",
    "pi_refundrydoctor",
    "refundry-doctor",
)


class Health(StrEnum):
    """How something is."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look has found.

    Args:
        what: What was looked at.
        health: How it is.
        said: What was found.
        why: Why it matters, where it is not good.
        do: What to type or to change.
        code: The error's stable code, where there is one.
    """

    what: str
    health: Health
    said: str
    why: str = ""
    do: str = ""
    code: str = ""


class NoPace:
    """Slots without limits: the doctor makes a handful of calls."""

    async def take(self, operation: str, lane: Lane) -> float:  # noqa: ARG002  # the port's
        """Wait for nothing."""
        return 0.0

    async def limited(self, operation: str, reason: str | None, taken_at: float) -> None:
        """Remember nothing."""


def run(*, as_json: bool) -> int:
    """Look at everything, and tell it."""
    findings = [_versions()]
    settings: Settings | None = None
    try:
        settings = session.settings()
        findings.append(Finding("settings", Health.GOOD, "can be read"))
    except RefundryError as error:
        findings.append(_bad("settings", error, "nothing else can be looked at before"))
    if settings is not None:
        findings += [
            *_places(settings),
            *_database(settings),
            *asyncio.run(_stripe(settings)),
            _limits(settings),
            _mode(settings),
        ]
    well = all(finding.health is not Health.BAD for finding in findings)
    if as_json:
        output.as_json({"ok": well, "findings": [asdict(finding) for finding in findings]})
        return output.DONE if well else output.FAILED
    for finding in findings:
        output.line(output.wrapped(f"{finding.health.value:5} {finding.what:12} {finding.said}", hanging=19))
        for name, text in (("why", finding.why), ("do", finding.do)):
            if text:
                output.line(output.wrapped(f"{name}: {text}", indent=19))
    bad = sum(finding.health is Health.BAD for finding in findings)
    output.line("")
    output.line("All is well." if well else f"{output.counted(bad, 'thing')} to mend, see above.")
    return output.DONE if well else output.FAILED


def _bad(what: str, error: RefundryError, why: str) -> Finding:
    message, _, do = error.message.partition(": ")
    return Finding(what, Health.BAD, message, why, do, error.code)


def _versions() -> Finding:
    told = [
        f"refundry {refundry.__version__}",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    told += [f"{name} {version(name)}" for name in ("stripe", "dbos", "SQLAlchemy")]
    return Finding("versions", Health.GOOD, ", ".join(told))


def _places(settings: Settings) -> list[Finding]:
    folder = settings.folder
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [
            Finding(
                "directory", Health.BAD, f"{folder} cannot be {'written' if there == folder else 'made'}",
                "the database and the worker's lock are kept there", "set REFUNDRY_STATE_DIR to a directory that can be written",
                "state_dir_unusable",
            )
        ]  # fmt: skip
    return [Finding("directory", Health.GOOD, f"{folder}" + ("" if there == folder else " (made at first use)"))]


def _database(settings: Settings) -> list[Finding]:
    try:
        url = settings.database
    except RefundryError as error:
        return [_bad("database", error, "everything is kept there")]
    file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if file is not None and not file.exists():
        return [Finding("database", Health.GOOD, f"{file} (made at first use)")]
    database = Database(url, SystemClock())
    try:
        found = migrations.version(database)
        if found is None or found == migrations.newest():
            findings = [Finding("database", Health.GOOD, f"{file or 'Postgres'}, version {found or 'none yet'}")]
        else:
            findings = [_other_version(found)]
        if found == migrations.newest():
            with database.reading() as unit:
                findings += [_account(account.name, account.held_text) for account in accounts.known(unit)]
    except RefundryError as error:
        return [_bad("database", error, "everything is kept there")]
    finally:
        database.close()
    lock = bootstrap.lock_of(settings)
    if lock is not None:
        findings.append(_executor(settings))
    return findings


def _other_version(found: str) -> Finding:
    if found in migrations.known():
        return Finding(
            "database", Health.NOTE, f"version {found}; the next command upgrades it to {migrations.newest()}"
        )
    return Finding(
        "database", Health.BAD, f"version {found} is of a newer Refundry", "this program does not know what stands in it",
        "start the newer Refundry", "database_newer",
    )  # fmt: skip


def _account(name: str, held: str) -> Finding:
    if not held:
        return Finding("books", Health.GOOD, f"belong to {name.replace('|', ', ')}")
    return Finding(
        "books",
        Health.BAD,
        f"{name} is held: {held}",
        "nothing of it is paid",
        "mend the key, then start the worker again",
        "key_refused",
    )


def _executor(settings: Settings) -> Finding:
    lock = bootstrap.lock_of(settings)
    if lock is None or not lock.take():
        return Finding("executor", Health.GOOD, f"process {lock.holder() if lock else '?'} is paying; others watch")
    lock.free()
    return Finding("executor", Health.GOOD, "no process is paying at the moment")


def _limits(settings: Settings) -> Finding:
    try:
        limits = bootstrap.limits_of(settings)
    except RefundryError as error:
        return _bad("limits", error, "without limits Stripe turns calls away")
    if not limits.total and not limits.endpoint:
        return Finding(
            "limits",
            Health.NOTE,
            "none are kept",
            "Stripe turns away what is too fast (429)",
            "unset REFUNDRY_STRIPE__LIMITS",
        )
    share = 1 - settings.stripe.headroom
    rate = min(limits.total or limits.endpoint, limits.operations.get(REFUND, limits.endpoint) or limits.total) * share
    return Finding(
        "limits",
        Health.GOOD,
        f"{rate:.1f} refunds per second, {settings.stripe.headroom:.0%} are left to your other programs",
    )


def _mode(settings: Settings) -> Finding:
    if settings.mode == "live":
        return Finding(
            "mode", Health.NOTE, "LIVE: real money; single-operator mode, --yes on shown totals is the approval"
        )
    return Finding(
        "mode", Health.GOOD, "test: no real money; single-operator mode, --yes on shown totals is the approval"
    )


# Stripe


@asynccontextmanager
async def _gateway(settings: Settings) -> AsyncIterator[PaymentGateway]:
    gateway = bootstrap.gateway_of(settings, NoPace(), SystemClock())
    try:
        yield gateway
    finally:
        await gateway.close()


async def _stripe(settings: Settings) -> list[Finding]:
    try:
        _ = settings.key
    except RefundryError as error:
        return [_bad("key", error, "nothing can be looked up or paid without one")]
    async with _gateway(settings) as gateway:
        try:
            account = await bootstrap.account_of(settings, gateway)
        except GatewayError as error:
            why = "Stripe cannot be asked" if error.passing else "Stripe does not take this key"
            do = (
                "check the network, and REFUNDRY_STRIPE__API_BASE"
                if error.passing
                else "take a key that works: STRIPE_SECRET_KEY"
            )
            return [Finding("key", Health.BAD, error.message, why, do, error.code)]
        except RefundryError as error:
            return [_bad("key", error, "the account is part of every refund request's id")]
        base = settings.stripe.api_base
        findings = [
            Finding("key", Health.GOOD, f"opens {account.id} ({account.mode})" + (f", at {base}" if base else ""))
        ]
        findings += [await _permission(*one) for one in _reads(gateway)]
        findings += [await _balance(gateway), _clock(gateway)]
        return findings + _of_books(settings, account.name)


def _reads(gateway: PaymentGateway) -> list[tuple[str, str, Callable[[], Awaitable[object]]]]:
    async def listed() -> None:
        async for _ in gateway.charges(0, 1):
            return

    return [
        ("charges", "no charge can be looked at", lambda: gateway.look(NO_CHARGE, Lane.DESK)),
        ("charge list", "orders are not found without searching one by one", listed),
        (
            "search",
            "an order is not found where the list is too long",
            lambda: gateway.charges_of_order(NO_ORDER, Lane.DESK),
        ),
        ("intents", "rows that name a payment intent are refused", lambda: gateway.charge_of(NO_INTENT, Lane.DESK)),
        ("refunds", "what became of a refund is not seen", lambda: gateway.refund(NO_REFUND, Lane.DESK)),
    ]


async def _permission(what: str, why: str, read: Callable[[], Awaitable[object]]) -> Finding:
    try:
        await read()
    except GatewayError as error:
        if error.trouble is not Trouble.NOT_FOUND:
            do = (
                "give the restricted key this right in Stripe's dashboard"
                if error.trouble is Trouble.FORBIDDEN
                else "try again later"
            )
            return Finding(what, Health.BAD, error.message, why, do, error.code)
    return Finding(what, Health.GOOD, "can be read")


async def _balance(gateway: PaymentGateway) -> Finding:
    try:
        available = await gateway.balance()
    except GatewayError as error:
        return Finding(
            "balance",
            Health.NOTE,
            error.message,
            "a balance that runs dry is only noticed by the refund",
            "let the key read the balance",
            error.code,
        )
    low = [currency for currency, minor in available.items() if minor <= 0]
    if low and len(low) == len(available):
        return Finding(
            "balance", Health.NOTE, f"{output.amounts(available)} available", "refunds wait until there is enough", "top it up in Stripe"
        )  # fmt: skip
    return Finding("balance", Health.GOOD, f"{output.amounts(available)} available")


def _clock(gateway: PaymentGateway) -> Finding:
    stripe = gateway.stripe_now()
    if stripe is None:
        return Finding("clock", Health.NOTE, "Stripe did not tell its time")
    apart = SystemClock().now() - stripe
    if abs(apart) <= CLOCK_EXACT_SECONDS:
        return Finding("clock", Health.GOOD, f"{abs(apart):.0f} s from Stripe's")
    bad = abs(apart) > CLOCKS_APART
    said = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} Stripe's"
    why = (
        "attempts in doubt are not sent again by a clock that cannot be believed"
        if bad
        else "from 300 s on it is not believed"
    )
    return Finding("clock", Health.BAD if bad else Health.NOTE, said, why, "let the machine keep its time by NTP")


def _of_books(settings: Settings, account: str) -> list[Finding]:
    """See that the database belongs to the account of the key."""
    try:
        file = Path(settings.database.removeprefix("sqlite:///"))
        if settings.database.startswith("sqlite:///") and not file.exists():
            return []
        database = Database(settings.database, SystemClock())
    except RefundryError:
        return []
    try:
        if migrations.version(database) != migrations.newest():
            return []
        with database.reading() as unit:
            known = [one.name for one in accounts.known(unit)]
    except RefundryError:
        return []
    finally:
        database.close()
    if not known or account in known:
        return []
    said = f"the database belongs to {known[0].replace('|', ', ')}, and the key opens {account.replace('|', ', ')}"
    do = "set REFUNDRY_STATE_DIR or REFUNDRY_DATABASE_URL to a database of its own"
    return [
        Finding("books", Health.BAD, said, "money of two accounts is never mixed up", do, "database_of_other_account")
    ]
