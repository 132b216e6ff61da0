"""The composition root: settings in; a database, a gateway, services and workers out. Only here are gateway and connectors named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refundry import migrations
from refundry.accounts import service as accounts
from refundry.accounts.model import Account, Connect, NoSuchAccount
from refundry.accounts.rules import Choice, choose
from refundry.audit import service as audit
from refundry.batches import service as batches
from refundry.connectors.base import OrderTarget
from refundry.connectors.files import reader as files
from refundry.gateways.base import NOT_CONNECTED, GatewayError, PaymentGateway, Slots, Trouble
from refundry.gateways.stripe import webhooks
from refundry.inbox import service as inbox
from refundry.inbox.model import Door
from refundry.infra import pace, tracing
from refundry.infra.db import Database, DatabaseUnusable, Unit
from refundry.infra.lock import FileLock
from refundry.infra.pace import Pacer
from refundry.infra.settings import Access, Settings, SettingsError, account_twice
from refundry.infra.writer import GroupWriter
from refundry.kernel.clock import Clock, SystemClock
from refundry.kernel.errors import RefundryError, UsageError
from refundry.kernel.ids import Ids, RandomIds
from refundry.outbox import service as outbox
from refundry.outbox.model import Kind, Wants
from refundry.outbox.rules import kinds_of, parameters_of
from refundry.refunds import service as refunds
from refundry.tasks import service as tasks

if TYPE_CHECKING:
    from refundry.gateways.stripe.transport import Transport

read_file = files.read
webhook_flaw, read_webhook, sign_webhook = webhooks.flaw, webhooks.read, webhooks.signature
# Accounts that are asked for their names at once when a command begins. Those calls take no slot, and connected accounts may
# share one limit of 25 calls a second (stripe-facts 9).
OPENED_AT_ONCE = 2


def database_of(settings: Settings, clock: Clock) -> Database:
    """Open the database and bring it to this program's version.

    Raises:
        DatabaseUnusable: It cannot be reached or written, or a newer program has used it.
    """
    if settings.database.startswith("sqlite:///"):
        folder = Path(settings.database.removeprefix("sqlite:///")).parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DatabaseUnusable(
                f"the state directory {folder} cannot be made ({error.strerror}): set REFUNDRY_STATE_DIR to one that can be written",
                code="state_dir_unusable",
                setting="REFUNDRY_STATE_DIR",
            ) from error
    database = attached(Database(settings.database, clock), wants_of(settings))
    migrations.upgrade(database)
    return database


def attached(database: Database, wants: Wants | None = None) -> Database:
    """Attach what the features do at the beginning and the end of a unit; without it the audit log is not written."""
    refunds.attach(database)
    tasks.attach(database)
    if wants is not None:
        outbox.attach(database, wants, refunds.messages)
    audit.attach(database)
    inbox.attach(database)
    batches.attach(database)
    return database


def wants_of(settings: Settings) -> Wants:
    """Tell which order systems are set, and which messages each wants.

    Raises:
        KindUnknown: A setting names a kind of message that is none.
    """
    orders, by_target = settings.orders, dict[str, frozenset[Kind]]()
    kinds = kinds_of(orders.kinds, "REFUNDRY_ORDERS__KINDS")
    if orders.url is not None:
        by_target["http"] = kinds
    if orders.sql_url is not None or orders.sql_statement:
        by_target["sql"] = kinds_of(orders.sql_kinds, "REFUNDRY_ORDERS__SQL_KINDS")
    if orders.file is not None:
        by_target["file"] = kinds
    return Wants(by_target)


def targets_of(settings: Settings, clock: Clock) -> tuple[OrderTarget, ...]:
    """Make the order systems that are set.

    Raises:
        SettingsError: One of them is set wrongly: nothing starts before that is mended.
    """
    wants = wants_of(settings).by_target
    if not wants:
        return ()
    # They import what most commands do without.
    from refundry.connectors.orders_file import client as orders_file
    from refundry.connectors.orders_http import client as orders_http
    from refundry.connectors.orders_sql import client as orders_sql

    known = {kind.value: parameters_of(kind) for kind in sorted(wants.get("sql", ()))}
    return (
        *orders_http.targets_of(settings.orders, settings.mode, clock),
        *orders_sql.targets_of(settings.orders, known),
        *orders_file.targets_of(settings.orders),
    )


def lock_of(settings: Settings) -> FileLock | None:
    """Give the lock of the one process that may execute on an SQLite file; `None` on Postgres, where any number may."""
    url = settings.database
    return FileLock(Path(url.removeprefix("sqlite:///") + ".lock")) if url.startswith("sqlite:///") else None


@dataclass(frozen=True, slots=True)
class Seat:
    """One account at the desk.

    Args:
        access: How it is reached, and what is set for it.
        account: Whose money.
        gateway: Stripe, for that account.
        pacer: Stripe's pace, for that account.
    """

    access: Access
    account: Account
    gateway: PaymentGateway
    pacer: Pacer

    @property
    def connect(self) -> Connect:
        """Tell what is set for its refunds of Connect charges."""
        return Connect(self.access.reverse_transfer, self.access.refund_application_fee)


@dataclass(frozen=True, slots=True)
class Closed:
    """An account that did not open, as when its key was revoked: nothing of it is paid, and the others go on.

    Args:
        access: How it should be reached.
        error: Why it did not open.
        name: Its name in our tables, as far as the settings tell.
    """

    access: Access
    error: RefundryError
    name: str | None

    @property
    def told(self) -> str:
        """Say it to a person."""
        return f"{self.access.opened_by} does not open its account: {self.error.message} [{self.error.code}]"


@dataclass(frozen=True, slots=True)
class Desk:
    """Everything that works: one database, one writer, one clock, and a seat for each account.

    Args:
        settings: As read.
        database: Where everything is kept.
        writer: Saves, in groups.
        clock: Time.
        ids: Ids that stand for nothing.
        seats: The accounts that opened.
        closed: Those that did not.
        wanted: What a person said which account is meant.
        targets: Who is told what becomes of refunds.
        tracing: Traces refund requests, if that is wanted.
    """

    settings: Settings
    database: Database
    writer: GroupWriter
    clock: Clock
    ids: Ids
    seats: tuple[Seat, ...]
    closed: tuple[Closed, ...] = ()
    wanted: str | None = None
    targets: tuple[OrderTarget, ...] = ()
    tracing: tracing.Tracing = tracing.OFF

    @property
    def seat(self) -> Seat:
        """Tell the one account that a command is about.

        Raises:
            AccountNeeded: There are several, and nobody said which.
            NoSuchAccount: There is none of that name.
            RefundryError: It did not open: the error says why.
        """
        choices = [Choice(seat.account.id, seat.access.name, seat.account.mode) for seat in self.seats]
        choices += [Choice(shut.access.said or "", shut.access.name, self.settings.mode) for shut in self.closed]
        at = choose(self.wanted, choices)
        if at >= len(self.seats):
            raise self.closed[at - len(self.seats)].error
        return self.seats[at]

    def seat_of(self, account: str) -> Seat:
        """Tell the seat of an account, by its name in our tables.

        Raises:
            NoSuchAccount: No setting opens it.
        """
        for seat in self.seats:
            if seat.account.name == account:
                return seat
        name = account.partition("|")[0]
        why = "".join(f"; {shut.told}" for shut in self.closed)
        text = f"no key here opens {name}: set REFUNDRY_ACCOUNTS__NAME__SECRET_KEY or __CONNECTED for it{why}"
        raise NoSuchAccount(text, account=name)

    @property
    def account(self) -> Account:
        """Tell the account of `seat`."""
        return self.seat.account

    @property
    def gateway(self) -> PaymentGateway:
        """Tell the gateway of `seat`."""
        return self.seat.gateway

    @property
    def pacer(self) -> Pacer:
        """Tell the pacer of `seat`."""
        return self.seat.pacer


def doors_of(desk: Desk) -> dict[str, Door]:
    """Tell where webhooks come in: by `acct_…` and by the name in the settings; the primary account's by an empty text too.

    An account that did not open still has one, if the settings tell its name: its events wait until it is mended.
    """
    found: dict[str, Door] = {}
    names = [(seat.access, seat.account.name) for seat in desk.seats]
    names += [(shut.access, shut.name) for shut in desk.closed if shut.name is not None]
    for access, name in names:
        beside = frozenset(
            n for other, n in names if other.connected and other.key == access.key and not access.connected
        )
        door = Door(name, access.webhook_secrets, beside, access.setting("webhook_secret"))
        found[name.partition("|")[0]] = found[access.name] = door
    return found


def limits_of(settings: Settings, access: Access | None = None) -> pace.Limits:
    """Tell Stripe's limits of an account, by default the primary one: as set, else after the key's mode.

    Raises:
        UsageError: `limits_wrong`.
    """
    named = settings.stripe.limits if access is None else access.limits
    usual = "live" if settings.mode == "live" else "sandbox"
    setting = "REFUNDRY_STRIPE__LIMITS" if access is None else access.setting("limits")
    found = pace.parsed(named or usual, setting)
    if found.operations:
        from refundry.gateways.stripe.client import OPERATIONS  # imports the SDK, as in `gateway_of`

        if strange := sorted(found.operations.keys() - OPERATIONS):
            raise UsageError(
                f"'{strange[0]}' in {setting} is no call that is made, and its limit would hold for nothing: it can be one of "
                f"{', '.join(sorted(OPERATIONS))}",
                code="limits_wrong",
                setting=setting,
            )
    return found


def gateway_of(
    settings: Settings, slots: Slots, clock: Clock, access: Access | None = None, transport: Transport | None = None
) -> PaymentGateway:
    """Make the way to Stripe for an account.

    Args:
        settings: As read.
        slots: The account's pace.
        clock: Time.
        access: How the account is reached; by default the primary one.
        transport: Carries the calls of several accounts, and is the caller's to close; without it the gateway has its own.

    Raises:
        SettingsError: There is no key, or it cannot be used.
    """
    from refundry.gateways.stripe.client import StripeGateway  # imports the SDK, which takes longer than most commands

    access = access or settings.primary
    return StripeGateway(
        access.key,
        api_base=settings.stripe.api_base,
        account=access.connected,
        clock=clock,
        slots=slots,
        http_client=transport,
        order_key=access.order_key,
        key_by=access.key_by,
    )


@asynccontextmanager
async def desk(
    settings: Settings, *, clock: Clock | None = None, ids: Ids | None = None, account: str | None = None
) -> AsyncIterator[Desk]:
    """Open everything, and close it in the end.

    Args:
        settings: As read.
        clock: Time; the machine's by default.
        ids: Ids that stand for nothing; random ones by default.
        account: What a person said which account is meant; see `Desk.seat`.

    Raises:
        SettingsError: A setting is missing or wrong, or two of them open one account.
        DatabaseUnusable: See `database_of`.
        OtherAccount: The database belongs to other accounts, or to the other mode.
        GatewayError: Stripe cannot be reached, or does not know the key: of several, none.
    """
    clock = clock or SystemClock()
    accesses = settings.accesses
    limits = [limits_of(settings, access) for access in accesses]
    targets = targets_of(settings, clock)
    database = database_of(settings, clock)
    from refundry.gateways.stripe.transport import Transport  # imports the SDK, as in `gateway_of`

    writer, transport, pacers = GroupWriter(database), Transport(), list[Pacer]()
    traces = tracing.started(settings.traces_endpoint, settings.mode)
    writer.start()
    try:
        pacers += [Pacer(each, one.headroom, writer, clock) for each, one in zip(limits, accesses, strict=True)]
        gate = asyncio.Semaphore(OPENED_AT_ONCE)

        async def opened(access: Access, pacer: Pacer) -> Seat | Closed:
            gateway = gateway_of(settings, pacer, clock, access, transport)
            async with gate:
                return await _opened(settings, access, gateway, pacer)

        found = await _all([asyncio.ensure_future(opened(*each)) for each in zip(accesses, pacers, strict=True)])
        seats = tuple(one for one in found if isinstance(one, Seat))
        closed = tuple(one for one in found if isinstance(one, Closed))
        if not seats:
            raise closed[0].error
        _check_apart(seats)
        await writer.put(lambda unit: _stamped(unit, seats, closed))
        yield Desk(settings, database, writer, clock, ids or RandomIds(), seats, closed, account, targets, traces)
    finally:
        for pacer in pacers:
            await pacer.close()
        for target in targets:
            await target.close()
        await transport.close_async()
        await writer.stop()
        await traces.close()
        database.close()


async def _all(opening: list[asyncio.Future[Seat | Closed]]) -> list[Seat | Closed]:
    """Wait for all; where one fails, no other goes on with what is closed then."""
    try:
        return await asyncio.gather(*opening)
    finally:
        for one in opening:
            one.cancel()
        await asyncio.gather(*opening, return_exceptions=True)


async def _opened(settings: Settings, access: Access, gateway: PaymentGateway, pacer: Pacer) -> Seat | Closed:
    """Learn whose key it is. A key that fails closes its own account, and no other; where Stripe cannot be reached, all are."""
    try:
        account = await account_of(settings, gateway, access)
    except (GatewayError, SettingsError) as error:
        if isinstance(error, GatewayError) and error.passing:
            raise
        return Closed(access, error, None if access.said is None else Account(access.said, settings.mode).name)
    pacer.serve(account.name)
    return Seat(access, account, gateway, pacer)


def _check_apart(seats: tuple[Seat, ...]) -> None:
    """See that no two keys open one account: its calls would be paced twice, and its settings could disagree."""
    by_account: dict[str, Seat] = {}
    for seat in seats:
        if (other := by_account.setdefault(seat.account.name, seat)) is not seat:
            raise account_twice(seat.account.id, other.access, seat.access)


def _stamped(unit: Unit, seats: tuple[Seat, ...], closed: tuple[Closed, ...]) -> None:
    beside = {seat.account.name for seat in seats} | {shut.name for shut in closed if shut.name is not None}
    for seat in seats:
        meant = bool(seat.access.name) and seat.access.said is not None
        accounts.stamp(unit, seat.account, beside=beside, meant=meant)


async def account_of(settings: Settings, gateway: PaymentGateway, access: Access | None = None) -> Account:
    """Learn whose key it is: from Stripe, and where Stripe will not say, from the settings; where both do, they must agree.

    Args:
        settings: As read.
        gateway: The way to the account.
        access: How it is reached; by default as the primary account.

    Raises:
        SettingsError: `account_unknown`, `account_disagrees`.
        GatewayError: Stripe cannot be reached, or does not know the key.
    """
    said, setting = settings.stripe.account, "REFUNDRY_STRIPE__ACCOUNT"
    if access is not None:
        said, setting = access.said, access.setting("connected" if access.connected else "account")
    try:
        seen = await gateway.account()
    except GatewayError as error:
        silent = error.trouble in {Trouble.FORBIDDEN, Trouble.NOT_FOUND, Trouble.REFUSED}
        if not silent or error.stripe_code == NOT_CONNECTED:
            raise
        if said is None:
            raise SettingsError(
                f"Stripe does not tell whose key this is ({error.message}): set {setting} to your acct_…",
                code="account_unknown",
                setting=setting,
            ) from error
        return Account(said, settings.mode)
    if said is not None and said != seen.id:
        raise SettingsError(
            f"the key opens {seen.id}, and {setting} says {said}: take the key of that account, or unset it",
            code="account_disagrees",
            setting=setting,
        )
    return Account(seen.id, settings.mode)
