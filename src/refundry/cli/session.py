"""What commands open: the settings, and for those that do not speak to Stripe the database alone."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refundry.accounts import service as accounts
from refundry.accounts.model import Account, NoSuchAccount, OtherAccount
from refundry.accounts.rules import Choice, choose
from refundry.bootstrap import database_of
from refundry.infra import logs
from refundry.infra import settings as settings_of
from refundry.infra.db import Database
from refundry.infra.settings import STRIPE_API, Settings
from refundry.kernel.actor import Actor, ActorKind
from refundry.kernel.clock import SystemClock

# Where Linux keeps who logged in, which `sudo` and `su` leave as it is, and what it says where nobody has, as in a container.
LOGIN = Path("/proc/self/loginuid")
NOBODY = 2**32 - 1


def settings(**overrides: object) -> Settings:
    """Read the settings, and set logging up by them."""
    read = settings_of.read(**overrides)
    logs.configure(read.log_level, as_json=read.log_json)
    return read


def person() -> Actor:
    """Tell who sits at this command line: the user who logged in to this machine, also behind `sudo`.

    The machine says so, and no variable, so that nobody becomes a second person by setting one. People who share a login are one.
    """
    if sys.platform == "win32":
        return Actor(ActorKind.PERSON, getpass.getuser())
    import pwd

    try:
        login = int(LOGIN.read_text())
    except (OSError, ValueError):
        login = NOBODY
    user = os.getuid() if login == NOBODY else login
    try:
        return Actor(ActorKind.PERSON, pwd.getpwuid(user).pw_name)
    except KeyError:
        # A container may run under a number that has no name.
        return Actor(ActorKind.PERSON, f"uid {user}")


@dataclass(frozen=True, slots=True)
class Local:
    """The database, without Stripe.

    Args:
        known: The accounts that the database belongs to, those of the settings' mode; none before its first use.
        wanted: What a person said which account is meant.
    """

    settings: Settings
    database: Database
    known: tuple[Account, ...]
    wanted: str | None = None

    @property
    def account(self) -> Account | None:
        """Tell the one account that a command is about; `None` before the first use.

        Raises:
            AccountNeeded: There are several, and nobody said which.
            NoSuchAccount: There is none of that name.
        """
        if not self.known:
            return None
        names = {access.said: access.name for access in self.settings.accesses if access.said is not None}
        name = (self.wanted or "").strip().lower()
        if name in self.settings.accounts and name not in names.values():
            told = ", ".join(account.id for account in self.known)
            place = f"REFUNDRY_ACCOUNTS__{name.upper()}"
            raise NoSuchAccount(
                f"only Stripe knows which account {place}__SECRET_KEY opens, and it is not asked here: set {place}__ACCOUNT, or write "
                f"the account itself ({told})",
                option="--account",
            )
        return self.known[choose(self.wanted, [Choice(one.id, names.get(one.id, ""), one.mode) for one in self.known])]

    def among(self, account: str) -> str:
        """Tell the name of an account if the database belongs to it; else the name of the one that it belongs to."""
        return account if any(one.name == account for one in self.known) else self.name

    @property
    def name(self) -> str:
        """Tell the account's name in our tables; empty before the first use, when there is nothing to find either."""
        return self.account.name if self.account else ""


@contextmanager
def local(account: str | None = None) -> Iterator[Local]:
    """Open the database for what needs no network.

    Args:
        account: What a person said which account is meant; see `Local.account`.

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
        mine = tuple(one for one in known if one.mode == read.mode)
        if known and not mine:
            raise OtherAccount(
                f"this database belongs to {known[0].id} ({known[0].mode}), and REFUNDRY_MODE is {read.mode}: set "
                "REFUNDRY_STATE_DIR or REFUNDRY_DATABASE_URL to a database of its own",
                account=known[0].id,
            )
        yield Local(read, database, mine, account)
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


def about(account: str, *, several: bool) -> str:
    """Tell which account a command to copy is about, where there are several: ` --account acct_…`."""
    return f" --account {account}" if several else ""


def where(account: str, read: Settings) -> str:
    """Tell on whose money a command works: `acct_…, test mode`; a test or a simulator says so."""
    return f"{account.partition('|')[0]}, {place(read)}"
