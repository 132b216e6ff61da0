"""Every row of the table from error to outcome, by an answer as it was captured; and what no row may ever say."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refundry.gateways.base import RefundBody, Trouble
from refundry.gateways.stripe import errors
from refundry.infra.http import refuse_inside_unit, unit_open
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.outcome import Accepted, Declined, NotTaken, NotTakenWhy, Unknown

pytestmark = pytest.mark.unit

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "contract" / "stripe" / "recorded.json").read_text(encoding="utf-8")
)
REC: dict[str, Any] = {name: (kept["status"], kept["body"]) for name, kept in RECORDED["errors"].items()}
REFUND = RECORDED["refund_create_partial_by_charge"]["body"]
SENT = RefundBody(REFUND["charge"], REFUND["amount"], "duplicate", {"p": "s05"})
DATE = "Sun, 20 Sep 2026 16:10:26 GMT"
KEY = "sk_test_51Nabcdefghijklmnop"


def refusal(status: int, message: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Write an answer that was never recorded, in the words that its source quotes."""
    return status, {"error": {"type": "invalid_request_error", "message": message, **more}}


def outcome(answer: tuple[int, Any], **headers: str) -> Any:
    status, body = answer
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return errors.outcome_of(status, {n.replace("_", "-"): v for n, v in headers.items()}, content, SENT)


# One answer per row of `DECLINED`, in its order.
ROWS: list[tuple[str, tuple[int, Any]]] = [
    ("amount_exceeds_refundable", REC["over_refund"]),
    ("charge_already_refunded", REC["already_refunded"]),
    ("charge_disputed", REC["disputed"]),
    ("charge_disputed", refusal(400, "You cannot refund a disputed payment.", code="refund_disputed_payment")),
    ("charge_not_refundable", refusal(400, "The charge is no longer refundable.", code="charge_not_refundable")),
    ("charge_uncaptured", REC["uncaptured"]),
    ("charge_failed", refusal(400, "This PaymentIntent (pi_1) does not have a successful charge to refund.")),
    (
        "charge_of_other_mode",
        refusal(
            404,
            "No such charge: 'ch_1'; a similar object exists in live mode, but a test mode key was used to make this "
            "request.",
            code="resource_missing",
            param="id",
        ),
    ),
    ("charge_unknown", REC["unknown_charge"]),
    ("parameter_refused", REC["bad_integer"]),
    ("parameter_refused", REC["unknown_parameter"]),
    ("parameter_refused", refusal(400, "Missing required param: x.", code="parameter_missing", param="x")),
    ("parameter_refused", refusal(400, "You passed an empty string.", code="parameter_invalid_empty", param="x")),
    ("parameter_refused", refusal(400, "It is blank.", code="parameter_invalid_string_blank", param="x")),
    ("parameter_refused", refusal(400, "It is empty.", code="parameter_invalid_string_empty", param="x")),
    ("parameter_refused", refusal(400, "Only one of them.", code="parameters_exclusive", param="x")),
    (
        "parameter_refused",
        refusal(
            400,
            "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer",
            param="reason",
        ),
    ),
    ("parameter_refused", REC["neither_charge_nor_intent"]),
    ("action_blocked", refusal(403, "This action is blocked.", code="action_blocked")),
    ("approval_required", refusal(400, "An approval is required.", code="approval_required", type="card_error")),
]


@pytest.mark.parametrize(("at", "code", "answer"), [(at, *row) for at, row in enumerate(ROWS)])
def test_each_row_says_its_no(at: int, code: str, answer: tuple[int, Any]) -> None:
    told = outcome(answer, Request_Id="req_1", Date=DATE)
    assert isinstance(told, Declined)
    assert told.code == code == errors.DECLINED[at].code
    assert (told.answer.status, told.answer.request, told.answer.date) == (answer[0], "req_1", 1789920626.0)
    assert told.answer.message == answer[1]["error"]["message"]
    assert told.answer.code == answer[1]["error"].get("code")
    first = next(row for row in errors.DECLINED if row.matches(answer[0], answer[1]["error"]))
    assert first is errors.DECLINED[at], "an earlier row takes this row's answer"


