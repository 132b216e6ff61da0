"""No secret reaches a log, by whichever way it came."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from decimal import Decimal

import pytest
from starlette.applications import Starlette

from refundry.infra import logs
from refundry.infra.logs import configure, logger, redacted
from refundry.web.listening import config_of
from tests.support.logs import set_back as logs_set_back

pytestmark = pytest.mark.unit

SECRET = "4eC39HqLyjWDarjt"
TEXTS = (
    f"sk_test_{SECRET}", f"sk_live_{SECRET}", f"rk_live_{SECRET}", f"pk_test_{SECRET}", f"whsec_{SECRET}",
    f"whsec_{SECRET}+/=", f"Bearer {SECRET}", f"bearer  {SECRET}", f"Authorization: Bearer sk_live_{SECRET}",
    f"postgresql+psycopg://ada:{SECRET}@host/db", f"postgres://:{SECRET}@host/db", f"key=sk_test_{SECRET}, and so on",
)  # fmt: skip


@pytest.fixture(autouse=True)
def set_back() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers = before
    root.setLevel(level)
    logs_set_back()


def alone() -> None:
    """Take away the handlers of the test runner, which set-up would leave in charge."""
    logging.getLogger().handlers = []


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_is_cut_out_of_a_text(text: str) -> None:
    assert SECRET not in redacted(text)
    assert "…" in redacted(text)


@pytest.mark.parametrize(
    "text", ["ch_3Q8fsk_test", "re_1", "task_test", "https://host/path", "a bearer", "sk_test_", ""]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_what_kind_of_secret_it_was_stays_readable() -> None:
    assert redacted(f"sk_live_{SECRET} whsec_{SECRET}") == "sk_live_… …"
    assert redacted(f"postgres://ada:{SECRET}@host/db") == "postgres://…@host/db"


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_no_secret_reaches_a_log(capsys: pytest.CaptureFixture[str], text: str, as_json: bool) -> None:  # noqa: FBT001
    alone()
    configure("info", as_json=as_json)
    log = logger().bind(account=text)
    log.info("call.sent", told=text, inside={"headers": [text, (text,)]}, odd=ValueError(text), number=Decimal(1))
    try:
        fail(text)
    except ValueError:
        log.exception("call.failed")
    logging.getLogger("sqlalchemy.pool").error("lost %s", text)
    try:
        fail(text)
    except ValueError:
        logging.getLogger("aiohttp").exception("failed")
    written = capsys.readouterr()
    assert SECRET not in written.err + written.out
    assert "call.sent" in written.err
    assert "call.failed" in written.err
    assert "lost" in written.err


def test_a_log_is_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    logger().info("refund.settled", request="r-1", amount_minor=1000, currency="gbp", ok=True, nothing=None)
    told = json.loads(capsys.readouterr().err)
    assert (told["event"], told["request"], told["amount_minor"], told["ok"], told["nothing"]) == (
        "refund.settled", "r-1", 1000, True, None)  # fmt: skip
    assert told["level"] == "info"
    assert told["timestamp"].endswith("Z")


def test_what_libraries_log_is_one_json_object_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    alone()
    configure("info", as_json=True)
    logging.getLogger("opentelemetry.sdk").warning("lost %s", "spans")
    try:
        fail("in two\nlines")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["logger"], first["level"]) == ("lost spans", "opentelemetry.sdk", "warning")
    assert first["timestamp"].endswith("Z")
    assert "ValueError: in two\nlines" in second["exception"]


def test_no_secret_of_a_call_that_the_web_server_could_not_answer_reaches_a_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone()
    configure("info", as_json=True)
    config_of(Starlette())
    try:
        fail(f"sk_test_{SECRET}")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    assert "sk_test_…" in json.loads(capsys.readouterr().err)["exception"]


@pytest.mark.parametrize(("level", "seen"), [("debug", True), ("info", True), ("warning", False), ("error", False)])
def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str], level: str, seen: bool) -> None:  # noqa: FBT001
    configure(level, as_json=True)
    logger().info("call.sent")
    assert bool(capsys.readouterr().err) is seen


def test_the_pattern_finds_nothing_in_ids() -> None:
    assert logs.SECRETS.search("ch_3Q8f re_1 pi_1 acct_1|test req_1 8d3f2c10-aaaa.1") is None
