"""`refundry doctor`: what is wrong, why it matters, and what to type."""

from __future__ import annotations

from refundry.cli.output import AsJson


def doctor(*, as_json: AsJson = False) -> int:
    """Check key, mode, account, permissions, balance, database, clock, limits and directories; changes nothing."""
    from refundry.cli import doctor_looks

    return doctor_looks.run(as_json=as_json)
