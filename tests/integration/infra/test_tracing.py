"""Traces reach an OTLP receiver: one for each refund request, with Stripe's request id and without a secret."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from refundry.infra import tracing
from refundry.kernel.errors import RefundryError
from refundry.kernel.outcome import Answer, NotTaken, NotTakenWhy, Unknown
from tests.support.server import Server

pytestmark = pytest.mark.integration
KEY = "sk_test_sim"
STEPS = {"refund_request", "look", "decide", "wait_for_slot", "send", "record"}


class Receiver:
    """An OTLP receiver on loopback."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        received = self.bodies

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Span]:
        told = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for one in told
            for resource in one.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def attributes(span: Span) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_each_request_has_a_trace_of_its_own_id_with_stripes_request_id_and_no_secret(
    receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "refunds.csv"
    with Server(start=None) as stripe:
        charges = [{"order_id": f"o{at}", "amount_minor": 10_000, "currency": "gbp"} for at in range(3)]
        stripe.control("POST /_sim/settings", {"opening_balance": 10**9})
        stripe.control("POST /_sim/load", {"charges": charges})
        file.write_text("order_id,amount,reason\n" + "".join(f"o{at},1.00,requested_by_customer\n" for at in range(3)))
        told = subprocess.run(  # noqa: S603  # our own program
            [sys.executable, "-m", "refundry", "batch", "run", str(file), "--yes", "--json"],
            env={
                "STRIPE_SECRET_KEY": KEY, "REFUNDRY_STRIPE__API_BASE": stripe.url, "REFUNDRY_STATE_DIR": str(tmp_path / "state"),
                # Each charge is looked at again: what is decided by an older look is decided before its trace begins.
                "REFUNDRY_PAY__LOOK_MAX_AGE": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret",
            },
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert json.loads(told.stdout)["paid"] == 3
    spans = receiver.spans()
    roots = [span for span in spans if not span.parent_span_id]
    sends = [attributes(span) for span in spans if span.name == "send"]
    assert len(roots) == len({span.trace_id for span in spans}) == len(sends) == 3
    assert {span.name for span in spans} == STEPS
    for root in roots:
        named = attributes(root)
        assert str(named["refundry.request"]).replace("-", "") == root.trace_id.hex()
        assert str(named["refundry.charge"]).startswith("ch_")
    for send in sends:
        assert str(send["stripe.request_id"]).startswith("req_")
        assert str(send["stripe.refund"]).startswith("re_")
        assert (send["refundry.attempt"], send["refundry.outcome"], send["http.response.status_code"]) == (
            1,
            "Accepted",
            200,
        )
    assert all(secret not in body for body in receiver.bodies for secret in (KEY.encode(), b"s3cret"))


async def test_an_outcome_that_is_no_refund_and_an_error_are_told_by_their_codes_only(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{receiver.url}/v1/traces")
    traced = tracing.started(receiver.url, "test")
    request = "11111111-1111-5111-8111-111111111111"

    async def gives(outcome: object) -> object:
        return outcome

    async def fails() -> None:
        raise RefundryError(f"something with {KEY} in it", code="stopped_short")

    limited = NotTaken(NotTakenWhy.RATE_LIMITED, Answer(429, request="req_1"), limiter="endpoint-rate")
    await traced.of("send", gives(limited), request=request)
    await traced.of("send", gives(Unknown("timeout", Answer(message=f"no answer to {KEY}"))))
    with pytest.raises(RefundryError):
        await traced.of("record", fails())
    await traced.close()
    first, second, third = [attributes(span) for span in receiver.spans()]
    assert (first["refundry.code"], first["stripe.limiter"], first["stripe.request_id"]) == (
        "rate_limited", "endpoint-rate", "req_1",
    )  # fmt: skip
    assert (second["refundry.outcome"], second["refundry.code"]) == ("Unknown", "timeout")
    assert third["error.type"] == "stopped_short"
    assert receiver.spans()[2].status.code == Status.STATUS_CODE_ERROR
    assert KEY.encode() not in receiver.bodies[0]
    assert len({span.trace_id for span in receiver.spans()}) == 1


async def test_work_that_is_not_traced_is_the_very_work() -> None:
    async def works() -> int:
        return 7

    work = works()
    assert tracing.started(None, "test") is tracing.OFF
    assert tracing.OFF.of("send", work, attempt=1) is work
    assert await work == 7
    await tracing.OFF.close()


def test_nothing_of_it_is_loaded_where_no_address_is_set() -> None:
    code = "import sys, refundry.worker.main, refundry.bootstrap; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603  # our own program


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, {"service.name": "refundry", "deployment.environment.name": "test"}),
        ({"OTEL_SERVICE_NAME": "desk"}, {"service.name": "desk", "deployment.environment.name": "test"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=eu,deployment.environment.name=staging,team=a"},
            {"service.name": "eu", "deployment.environment.name": "staging", "team": "a"},
        ),
    ],
)
async def test_what_opentelemetrys_own_variables_say_wins(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: dict[str, str]
) -> None:
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **variables}.items():
        monkeypatch.setenv(name, value)
    traced = tracing.started(receiver.url, "test")

    async def works() -> None:
        """Do nothing."""

    await traced.of("send", works(), request="11111111-1111-5111-8111-111111111111")
    await traced.close()
    (told,) = (ExportTraceServiceRequest.FromString(body).resource_spans[0].resource for body in receiver.bodies)
    resource = {one.key: one.value.string_value for one in told.attributes}
    assert {name: resource.get(name) for name in named} == named
    assert resource["service.version"]


def test_an_address_without_a_scheme_traces_nothing() -> None:
    assert tracing.started("localhost:4318", "test") is tracing.OFF


async def test_a_receiver_that_is_away_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.05)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    traced = tracing.started("http://127.0.0.1:9", "test")

    async def works() -> None:
        """Do nothing."""

    await traced.of("send", works(), request="11111111-1111-5111-8111-111111111111")
    await traced.close()
