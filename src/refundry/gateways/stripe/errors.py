"""What an answer of Stripe's means for a refund that was sent: rows of a closed table, and `Unknown` for all the rest.

Structured fields stand before texts, and beside each row stands where it is known from: `REC` was recorded from Stripe's
sandbox, `DOC` stands in its documentation, `PROBE` and `ISSUE` were reported by others (stripe-facts 2 and 3.2). A row may
say "no" only where that source shows Stripe saying it; a new kind of no is `Unknown` until somebody adds its row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from refundry.gateways.base import NOT_CONNECTED, GatewayError, RefundBody, Trouble
from refundry.gateways.stripe.mapping import Json, Unreadable, refund_of
from refundry.infra.logs import redacted
from refundry.kernel.outcome import Accepted, Answer, Declined, NotTaken, NotTakenWhy, Outcome, Unknown

INVALID_REQUEST = "invalid_request_error"
LOW_BALANCE = "insufficient_balance_for_refund"
RATE_LIMIT = "rate_limit"
LOCK_TIMEOUT = "lock_timeout"
MISSING = "resource_missing"
CURSORS = ("starting_after", "ending_before", "page")
LIMITER_HEADER = "stripe-rate-limited-reason"
# Stripe's texts are one or two sentences; a page of a proxy is not worth more of an attempt's row.
MESSAGE_MAX = 500
# `Retry-After` is not documented (stripe-facts 1): beyond an hour it is a mistake, and would look like a standstill.
RETRY_AFTER_MAX = 3600.0
SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
# The newer text says `Enabling "Prices Read" ('plan_read') permissions`, the older `Having the 'rak_charge_write' permission`
# (stripe-facts 3.2).
PERMISSION = re.compile(r"'([a-z_]+_(?:read|write))'")
# Raised while the connection is made, TLS included: not one byte of the call has left.
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True, slots=True)
class Row:
    """A refusal that Stripe's execution, or the check of our parameters, ends with.

    Args:
        code: Ours, stable.
        source: Where the answer is known from.
        stripe_code: Stripe's code; `None` for an answer that has none.
        statuses: HTTP statuses that it comes with.
        param: The parameter that it names, where that tells it from others.
        says: A part of its text, where nothing else tells it from others.
        kind: Its wire type; `None`, where that is not known.
    """

    code: str
    source: str
    stripe_code: str | None = None
    statuses: frozenset[int] = frozenset({400})
    param: str | None = None
    says: str = ""
    kind: str | None = INVALID_REQUEST

    def matches(self, status: int, error: Json) -> bool:
        """Tell whether an error answer is this one."""
        return (
            status in self.statuses
            and error.get("code") == self.stripe_code
            and (self.kind is None or error.get("type") == self.kind)
            and (self.param is None or error.get("param") == self.param)
            and self.says in _message(error)
        )


REFUSED = "parameter_refused"
GATED = frozenset({400, 402, 403})
# The first row that matches counts.
DECLINED: tuple[Row, ...] = (
    Row("amount_exceeds_refundable", "REC; the text differs before the first refund, ISSUE", param="amount"),
    Row("charge_already_refunded", "REC", "charge_already_refunded"),
    Row("charge_disputed", "REC", "charge_disputed"),
    Row("charge_disputed", "DOC error-codes", "refund_disputed_payment"),
    Row("charge_not_refundable", "DOC error-codes", "charge_not_refundable"),
    Row("charge_uncaptured", "REC", says="This uncaptured Charge was created by a PaymentIntent"),
    Row("charge_failed", "PROBE a", says="does not have a successful charge to refund"),
    Row(
        "charge_of_other_mode",
        "text seen in public logs",
        MISSING,
        frozenset({400, 404}),
        says="; a similar object exists in ",
    ),
    Row("charge_unknown", "REC", MISSING, frozenset({400, 404})),
    # Parameters are checked before execution and the answer is not stored (stripe-facts 2); it is a no all the same.
    Row(REFUSED, "REC, on another parameter", "parameter_invalid_integer"),
    Row(REFUSED, "REC", "parameter_unknown"),
    Row(REFUSED, "DOC error-codes", "parameter_missing"),
    Row(REFUSED, "DOC error-codes", "parameter_invalid_empty"),
    Row(REFUSED, "DOC error-codes", "parameter_invalid_string_blank"),
    Row(REFUSED, "DOC error-codes", "parameter_invalid_string_empty"),
    Row(REFUSED, "DOC error-codes", "parameters_exclusive"),
    Row(REFUSED, "PROBE a", param="reason"),
    Row(REFUSED, "REC", says="One of the following params should be provided for this request"),
    # Account controls, new since 2026-04: a final refusal that needs a person (stripe-facts 3.2).
    Row("action_blocked", "SDK, CL 2026-04-22.dahlia", "action_blocked", GATED, kind=None),
    Row("approval_required", "SDK, CL 2026-04-22.dahlia", "approval_required", GATED, kind=None),
)


def outcome_of(status: int, headers: Mapping[str, str], content: bytes, sent: RefundBody) -> Outcome:
    """Tell what the answer to `POST /v1/refunds` means. Never raises.

    Args:
        status: HTTP status.
        headers: As they came, names in any case.
        content: The body, complete.
        sent: What was asked for: a refund of another charge or amount is not the answer to it.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    read = parsed(content)
    error = error_of(read)
    answer = _answer(status, lower, error)
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return _accepted(read, sent, answer)
    if _stripes_trouble(status):
        return Unknown("stripe_error", answer)
    if status == HTTPStatus.CONFLICT:
        return Unknown("conflict", answer)
    if error is None:
        return Unknown("unreadable", answer)
    if error.get("type") == "idempotency_error":
        return Unknown("idempotency_mismatch", answer)
    if error.get("code") == LOCK_TIMEOUT:
        # Nothing says that an object's lock is taken before execution begins, so this is no proof that nothing happened.
        return Unknown(LOCK_TIMEOUT, answer)
    row = next((row for row in DECLINED if row.matches(status, error)), None)
    if row is not None:
        return Declined(row.code, answer)
    return _not_taken(status, lower, error, answer) or Unknown("unmatched", answer)


