"""What tests of SQL share: both databases, migrated, and a clock that stands."""

from tests.support.database import clock, database, empty_url, postgres, postgres_address, sqlite_file

__all__ = ["clock", "database", "empty_url", "postgres", "postgres_address", "sqlite_file"]
