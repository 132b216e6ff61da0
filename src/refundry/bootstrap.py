"""The composition root: settings in; a database, a gateway, services and workers out. Only here are gateway and connectors named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from refundry import migrations
from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.audit import service as audit
from refundry.connectors.files import reader as files
from refundry.gateways.base import GatewayError, PaymentGateway, Slots, Trouble
from refundry.infra import pace
from refundry.infra.db import Database, DatabaseUnusable
from refundry.infra.lock import FileLock
from refundry.infra.pace import Pacer
from refundry.infra.settings import Settings, SettingsError
from refundry.infra.writer import GroupWriter
from refundry.kernel.clock import Clock, SystemClock
from refundry.kernel.ids import Ids, RandomIds

read_file = files.read


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
    database = Database(settings.database, clock)
    audit.attach(database)
    migrations.upgrade(database)
    return database


def lock_of(settings: Settings) -> FileLock | None:
    """Give the lock of the one process that may execute on an SQLite file; `None` on Postgres, where any number may."""
    url = settings.database
    return FileLock(Path(url.removeprefix("sqlite:///") + ".lock")) if url.startswith("sqlite:///") else None


@dataclass(frozen=True, slots=True)
class Desk:
    """Everything that works on one account.

    Args:
        settings: As read.
        account: Whose money.
        database: Where everything is kept.
        writer: Saves, in groups.
        gateway: Stripe.
        pacer: Stripe's pace.
        clock: Time.
        ids: Ids that stand for nothing.
    """

    settings: Settings
    account: Account
    database: Database
    writer: GroupWriter
    gateway: PaymentGateway
    pacer: Pacer
    clock: Clock
    ids: Ids


def limits_of(settings: Settings) -> pace.Limits:
    """Tell Stripe's limits: as set, else after the key's mode."""
    named = settings.stripe.limits or ("live" if settings.mode == "live" else "sandbox")
    return pace.parsed(named)


def gateway_of(settings: Settings, slots: Slots, clock: Clock) -> PaymentGateway:
    """Make the way to Stripe, for the account of the key.

    Raises:
        SettingsError: There is no key, or it cannot be used.
    """
    from refundry.gateways.stripe.client import StripeGateway  # imports the SDK, which takes longer than most commands

    return StripeGateway(
        settings.key,
        api_base=settings.stripe.api_base,
        account=None,
        clock=clock,
        slots=slots,
        order_key=settings.stripe.order_key,
    )


@asynccontextmanager
async def desk(settings: Settings, *, clock: Clock | None = None, ids: Ids | None = None) -> AsyncIterator[Desk]:
    """Open everything, and close it in the end.

    Raises:
        SettingsError: A setting is missing or wrong.
        DatabaseUnusable: See `database_of`.
        OtherAccount: The database belongs to another account or mode.
        GatewayError: Stripe did not tell whose key it is.
    """
    clock = clock or SystemClock()
    _ = settings.key
    database = database_of(settings, clock)
    writer = GroupWriter(database)
    writer.start()
    pacer = Pacer(limits_of(settings), settings.stripe.headroom, writer, clock)
    gateway = gateway_of(settings, pacer, clock)
    try:
        account = await account_of(settings, gateway)
        pacer.serve(account.name)
        await writer.put(lambda unit: accounts.stamp(unit, account))
        yield Desk(settings, account, database, writer, gateway, pacer, clock, ids or RandomIds())
    finally:
        await pacer.close()
        await gateway.close()
        await writer.stop()
        database.close()


async def account_of(settings: Settings, gateway: PaymentGateway) -> Account:
    """Learn whose key it is: from Stripe, and where Stripe will not say, from the settings; where both do, they must agree.

    Raises:
        SettingsError: `account_unknown`, `account_disagrees`.
        GatewayError: Stripe cannot be reached, or does not know the key.
    """
    said = settings.stripe.account
    try:
        seen = await gateway.account()
    except GatewayError as error:
        if error.trouble not in {Trouble.FORBIDDEN, Trouble.NOT_FOUND, Trouble.REFUSED}:
            raise
        if said is None:
            raise SettingsError(
                f"Stripe does not tell whose key this is ({error.message}): set REFUNDRY_STRIPE__ACCOUNT to your acct_…",
                code="account_unknown",
                setting="REFUNDRY_STRIPE__ACCOUNT",
            ) from error
        return Account(said, settings.mode)
    if said is not None and said != seen.id:
        raise SettingsError(
            f"the key opens {seen.id}, and REFUNDRY_STRIPE__ACCOUNT says {said}: take the key of that account, or unset it",
            code="account_disagrees",
            setting="REFUNDRY_STRIPE__ACCOUNT",
        )
    return Account(seen.id, settings.mode)
