"""Traces by OpenTelemetry, one for each refund request, where an address for them is set; without one nothing of it is loaded.

A request's trace has the request's own id, without its dashes: whoever has one finds the other, and work that is interrupted and
taken up again, by this process or another, goes on in the same trace. Spans carry ids, codes and counts, and no text.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

import refundry
from refundry.infra.logs import logger
from refundry.kernel.errors import RefundryError
from refundry.kernel.outcome import Accepted, Declined, NotTaken, Unknown

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

Result = TypeVar("Result")
Value = str | int | float | bool
# An address that does not answer must not keep a command from ending.
FLUSH_SECONDS = 5


class Tracing(Protocol):
    """Whoever traces."""

    def of(self, name: str, work: Awaitable[Result], **told: Value | None) -> Awaitable[Result]:
        """Trace a piece of work; it is awaited by the caller as it would be without.

        Args:
            name: What is done.
            work: What is awaited. Of an outcome, its kind, its code and Stripe's request id are told.
            **told: More about it. `request` is the refund request whose trace begins here; inside of that work it is left out.
        """
        ...

    async def close(self) -> None:
        """Send what was not sent yet."""
        ...


class Untraced:
    """Traces nothing."""

    def of(self, name: str, work: Awaitable[Result], **told: Value | None) -> Awaitable[Result]:  # noqa: ARG002  # the protocol's
        """Leave the work as it is."""
        return work

    async def close(self) -> None:
        """Do nothing."""


OFF = Untraced()
_request: ContextVar[str] = ContextVar("traced_request", default="")


class Traced:
    """Traces to an OpenTelemetry collector. All that can be set for it is set by OpenTelemetry's own variables.

    Args:
        provider: Makes the spans, and sends them from a thread of its own; what does not fit into its queue is dropped.
        exporter: Sends them.
    """

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        """Keep the parts."""
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("refundry", refundry.__version__)

    async def of(self, name: str, work: Awaitable[Result], **told: Value | None) -> Result:
        """Trace a piece of work."""
        request = told.get("request")
        if request is not None:
            _request.set(str(request))
        kept = {f"refundry.{key}": value for key, value in told.items() if value is not None}
        kept["refundry.request"] = _request.get()
        # What an error says is not told, only its code: a text may have anything in it.
        with self._tracer.start_as_current_span(
            name, attributes=kept, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                result = await work
            except BaseException as error:
                _failed(span, error.code if isinstance(error, RefundryError) else type(error).__name__)
                raise
            span.set_attributes(_outcome(result))
            return result

    async def close(self) -> None:
        """Send what was not sent yet, if that does not take too long: the provider alone would try for half a minute."""
        enough = threading.Timer(FLUSH_SECONDS, self._exporter.shutdown)
        enough.start()
        await asyncio.to_thread(self._provider.shutdown)
        enough.cancel()


def _failed(span: Span, code: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR)


def _outcome(result: object) -> Mapping[str, Value]:
    if not isinstance(result, Accepted | Declined | NotTaken | Unknown):
        return {}
    told: dict[str, Value | None] = {
        "refundry.outcome": type(result).__name__,
        "stripe.request_id": result.answer.request,
        "http.response.status_code": result.answer.status or None,
        "stripe.code": result.answer.code,
        "stripe.replayed": result.answer.replayed,
    }
    match result:
        case Accepted(refund=refund):
            told["stripe.refund"] = refund.id
        case Declined(code=code) | Unknown(code=code):
            told["refundry.code"] = code
        case NotTaken(why=why, limiter=limiter):
            told |= {"refundry.code": why.value, "stripe.limiter": limiter}
    return {key: value for key, value in told.items() if value is not None}


def sendable(address: str) -> bool:
    """Tell whether traces can be sent to an address: OTLP over HTTP needs to be told by which scheme."""
    return address.strip().lower().startswith(("http://", "https://"))


def started(address: str | None, mode: str) -> Tracing:
    """Begin to trace, if there is an address for traces.

    Args:
        address: As it was set; it is read again by OpenTelemetry itself, which knows what it may hold.
        mode: `live` or `test`.
    """
    if not address:
        return OFF
    if not sendable(address):
        # Traces are a help: for them nobody's refunds wait, and OpenTelemetry would tell an error for each that it cannot send.
        logger().warning("traces.off", why="the address for traces is none: write it with http:// or https://")
        return OFF
    # Together they take longer to load than all the rest of a command.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class OfRequest(RandomIdGenerator):
        """Gives a request's trace the request's own id."""

        def generate_trace_id(self) -> int:
            request = _request.get()
            return uuid.UUID(request).int if request else super().generate_trace_id()

    named = {"service.name": "refundry", "service.version": refundry.__version__, "deployment.environment.name": mode}
    # What was set by OpenTelemetry's own variables says more about this process than its program can.
    wanted = Resource(named).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=Resource.create(wanted.attributes), id_generator=OfRequest())
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traced(provider, exporter)
