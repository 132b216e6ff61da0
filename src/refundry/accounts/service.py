"""Which accounts a database belongs to, and which of them are held."""

from __future__ import annotations

from collections.abc import Collection

from refundry.accounts import repository
from refundry.accounts.model import Account, OtherAccount
from refundry.accounts.rules import kept_out_by
from refundry.audit import service as audit
from refundry.infra.db import Unit
from refundry.kernel.actor import SYSTEM


def stamp(unit: Unit, account: Account, *, beside: Collection[str] = (), meant: bool = False) -> None:
    """Open the database for an account: its first use stamps it.

    Args:
        unit: The open unit.
        account: Whose key is there.
        beside: See `rules.kept_out_by`.
        meant: The same.

    Raises:
        OtherAccount: It belongs to other accounts, or to the other mode: money of two accounts is never mixed up by mistake.
    """
    if any(known.name == account.name for known in repository.every(unit)):
        return
    # Two processes with the keys of two accounts may both be the first.
    repository.take_turns(unit)
    known = repository.every(unit)
    if any(known_account.name == account.name for known_account in known):
        return
    if missing := kept_out_by(account, known, beside=beside, meant=meant):
        told = ", ".join(f"{a.id} ({a.mode})" for a in known)
        further = missing[0].mode == account.mode
        raise OtherAccount(
            f"this database belongs to {told}, and the key opens {account.id} ({account.mode}): set "
            "REFUNDRY_STATE_DIR or REFUNDRY_DATABASE_URL to a database of its own"
            + (", or REFUNDRY_ACCOUNTS__NAME__SECRET_KEY and __ACCOUNT for a further account" if further else ""),
            account=account.id,
        )
    repository.add(unit, account)
    audit.record(unit, SYSTEM, "account.added", account.name, {"account": account.id, "mode": account.mode})


def known(unit: Unit) -> list[Account]:
    """Tell the accounts of this database."""
    return repository.every(unit)


def held_text(unit: Unit, name: str) -> str:
    """Tell why an account is held; an empty string, if it is not."""
    return next((account.held_text for account in repository.every(unit) if account.name == name), "")


def hold(unit: Unit, name: str, text: str) -> bool:
    """Stop paying an account, with one message however many calls were refused; tells whether it was not held before.

    What was refused is told by call, as of which charge, so that the reason may differ each time: the last one is kept, and is no news.
    """
    if not repository.hold(unit, name, text):
        return False
    audit.record(unit, SYSTEM, "account.held", name, {"why": text})
    return True


def free(unit: Unit, name: str) -> None:
    """Pay an account again: its key works."""
    if repository.hold(unit, name, ""):
        audit.record(unit, SYSTEM, "account.freed", name, {})