def test_there_is_an_answer_for_every_row() -> None:
    assert len(ROWS) == len(errors.DECLINED)


@pytest.mark.parametrize("text", ["Refund amount (£93.90) is greater than charge amount (£54.45)", ""])
def test_a_refund_above_the_rest_is_known_by_its_fields_not_its_text(text: str) -> None:
    assert outcome(refusal(400, text, param="amount")).code == "amount_exceeds_refundable"


def test_a_replayed_no_is_still_a_no_and_says_that_it_was_replayed() -> None:
    told = outcome(REC["already_refunded"], Idempotent_Replayed="true")
    assert isinstance(told, Declined)
    assert told.answer.replayed


# Not taken

LIMITED = refusal(429, "Request rate limit exceeded.", code="rate_limit")
BARE_LIMITED = refusal(429, "Request rate limit exceeded.")
LOW = refusal(
    400,
    "Insufficient funds in your Stripe balance to refund this amount.",
    message_code="insufficient_balance_for_refund",
)
WRONG_KEY = refusal(401, "Invalid API Key provided: sk_test_********************1234")
EXPIRED = refusal(401, "Expired API Key provided: sk_test_****1234", code="api_key_expired")
NO_RIGHT = refusal(403, "The provided key 'rk_test_51abc***xyz' does not have the required permissions.")
NOT_YOURS = refusal(403, "The provided key does not have access to account 'acct_1'.", code="account_invalid")


@pytest.mark.parametrize(
    ("why", "answer", "headers", "limiter"),
    [
        (NotTakenWhy.RATE_LIMITED, LIMITED, {"Stripe_Rate_Limited_Reason": "endpoint-rate"}, "endpoint-rate"),
        (NotTakenWhy.RATE_LIMITED, BARE_LIMITED, {"stripe_rate_limited_reason": "global-rate"}, "global-rate"),
        (NotTakenWhy.RATE_LIMITED, LIMITED, {}, None),
        (NotTakenWhy.RATE_LIMITED, refusal(400, "Too fast.", code="rate_limit"), {}, None),
        (NotTakenWhy.LOW_BALANCE, LOW, {}, None),
        (NotTakenWhy.LOW_BALANCE, LOW, {"Idempotent_Replayed": "true"}, None),
        (NotTakenWhy.KEY_REFUSED, WRONG_KEY, {}, None),
        (NotTakenWhy.KEY_REFUSED, EXPIRED, {}, None),
        (NotTakenWhy.KEY_REFUSED, NO_RIGHT, {}, None),
        (NotTakenWhy.KEY_REFUSED, NOT_YOURS, {}, None),
    ],
)
def test_what_stands_before_execution_is_not_taken(
    why: NotTakenWhy, answer: tuple[int, Any], headers: dict[str, str], limiter: str | None
) -> None:
    told = outcome(answer, **headers)
    assert isinstance(told, NotTaken)
    assert (told.why, told.limiter) == (why, limiter)
    assert told.answer.status == answer[0]


def test_a_low_balance_keeps_stripes_word_for_it() -> None:
    assert outcome(LOW).answer.code == "insufficient_balance_for_refund"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        (" 0.5 ", 0.5),
        ("999999", 3600.0),
        ("", None),
        ("-1", None),
        ("nan", None),
        (DATE, None),
        ("٣", None),
    ],
)
def test_retry_after_is_honoured_within_reason(text: str, seconds: float | None) -> None:
    assert outcome(LIMITED, Retry_After=text).retry_after_seconds == seconds


