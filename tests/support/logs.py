"""Logging as the tests want it: a traceback as Python writes it. To draw one with all its locals takes seconds."""

from __future__ import annotations

import structlog


def set_back() -> None:
    """Set logging to what it is before anything has set it up, but for tracebacks."""
    structlog.reset_defaults()
    processors = [
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if isinstance(processor, structlog.dev.ConsoleRenderer)
        else processor
        for processor in structlog.get_config()["processors"]
    ]
    structlog.configure(processors=processors)
