"""Which account a person means, and which a database takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from refundry.accounts.model import Account, AccountNeeded, NoSuchAccount


@dataclass(frozen=True, slots=True)
class Choice:
    """An account that may be meant.

    Args:
        id: Its `acct_…`; empty, where its key does not tell.
        name: What the settings call it, lower case; empty for the primary account, and for one that no setting opens.
        mode: `test` or `live`.
    """

    id: str
    name: str = ""
    mode: str = ""

    @property
    def written(self) -> tuple[str, ...]:
        """Tell how its id may be written: with its mode as `--json` does, or without; in no way, where it is not known."""
        return (self.id, f"{self.id}|{self.mode}") if self.id else ()

    @property
    def told(self) -> str:
        """Write it for a person: `acct_… (eu)`."""
        if not self.id:
            return self.name or "the primary account"
        return f"{self.id} ({self.name})" if self.name else self.id


def choose(wanted: str | None, choices: Sequence[Choice]) -> int:
    """Tell which one is meant, by its place among the choices; with only one, nobody needs to say it.

    Args:
        wanted: `acct_…`, with its mode as `--json` writes it or without, the beginning of one, or a name from the settings in either case.
        choices: At least one.

    Raises:
        AccountNeeded: Nothing was said, and there are several.
        NoSuchAccount: None goes by that, or more than one (`account_ambiguous`).
    """
    told = ", ".join(choice.told for choice in choices)
    if wanted is None:
        if len(choices) == 1:
            return 0
        raise AccountNeeded(f"there are {len(choices)} accounts, say which with --account: {told}", option="--account")
    said = wanted.strip()
    found = [
        at for at, choice in enumerate(choices) if said and (said in choice.written or choice.name == said.lower())
    ]
    found = found or [at for at, choice in enumerate(choices) if said and choice.id.startswith(said)]
    if len(found) == 1:
        return found[0]
    if found:
        text = f"{wanted:.80} is the beginning of {len(found)} accounts, write more of it: there are {told}"
        raise NoSuchAccount(text, code="account_ambiguous", option="--account")
    raise NoSuchAccount(f"there is no account {wanted:.80} here, take one of these: {told}", option="--account")


def kept_out_by(
    account: Account, known: Collection[Account], *, beside: Collection[str] = (), meant: bool = False
) -> list[Account]:
    """Tell because of which accounts a database does not take another one: none, if it is taken, or is known.

    A database takes a further account only while every account that it knows is opened too. One that is missing beside a new one
    is how a key looks that was swapped by mistake: then the new one has to be meant by its name.

    Args:
        account: Whose key is there.
        known: Those that the database belongs to.
        beside: The names of all accounts that a process is set up for.
        meant: Whether the settings name it as a further account by its `acct_…`.
    """
    if any(one.name == account.name for one in known):
        return []
    return [one for one in known if one.mode != account.mode or (one.name not in beside and not meant)]
