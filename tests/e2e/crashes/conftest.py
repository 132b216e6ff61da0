"""A Postgres server for processes to share."""

from tests.support.database import postgres

__all__ = ["postgres"]
