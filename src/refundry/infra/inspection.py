"""The database as it is found: opened so that nothing can be changed, not even its journal, and what its settings say.

Owns what `refundry doctor` asks of a database and of the disk under it. It judges nothing, and it never waits long.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from refundry.infra.db import Database, Unit

# A database that does not answer is found out within this time, in seconds.
WAIT_SECONDS = 5
MOUNTS = Path("/proc/self/mountinfo")
# File systems whose locks or shared memory do not reach from one machine to another, or not reliably: SQLite names the first two
# itself (sqlite.org/wal.html, sqlite.org/useovernet.html); the others are of their kind.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|vboxsf|afs|ceph|glusterfs|lustre|beegfs|gpfs|ncpfs|davfs"
    r"|fuse\.(?:sshfs|s3fs|gcsfuse|rclone|glusterfs|ceph-fuse|davfs2?|blobfuse2?|juicefs|mount-s3)"
)
# Where SQLite's file header says how its journal is written (sqlite.org/fileformat.html, 1.3): 2 is the write-ahead log.
JOURNAL_AT, WRITE_AHEAD = 18, 2
MAGIC = b"SQLite format 3\x00"


class Inspected(Database):
    """A database that can only be read. Units are opened by `reading`; one that may write is refused by the database itself."""

    def _sqlite(self) -> sa.Engine:
        file = self.url.removeprefix("sqlite:///")
        # A reader of a write-ahead log leaves its shared memory behind, unless it may take the file as it stands: it may where no
        # process has the log open.
        how = "mode=ro" if Path(f"{file}-wal").exists() else "mode=ro&immutable=1"

        def opened() -> sqlite3.Connection:
            return sqlite3.connect(
                f"file:{quote(file)}?{how}",
                uri=True,
                timeout=WAIT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )

        engine = sa.create_engine(self.url, creator=opened, poolclass=sa.NullPool)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return engine

    def _postgres(self) -> sa.Engine:
        how = {"connect_timeout": WAIT_SECONDS, "options": f"-c statement_timeout={WAIT_SECONDS}s"}
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, connect_args=how)
        # Said of each transaction and not of the session, whose own default would then not be seen.
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("SET TRANSACTION READ ONLY"))
        return engine


@dataclass(frozen=True, slots=True)
class Place:
    """A place on a disk.

    Args:
        path: The path itself, or the nearest folder above it that exists.
        free_bytes: What may still be written there.
        kind: The file system's name, as `ext4` or `nfs4`; empty where the system does not tell.
    """

    path: Path
    free_bytes: int
    kind: str

    @property
    def network(self) -> bool:
        """Tell whether another machine keeps it."""
        return NETWORK.fullmatch(self.kind) is not None


def place_of(path: Path) -> Place:
    """Tell about the disk under a path, which need not exist yet."""
    there = next(at for at in (path.absolute(), *path.absolute().parents) if at.exists())
    return Place(there, shutil.disk_usage(there).free, filesystem_of(there.resolve(), MOUNTS))


def filesystem_of(path: Path, mounts: Path) -> str:
    """Tell the kind of file system that holds a path.

    Args:
        path: Absolute, without links.
        mounts: A file like `/proc/self/mountinfo` (proc(5)): the fifth field is the place, the one after ` - ` the kind.

    Returns:
        Its name; empty where that file cannot be read.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    best = (-1, "")
    for line in lines:
        place, _, kind = line.partition(" - ")
        fields, kinds = place.split(), kind.split()
        if len(fields) < 5 or not kinds:  # noqa: PLR2004  # the fields of proc(5)
            continue
        at = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        # Of two mounts on one place the later covers the earlier.
        if path.is_relative_to(at) and len(at.parts) >= best[0]:
            best = (len(at.parts), kinds[0])
    return best[1]


def written_ahead(file: Path) -> bool:
    """Tell whether an SQLite file is in write-ahead mode; this is kept in the file, and a new one is not yet."""
    with file.open("rb") as opened:
        head = opened.read(JOURNAL_AT + 2)
    return head[: len(MAGIC)] == MAGIC and head[JOURNAL_AT:] == bytes([WRITE_AHEAD] * 2)


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """What a Postgres server says of itself.

    Args:
        version: As `16.2`.
        number: The same to compare, as 160002.
        connections_max: How many it takes, without those that it keeps for administrators.
        connections_used: How many there are, this one left out.
        unsafe: Which of `synchronous_commit`, `fsync`, `full_page_writes` are off, so that a power cut takes back what was committed;
            each with who set it, as `pg_settings.source` says it.
        standby: It is a copy that only reads.
        read_only: Who set `default_transaction_read_only`, likewise; empty, where it is off.
        timezone: Its own; every time of ours is in epoch seconds.
        database: Its name, as it stands in a statement.
        role: Whom it knows us as, likewise.
        workers: Where the processes that execute are connected from, one entry each; empty text is the server's own machine.
    """

    version: str
    number: int
    connections_max: int
    connections_used: int
    unsafe: Mapping[str, str]
    standby: bool
    read_only: str
    timezone: str
    database: str
    role: str
    workers: tuple[str, ...]


_SETTINGS = """SELECT name, setting, source FROM pg_settings WHERE name IN ('server_version', 'server_version_num', 'max_connections',
 'superuser_reserved_connections', 'reserved_connections', 'synchronous_commit', 'fsync', 'full_page_writes', 'TimeZone',
 'default_transaction_read_only')"""
_USED = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
_NAMES = "SELECT quote_ident(current_database()), quote_ident(session_user)"
# Every executing process holds one advisory lock for as long as it lives (`infra/engine.py`), outside any transaction; a unit that sees a
# charge first has others (`charges.repository`).
_WORKERS = """SELECT DISTINCT l.pid, coalesce(host(a.client_addr), '') FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND a.xact_start IS NULL AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY l.pid"""


def postgres_facts(unit: Unit) -> PostgresFacts:
    """Ask a Postgres server about itself."""
    ask = unit.connection.exec_driver_sql
    rows = ask(_SETTINGS).all()
    told, source = {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}
    database, role = ask(_NAMES).one()
    kept = int(told["superuser_reserved_connections"]) + int(told.get("reserved_connections", 0))
    return PostgresFacts(
        version=told["server_version"].split()[0],
        number=int(told["server_version_num"]),
        connections_max=int(told["max_connections"]) - kept,
        connections_used=ask(_USED).scalar_one(),
        # `local` and the like are on: they wait for this server's own disk.
        unsafe={n: source[n] for n in ("synchronous_commit", "fsync", "full_page_writes") if told[n] == "off"},
        standby=ask("SELECT pg_is_in_recovery()").scalar_one(),
        read_only=source["default_transaction_read_only"] if told["default_transaction_read_only"] == "on" else "",
        timezone=told["TimeZone"],
        database=database,
        role=role,
        workers=tuple(row[1] for row in ask(_WORKERS)),
    )
