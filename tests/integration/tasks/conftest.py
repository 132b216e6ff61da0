"""A shop whose money is followed, for each test."""

from tests.integration.follow.conftest import scene

__all__ = ["scene"]