def _accepted(read: object, sent: RefundBody, answer: Answer) -> Outcome:
    try:
        refund = refund_of(read)
    except Unreadable:
        return Unknown("unreadable", answer)
    if (refund.charge, refund.amount_minor) != (sent.charge, sent.amount_minor):
        return Unknown("unreadable", answer)
    return Accepted(refund, answer)


def _not_taken(status: int, headers: Mapping[str, str], error: Json, answer: Answer) -> NotTaken | None:
    """Tell what surely was not executed.

    Low balance: ISSUE woocommerce-payments#10025 (a field of its own, no code). Limiters: DOC rate-limits; 400 is how old
    API versions said it (SDK). 401 and 403: DOC api/errors.
    """
    if status == HTTPStatus.BAD_REQUEST and any(error.get(name) == LOW_BALANCE for name in ("message_code", "code")):
        return NotTaken(NotTakenWhy.LOW_BALANCE, answer)
    if answer.replayed:
        # Limiters and keys stand before the layer that stores and replays (stripe-facts 2): this fits nothing we know.
        return None
    if is_limited(status, error) and (LIMITER_HEADER in headers or error.get("code") == RATE_LIMIT):
        reason = headers.get(LIMITER_HEADER)
        return NotTaken(NotTakenWhy.RATE_LIMITED, answer, limiter=reason, retry_after_seconds=_retry_after(headers))
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return NotTaken(NotTakenWhy.KEY_REFUSED, answer)
    return None


def outcome_of_failure(failure: BaseException) -> NotTaken | Unknown:
    """Tell what it means that no complete answer came.

    Args:
        failure: What the HTTP client raised.
    """
    what = redacted(f"{type(failure).__name__}: {failure}".removesuffix(": "))[:MESSAGE_MAX]
    if isinstance(failure, UNSENT):
        return NotTaken(NotTakenWhy.UNSENT, Answer(message=f"Stripe could not be reached ({what})"))
    if isinstance(failure, TimeoutError):
        return Unknown("timeout", Answer(message=f"Stripe did not answer in time ({what})"))
    return Unknown("connection_lost", Answer(message=f"the connection to Stripe ended before its answer ({what})"))


# Reads


def trouble_of(status: int, read: object) -> Trouble | None:
    """Tell what kept a call from being answered; `None`, if it was. Only Stripe's own words are a no: a proxy's are not."""
    error = error_of(read)
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None if isinstance(read, dict) and error is None else Trouble.UNREACHABLE
    if error is None or _stripes_trouble(status) or status == HTTPStatus.CONFLICT:
        return Trouble.UNREACHABLE
    if is_limited(status, error):
        return Trouble.RATE_LIMITED
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return Trouble.KEY_REFUSED if status == HTTPStatus.UNAUTHORIZED else Trouble.FORBIDDEN
    # An unknown id is 404 in a path and 400 in a filter; a bad cursor has the same code (stripe-facts 4.2).
    if error.get("code") == MISSING and not any(error.get("param") == name for name in CURSORS):
        return Trouble.NOT_FOUND
    return Trouble.REFUSED


