"""A Stripe account in one mode. Its name everywhere is `acct_…|test` or `acct_…|live`."""

from __future__ import annotations

from dataclasses import dataclass

from refundry.kernel.errors import UsageError


class OtherAccount(UsageError):  # noqa: N818
    """The database belongs to another account or mode than the key."""

    code = "database_of_other_account"


class AccountNeeded(UsageError):  # noqa: N818
    """There are several accounts, and nobody said which is meant."""

    code = "account_needed"


class NoSuchAccount(UsageError):  # noqa: N818
    """No account, or more than one, goes by what was said."""

    code = "account_not_here"


@dataclass(frozen=True, slots=True)
class Connect:
    """The two flags that move a platform's money with a refund (stripe-facts 9); `None` where nobody has decided.

    Args:
        reverse_transfer: Whether the connected account pays a destination charge back, in proportion.
        refund_application_fee: Whether the platform gives its fee back, in proportion.
    """

    reverse_transfer: bool | None = None
    refund_application_fee: bool | None = None


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
