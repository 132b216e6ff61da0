"""No network call while a transaction is open: the guard that every HTTP client of ours asks before it sends.

`infra/db.py` sets `unit_open` for as long as a unit of work is open. It is a context variable, so a task that another unit
of work does not belong to is not stopped by it, and a thread that was handed the context is.
"""

from __future__ import annotations

from contextvars import ContextVar

from refundry.kernel.errors import InvariantViolated

unit_open: ContextVar[bool] = ContextVar("unit_open", default=False)


def refuse_inside_unit(what: str) -> None:
    """Stop a network call that would hold a transaction open.

    Args:
        what: The call, for the message: `POST /v1/refunds`.

    Raises:
        InvariantViolated: Code `network_inside_transaction`.
    """
    if unit_open.get():
        raise InvariantViolated(
            f"{what} was about to be called while a database transaction is open; nothing was sent: "
            "report this, a restart goes on where it stopped",
            code="network_inside_transaction",
        )
