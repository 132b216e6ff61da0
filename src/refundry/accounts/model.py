"""A Stripe account in one mode. Its name everywhere is `acct_…|test` or `acct_…|live`."""

from __future__ import annotations

from dataclasses import dataclass

from refundry.kernel.errors import UsageError


class OtherAccount(UsageError):  # noqa: N818
    """The database belongs to another account or mode than the key."""

    code = "database_of_other_account"


@dataclass(frozen=True, slots=True)
class Account:
    """One account in one mode.

    Args:
        id: Stripe's `acct_…`.
        mode: `test` or `live`.
        held_text: Why nothing of it is paid at the moment (its key was refused), or an empty string.
    """

    id: str
    mode: str
    held_text: str = ""

    @property
    def name(self) -> str:
        """Tell its name in our tables."""
        return f"{self.id}|{self.mode}"
