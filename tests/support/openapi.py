"""Holds answers against Stripe's OpenAPI file (`tests/contract/stripe/openapi.core.json`)."""

from typing import Any


def check(method: str, path: str, status: int, body: Any) -> None:
    """Fail when an answer of a route that the file has does not validate."""
