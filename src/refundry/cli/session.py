"""What commands open: the settings, and for those that do not speak to Stripe the database alone."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refundry.accounts import service as accounts
from refundry.accounts.model import Account, OtherAccount
from refundry.bootstrap import database_of
from refundry.infra import logs
from refundry.infra import settings as settings_of
from refundry.infra.db import Database
from refundry.infra.settings import STRIPE_API, Settings
from refundry.kernel.actor import Actor, ActorKind
from refundry.kernel.clock import SystemClock


def settings(**overrides: object) -> Settings:
    """Read the settings, and set logging up by them."""
    read = settings_of.read(**overrides)
    logs.configure(read.log_level, as_json=read.log_json)
    return read


def person() -> Actor:
    """Tell who sits at this command line: the user's name on this machine."""
    try:
        return Actor(ActorKind.PERSON, getpass.getuser())
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return Actor(ActorKind.PERSON, "unnamed")


@dataclass(frozen=True, slots=True)
class Local:
    """The database, without Stripe.

    Args:
        account: The one that the database belongs to; `None`, before its first use.
    """

    settings: Settings
    database: Database
    account: Account | None

    @property
    def name(self) -> str:
        """Tell the account's name in our tables; empty before the first use, when there is nothing to find either."""
        return self.account.name if self.account else ""


@contextmanager
def local() -> Iterator[Local]:
    """Open the database for what needs no network.

    Raises:
        SettingsError: Among others `stripe_key_missing`: without a key nobody knows whose data is meant.
        OtherAccount: The database belongs to the other mode.
        DatabaseUnusable: It cannot be opened.
    """
    read = settings()
    _ = read.key
    database = database_of(read, SystemClock())
    try:
        with database.reading() as unit:
            known = accounts.known(unit)
        mine = next((account for account in known if account.mode == read.mode), None)
        if known and mine is None:
            raise OtherAccount(
                f"this database belongs to {known[0].id} ({known[0].mode}), and REFUNDRY_MODE is {read.mode}: set "
                "REFUNDRY_STATE_DIR or REFUNDRY_DATABASE_URL to a database of its own",
                account=known[0].id,
            )
        yield Local(read, database, mine)
    finally:
        database.close()


def program() -> str:
    """Tell how this program was called, for commands to copy."""
    called = Path(sys.argv[0])
    return sys.argv[0] if called.name == "refundry" else f"{sys.executable} -m refundry"


def place(read: Settings) -> str:
    """Tell in few words on whose money a command works."""
    base = read.stripe.api_base
    mode = "LIVE" if read.mode == "live" else "test"
    return f"{mode} mode" + ("" if base is None or base == STRIPE_API else f", {base} (not Stripe)")


def where(account: str, read: Settings) -> str:
    """Tell on whose money a command works: `acct_…, test mode`; a test or a simulator says so."""
    return f"{account.partition('|')[0]}, {place(read)}"
