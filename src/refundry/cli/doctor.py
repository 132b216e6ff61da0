"""`refundry doctor`: what is wrong, why it matters, and what to type."""

from __future__ import annotations

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson


def doctor(*, account: AccountOption = None, as_json: AsJson = False) -> int:
    """Check settings, machine, database, key, permissions, pace and what is stuck; changes nothing. Exit 0 when nothing is wrong, else 1; 2 for a setting."""
    from refundry.cli import doctor_looks

    return doctor_looks.run(account, as_json=as_json)
