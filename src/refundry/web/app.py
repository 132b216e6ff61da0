"""The web application: `/webhooks` for Stripe, `/health` for whoever restarts processes, `/metrics` for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from refundry.kernel.errors import RefundryError
from refundry.outbox.model import Queue
from refundry.web.metrics import DeskCollector, IntakeCollector, Numbers, OutboxCollector
from refundry.web.webhooks import Intake

WELL, UNWELL = 200, 503


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the process can do its work, with what was looked at."""

    ok: bool
    facts: dict[str, object]


def app_of(
    health: Callable[[], Health],
    numbers: Callable[[], Sequence[Numbers]],
    queues: Callable[[], tuple[Mapping[str, Queue], float]],
    intake: Intake,
) -> Starlette:
    """Make the application.

    Args:
        health: Looks whether all is well; called for each request, in a thread.
        numbers: Counts each account, likewise.
        queues: Counts what order systems were not told yet, and tells the time, likewise.
        intake: Where webhooks come in.
    """
    # A registry of our own: the library's global one would give the numbers of every desk that a test opens.
    registry = CollectorRegistry()
    registry.register(DeskCollector(numbers))
    registry.register(OutboxCollector(queues))
    registry.register(IntakeCollector(intake.stored, intake.refused))

    def tell_health(_: Request) -> Response:
        seen = health()
        return JSONResponse({"ok": seen.ok, **seen.facts}, WELL if seen.ok else UNWELL)

    def tell_metrics(_: Request) -> Response:
        try:
            told = generate_latest(registry)
        except RefundryError as error:
            # Numbers that cannot be counted are left out as a whole: Prometheus tells of that by itself, as `up`.
            return PlainTextResponse(f"{error.message} [{error.code}]\n", UNWELL)
        return Response(told, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[*intake.routes, Route("/health", tell_health), Route("/metrics", tell_metrics)])
