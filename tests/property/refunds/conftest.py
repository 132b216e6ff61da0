"""The migrated file that the machine's databases are copies of."""

from tests.support.database import sqlite_file

__all__ = ["sqlite_file"]
