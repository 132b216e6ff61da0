"""Structured logs: events are `noun.past_verb`, ids are bound once, amounts are integers with a currency. Secrets are cut out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

# Stripe's keys and webhook secrets, bearer tokens, and passwords inside database addresses.
SECRETS = re.compile(
    r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9_]+|\bwhsec_[A-Za-z0-9+/=_-]+|(?i:bearer)\s+[A-Za-z0-9._~+/=-]+"
    r"|(?<=://)[^/\s:@]*:[^@\s/]+(?=@)"
)


def redacted(text: str) -> str:
    """Cut secrets out of a text; what kind of secret it was stays readable."""
    return SECRETS.sub(lambda found: found[0][:8] + "…" if found[0][2:3] == "_" else "…", text)


def _clean(value: Any) -> Any:  # noqa: ANN401  # whatever is logged
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value if isinstance(value, int | float | bool | None) else redacted(str(value))


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    return {key: _clean(value) for key, value in event.items()}


def configure(level: str, *, as_json: bool) -> None:
    """Set logging up, once for the process: to standard error, as JSON lines or for people."""
    number = logging.getLevelNamesMapping()[level.upper()]
    render: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    dated: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    written: list[Any] = [structlog.processors.format_exc_info, _redact, render]
    # What libraries log by themselves is written in the same way, tracebacks too.
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *dated],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[others])
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *dated, *written],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger() -> structlog.typing.FilteringBoundLogger:
    """Give a logger."""
    made: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return made