def limiter_of(headers: Mapping[str, str], read: object) -> str | None:
    """Tell which limiter a 429 came from: the header's value; `lock_timeout`, if none but a busy object; or nobody says."""
    if (error_of(read) or {}).get("code") == LOCK_TIMEOUT:
        return LOCK_TIMEOUT
    return next((value for name, value in headers.items() if name.lower() == LIMITER_HEADER), None)


def read_failed(
    trouble: Trouble,
    operation: str,
    what: str,
    read: object,
    failure: str = "",
    *,
    key_by: str = "STRIPE_SECRET_KEY",
    request: str | None = None,
) -> GatewayError:
    """Build the error of a read, in a sentence for a support agent.

    Args:
        trouble: What kept it.
        operation: `GET /v1/charges/{charge}`.
        what: What was asked for: an id, or words.
        read: The body of the last answer.
        failure: What else is known, where no answer came.
        key_by: The variable that sets the key.
        request: The last answer's `Request-Id`, by which Stripe finds a call that it could not answer.
    """
    error = error_of(read) or {}
    told = redacted(_message(error) or failure or "its answer cannot be read")[:MESSAGE_MAX]
    # Whoever is told to look at the network looks in vain where Stripe itself has said that it could not.
    unanswered = (
        f"Stripe could not answer {operation} for {what} ({told}{f', {request}' if request else ''}): try again, and look at "
        "https://status.stripe.com if it stays so"
        if error
        else f"Stripe did not answer {operation} for {what} ({told}): check the network, then try again"
    )
    sentences = {
        Trouble.NOT_FOUND: f"Stripe does not know {what} ({told}): check the id, and that the key is of its account and mode",
        Trouble.KEY_REFUSED: f"Stripe refused the key ({told}): set {key_by} to a valid key of this account",
        Trouble.FORBIDDEN: f"the key has no right to {operation} for {what} ({told}): grant it in Stripe's Dashboard",
        Trouble.RATE_LIMITED: f"Stripe's limits kept {operation} for {what} waiting ({told}): it can be tried again later",
        Trouble.REFUSED: f"Stripe refused {operation} for {what}: {told}",
        Trouble.UNREACHABLE: unanswered,
    }
    if _code(error) == NOT_CONNECTED:
        sentences[Trouble.FORBIDDEN] = (
            f"the key does not reach this account ({told}): connect the account to the platform again, or take it out of the settings"
        )
    named = PERMISSION.search(_message(error)) if trouble is Trouble.FORBIDDEN else None
    return GatewayError(trouble, sentences[trouble], stripe_code=_code(error), permission=named[1] if named else "")


# Parts of an answer


def parsed(content: bytes) -> object:
    """Read a body; `None`, if it is not JSON."""
    try:
        read: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return read


def error_of(read: object) -> Json | None:
    """Take Stripe's error out of a body; `None`, if there is none."""
    error: Any = read.get("error") if isinstance(read, dict) else None
    return error if isinstance(error, dict) else None


def is_limited(status: int, error: Json) -> bool:
    """Tell whether a call came too fast: a 429, or a 400 as old API versions said it (stripe-facts 1)."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or (
        status == HTTPStatus.BAD_REQUEST and error.get("code") == RATE_LIMIT
    )


def _stripes_trouble(status: int) -> bool:
    # 424 is an outside system of Stripe's that failed: it says as little as a 500 (stripe-facts 2).
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.FAILED_DEPENDENCY


def _answer(status: int, headers: Mapping[str, str], error: Json | None) -> Answer:
    return Answer(
        status=status,
        code=_code(error or {}),
        message=redacted(_message(error or {}))[:MESSAGE_MAX],
        request=headers.get("request-id"),
        replayed=headers.get("idempotent-replayed", "").lower() == "true",
        date=date_of(headers),
    )


def _message(error: Json) -> str:
    message = error.get("message")
    return message if isinstance(message, str) else ""


def _code(error: Json) -> str | None:
    # A low balance has a field of its own instead of a code (stripe-facts 3.2).
    codes = (error.get(name) for name in ("code", "message_code"))
    return next((code for code in codes if isinstance(code, str)), None)


def date_of(headers: Mapping[str, str]) -> float | None:
    """Tell the time that an answer's `Date` says, in epoch seconds; `None`, if it says none."""
    return _moment(next((value for name, value in headers.items() if name.lower() == "date"), ""))


# All answers of a second carry the same text.
@lru_cache(maxsize=16)
def _moment(given: str) -> float | None:
    try:
        moment = parsedate_to_datetime(given)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "").strip()
    return min(float(text), RETRY_AFTER_MAX) if SECONDS.fullmatch(text) else None