@pytest.mark.parametrize("answer", [LIMITED, WRONG_KEY, NO_RIGHT])
def test_a_replay_of_what_is_never_stored_is_unknown(answer: tuple[int, Any]) -> None:
    assert outcome(answer, Idempotent_Replayed="true") == Unknown(
        "unmatched", outcome(answer, Idempotent_Replayed="true").answer
    )


# Unknown

CONFLICT = refusal(409, "There is currently another in-progress request.", code="idempotency_key_in_use")
MISMATCH = refusal(400, "Keys for idempotent requests can only be used with …", type="idempotency_error")
LOCKED = refusal(429, "This object cannot be accessed right now.", code="lock_timeout")
INTERNAL = {"error": {"type": "api_error", "message": "An unknown error occurred."}}


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("conflict", CONFLICT),
        ("conflict", (409, b"")),
        ("idempotency_mismatch", MISMATCH),
        ("lock_timeout", LOCKED),
        ("stripe_error", (500, INTERNAL)),
        ("stripe_error", (503, b"<html>")),
        ("stripe_error", (424, INTERNAL)),
        ("stripe_error", (500, REC["already_refunded"][1])),
        ("unreadable", (400, b"<html>Bad Request</html>")),
        ("unreadable", (401, b"Proxy Authentication Required")),
        ("unreadable", (429, b"slow down")),
        ("unreadable", (403, {"error": "forbidden", "error_description": "by a firewall"})),
        ("unmatched", (302, {"error": {}})),
        ("unmatched", BARE_LIMITED),
        ("unmatched", refusal(402, "Your card was declined.", code="card_declined", type="card_error")),
        ("unmatched", refusal(400, "Something new.", code="charge_eaten_by_dog")),
        ("unmatched", refusal(400, "Something new.")),
        ("unmatched", refusal(404, "Unrecognized request URL (POST: /v1/refundz).")),
        ("unmatched", refusal(402, REC["disputed"][1]["error"]["message"], code="charge_disputed")),
        ("unmatched", refusal(400, "x", code="charge_disputed", type="api_error")),
        ("unreadable", (200, b"")),
        ("unreadable", (200, json.dumps(REFUND).encode()[:-40])),
        ("unreadable", (200, {})),
        ("unreadable", (200, INTERNAL)),
        ("unreadable", (200, REFUND | {"object": "charge"})),
        ("unreadable", (200, REFUND | {"charge": "ch_other"})),
        ("unreadable", (200, REFUND | {"amount": REFUND["amount"] + 1})),
        ("unreadable", (200, REFUND | {"amount": float(REFUND["amount"])})),
        ("unreadable", (204, b"")),
    ],
)
def test_everything_else_is_unknown(code: str, answer: tuple[int, Any]) -> None:
    told = outcome(answer)
    assert isinstance(told, Unknown)
    assert (told.code, told.answer.status) == (code, answer[0])


def test_a_stored_500_says_that_it_was_replayed() -> None:
    told = outcome((500, INTERNAL), Idempotent_Replayed="true", Request_Id="req_2", Date=DATE)
    assert (told.answer.replayed, told.answer.request, told.answer.date) == (True, "req_2", 1789920626.0)


# Accepted


@pytest.mark.parametrize("replayed", ["true", "false"])
def test_a_refund_of_what_was_asked_is_accepted(replayed: str) -> None:
    told = outcome((200, REFUND), Idempotent_Replayed=replayed, Request_Id="req_3")
    assert isinstance(told, Accepted)
    assert (told.refund.id, told.answer.replayed) == (REFUND["id"], replayed == "true")


@pytest.mark.parametrize("status", ["pending", "requires_action", "failed", "canceled", "something_new"])
def test_a_refund_is_accepted_whatever_its_status(status: str) -> None:
    assert outcome((200, REFUND | {"status": status})).refund.status == status


# No answer

