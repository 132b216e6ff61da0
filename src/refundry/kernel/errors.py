"""Errors that carry a stable code, what happened to which id, and what to do now. Codes never change; texts may."""

from __future__ import annotations


class RefundryError(Exception):
    """Something that a person or a caller has to know.

    Args:
        message: What happened, to which id, and what to do now, in one or two sentences.
        code: Overrides the class's own stable code.
        **ids: What the error is about: `charge`, `row`, `setting`, `file`.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, **ids: str | int) -> None:
        """Keep the parts."""
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.ids = ids

    def told(self) -> dict[str, object]:
        """Tell it as data, for `--json` and for the API."""
        return {"code": self.code, "message": self.message, **self.ids}


class UsageError(RefundryError):
    """Wrong usage, setting or input: nothing was changed (exit code 2)."""

    code = "usage"


class InvariantViolated(RefundryError):  # noqa: N818  # the field's word
    """What cannot happen has happened: this one request stops, and is never caught on the way."""

    code = "invariant_violated"


class AmountInvalid(RefundryError):  # noqa: N818
    """An amount that cannot be read, or that its currency cannot express."""

    code = "amount_invalid"


class CurrencyUnknown(RefundryError):  # noqa: N818
    """A currency that is not in Stripe's list."""

    code = "currency_unknown"