HOST = ConnectionKey("api.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    "failure",
    [
        aiohttp.ClientConnectorError(HOST, OSError(errno.ECONNREFUSED, "refused")),
        aiohttp.ClientConnectorDNSError(HOST, OSError(-2, "Name or service not known")),
        aiohttp.ClientConnectorCertificateError(HOST, ValueError("certificate has expired")),
        aiohttp.ConnectionTimeoutError("Connection timeout to host"),
    ],
)
def test_no_connection_is_unsent(failure: Exception) -> None:
    told = errors.outcome_of_failure(failure)
    assert isinstance(told, NotTaken)
    assert told.why is NotTakenWhy.UNSENT


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TimeoutError(), "timeout"),
        (aiohttp.ServerTimeoutError("timeout"), "timeout"),
        (aiohttp.SocketTimeoutError("timeout"), "timeout"),
        (aiohttp.ServerDisconnectedError(), "connection_lost"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), "connection_lost"),
        (aiohttp.ClientPayloadError("not completed"), "connection_lost"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "connection_lost"),
        (RuntimeError("whatever"), "connection_lost"),
    ],
)
def test_any_other_failure_is_unknown(failure: Exception, code: str) -> None:
    told = errors.outcome_of_failure(failure)
    assert isinstance(told, Unknown)
    assert (told.code, told.answer.status) == (code, 0)
    assert told.answer.message


# Reads


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        (None, (200, {"object": "charge"})),
        (Trouble.NOT_FOUND, REC["unknown_charge"]),
        (Trouble.NOT_FOUND, refusal(400, "No such charge: 'ch_1'", code="resource_missing", param="charge")),
        (Trouble.REFUSED, REC["bad_cursor"]),
        (Trouble.REFUSED, refusal(404, "Unrecognized request URL (GET: /v1/chargez).")),
        (Trouble.KEY_REFUSED, WRONG_KEY),
        (Trouble.FORBIDDEN, NO_RIGHT),
        (Trouble.RATE_LIMITED, LIMITED),
        (Trouble.RATE_LIMITED, LOCKED),
        (Trouble.RATE_LIMITED, refusal(400, "Too fast.", code="rate_limit")),
        (Trouble.UNREACHABLE, (500, INTERNAL)),
        (Trouble.UNREACHABLE, (424, INTERNAL)),
        (Trouble.UNREACHABLE, CONFLICT),
        (Trouble.UNREACHABLE, (200, [])),
        (Trouble.UNREACHABLE, (200, INTERNAL)),
        (Trouble.UNREACHABLE, (401, "a proxy's page")),
        (Trouble.UNREACHABLE, (404, "a proxy's page")),
    ],
)
def test_a_read_knows_its_trouble(trouble: Trouble | None, answer: tuple[int, Any]) -> None:
    assert errors.trouble_of(*answer) is trouble


@pytest.mark.parametrize("trouble", list(Trouble))
def test_a_failed_read_says_what_about_which_id_and_keeps_stripes_code(trouble: Trouble) -> None:
    error = errors.read_failed(trouble, "GET /v1/charges/{charge}", "ch_1", REC["unknown_charge"][1])
    assert (error.code, error.stripe_code) == (f"stripe_{trouble}", "resource_missing")
    assert "No such charge" in error.message
    assert trouble is Trouble.KEY_REFUSED or "ch_1" in error.message


def test_a_refused_key_is_named_by_the_variable_that_sets_it() -> None:
    usual = errors.read_failed(Trouble.KEY_REFUSED, "GET /v1/account", "the key's account", None)
    assert "set STRIPE_SECRET_KEY to" in usual.message
    setting = "REFUNDRY_ACCOUNTS__EU__SECRET_KEY"
    other = errors.read_failed(Trouble.KEY_REFUSED, "GET /v1/account", "the key's account", None, key_by=setting)
    assert f"set {setting} to a valid key" in other.message
    assert "STRIPE_SECRET_KEY" not in other.message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "Enabling \"Prices Read\" ('plan_read') permissions on this key would allow this request to continue.",
            "plan_read",
        ),
        ("The provided key 'rk_test_51abc***xyz' … Having the 'rak_charge_write' permission would", "rak_charge_write"),
        ("The provided key 'rk_live_***j4va7j' does not have the required permissions", ""),
    ],
)
def test_the_permission_that_stripe_names_is_kept(text: str, named: str) -> None:
    told = errors.read_failed(Trouble.FORBIDDEN, "GET /v1/prices", "price_1", refusal(403, text)[1])
    assert told.permission == named
    assert errors.read_failed(Trouble.REFUSED, "GET /v1/prices", "price_1", refusal(400, text)[1]).permission == ""


# Secrets

LEAKS = [KEY, "rk_live_51Nabc_DEF", f"Bearer {KEY}"]


@pytest.mark.parametrize("secret", LEAKS)
@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
def test_no_text_carries_a_secret(secret: str, status: int) -> None:
    leak = secret.rpartition(" ")[2]
    text = f"the key '{secret}' was wrong"
    told = [
        str(outcome(refusal(status, text, code="rate_limit"))),
        str(errors.outcome_of_failure(OSError(text))),
        errors.read_failed(Trouble.REFUSED, "GET /v1/refunds", "re_1", refusal(status, text)[1]).message,
        errors.read_failed(Trouble.UNREACHABLE, "GET /v1/refunds", "re_1", None, text).message,
    ]
    assert not [one for one in told if leak in one]


# The guard


def test_no_call_is_made_inside_a_transaction() -> None:
    refuse_inside_unit("POST /v1/refunds")
    token = unit_open.set(True)
    try:
        with pytest.raises(InvariantViolated, match="POST /v1/refunds") as caught:
            refuse_inside_unit("POST /v1/refunds")
    finally:
        unit_open.reset(token)
    assert caught.value.code == "network_inside_transaction"
    refuse_inside_unit("POST /v1/refunds")


# For every answer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KNOWN = [body["error"] for _, (_, body) in ROWS] + [
    body["error"] for _, body in (LIMITED, LOW, WRONG_KEY, LOCKED, MISMATCH)
]
ERRORS = st.sampled_from(KNOWN) | st.dictionaries(
    st.sampled_from(["type", "code", "param", "message", "message_code"]),
    JSON | st.sampled_from([value for error in KNOWN for value in error.values()]),
)
BODIES = (
    st.binary(max_size=60)
    | st.builds(lambda read: json.dumps(read).encode(), JSON | st.just(REFUND))
    | st.builds(lambda error: json.dumps({"error": error}).encode(), ERRORS | JSON)
)
NAMES = ["Date", "Request-Id", "Idempotent-Replayed", "Stripe-Rate-Limited-Reason", "Retry-After", "X"]
HEADERS = st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30) | st.sampled_from(["true", "2", DATE]))
STATUSES = st.sampled_from([200, 201, 302, 400, 401, 402, 403, 404, 409, 424, 429, 500, 502, 503]) | st.integers(0, 999)


@pytest.mark.property
@settings(deadline=None)  # the cores are shared
@given(status=STATUSES, headers=HEADERS, content=BODIES)
@example(status=400, headers={"Date": "Mon, 99 Foo"}, content=b'{"error":{"param":[],"code":{},"message_code":[]}}')
def test_every_answer_has_an_outcome_and_doubt_is_never_a_no(
    status: int, headers: dict[str, str], content: bytes
) -> None:
    told = errors.outcome_of(status, headers, content, SENT)
    errors.trouble_of(status, errors.parsed(content))
    errors.limiter_of(headers, errors.parsed(content))
    no = isinstance(told, Declined | NotTaken)
    if status >= 500 or status in {409, 424} or errors.error_of(errors.parsed(content)) is None:
        assert not no
    if isinstance(told, Accepted):
        assert 200 <= status < 300
        assert (told.refund.charge, told.refund.amount_minor) == (SENT.charge, SENT.amount_minor)
    assert no <= (400 <= status < 500)
