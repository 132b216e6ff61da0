"""The simulator's memory: one SQLite file, a table for each kind of object.

A row is a compact JSON document (only what differs from the kind's template) beside the columns that lists filter by, so
that a page costs the same at any depth and a million charges stay small. It owns transactions and nothing of meaning.

Commits are written to the file without waiting for the disk (`synchronous=OFF`): what was acknowledged survives the death
of the process, not of the machine. A simulator needs no more.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

Doc = dict[str, Any]
VERSION = 2
# A commit walks all pages that are cached whenever a page of a table or index was split, so more memory costs more than it
# saves: the system's own cache of the file is as near. Loading is one commit, and much of it lands anywhere.
CACHE_KIB, LOADING_CACHE_KIB = 4_096, 131_072
FIXED = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scope (scope INTEGER PRIMARY KEY, account TEXT NOT NULL, livemode INTEGER NOT NULL,
  settings TEXT NOT NULL, UNIQUE (account, livemode));
CREATE TABLE IF NOT EXISTS api_key (secret TEXT PRIMARY KEY, scope INTEGER NOT NULL, permissions TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS idempotency (scope INTEGER NOT NULL, key TEXT NOT NULL, endpoint TEXT NOT NULL,
  parameters BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL, request TEXT NOT NULL, created REAL NOT NULL,
  PRIMARY KEY (scope, key));
CREATE INDEX IF NOT EXISTS idempotency_created ON idempotency (created);
CREATE TABLE IF NOT EXISTS acknowledged (request TEXT NOT NULL, original TEXT NOT NULL, parameters BLOB NOT NULL,
  object TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS job (number INTEGER PRIMARY KEY, due REAL NOT NULL, name TEXT NOT NULL, args TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS job_due ON job (due, number);
CREATE TABLE IF NOT EXISTS metadata (kind TEXT NOT NULL, scope INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  seq INTEGER NOT NULL, since REAL NOT NULL, PRIMARY KEY (kind, scope, key, value, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS balance (scope INTEGER NOT NULL, currency TEXT NOT NULL, available INTEGER NOT NULL,
  PRIMARY KEY (scope, currency)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS maturing (scope INTEGER NOT NULL, currency TEXT NOT NULL, available_on INTEGER NOT NULL,
  net INTEGER NOT NULL, PRIMARY KEY (scope, currency, available_on)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outgoing (scope INTEGER NOT NULL, currency TEXT NOT NULL, available_on INTEGER NOT NULL,
  net INTEGER NOT NULL, PRIMARY KEY (scope, currency, available_on)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivery (number INTEGER PRIMARY KEY, due REAL, event TEXT NOT NULL, endpoint TEXT NOT NULL,
  attempt INTEGER NOT NULL, status TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS delivery_event ON delivery (event);
CREATE TABLE IF NOT EXISTS delivery_try (delivery INTEGER NOT NULL, moment REAL NOT NULL, answer INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS delivery_try_delivery ON delivery_try (delivery);
CREATE TABLE IF NOT EXISTS history (kind TEXT NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, doc BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS history_id ON history (kind, id, until);
CREATE INDEX IF NOT EXISTS history_until ON history (until);
"""


FIXED_NAMES = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", FIXED)


class StateMismatch(Exception):  # noqa: N818  # the words of the message are what its reader sees
    """The state file belongs to another version of the simulator, or to something else."""


def _tables(db: sqlite3.Connection) -> set[str]:
    sql = "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite%'"
    return {name for (name,) in db.execute(sql)}


class Store:
    """Keeps documents by kind and id.

    Args:
        path: The state file, or an empty string for a private one that vanishes with the process.
        columns: For each kind, the members of a document that lists filter by.
        searchable: The kinds whose metadata is indexed for search.

    Raises:
        StateMismatch: The file at `path` is of another version.
    """

    def __init__(self, path: str, columns: dict[str, tuple[str, ...]], searchable: Iterable[str]) -> None:
        """Open the file, and make the tables that are missing."""
        self.columns = columns
        self.searchable = frozenset(searchable)
        self.path = path
        self._names = {kind: '"' + kind + '"' for kind in columns}
        self._select = {kind: f'SELECT scope, doc FROM "{kind}" WHERE id=?' for kind in columns}
        self._update = {
            kind: f'UPDATE "{kind}" SET doc=? WHERE id=?' + "".join(f' AND "{name}" IS ?' for name in names)
            for kind, names in columns.items()
        }
        self._last = "SELECT " + ", ".join(f"(SELECT max(seq) FROM {name})" for name in self._names.values())
        self._insert = {kind: self.insertion(kind) for kind in columns}
        self.rollbacks: list[Callable[[], None]] = []
        self._next: dict[str, int] = {}
        self._open()

    def _open(self) -> None:
        try:
            self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=512)
        except sqlite3.Error as error:
            raise StateMismatch(f"{self.path} cannot be opened: {error}") from error
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.db.close()
            raise StateMismatch(f"{self.path} is not a state file of stripesim: {error}") from error
        except StateMismatch:
            self.db.close()
            raise

    def _prepare(self) -> None:
        self._check_version()
        journal = "WAL" if self.path else "MEMORY"
        for pragma in ("page_size=4096", f"journal_mode={journal}", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            self.db.execute("PRAGMA " + pragma)
        self.db.executescript(FIXED)
        for kind, columns in self.columns.items():
            name = self._names[kind]
            members = "".join(f', "{column}" TEXT' for column in columns)
            self.db.execute(
                f"CREATE TABLE IF NOT EXISTS {name} (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, "
                f"scope INTEGER NOT NULL, created INTEGER NOT NULL, doc BLOB NOT NULL{members})"
            )
            self._build_indexes(kind)
        self.db.execute(f"PRAGMA user_version={VERSION}")
        self.recount()

    def _build_indexes(self, kind: str) -> None:
        name = self._names[kind]
        self.db.execute(f'CREATE UNIQUE INDEX IF NOT EXISTS "{kind}_id" ON {name} (id)')
        self.db.execute(f'CREATE INDEX IF NOT EXISTS "{kind}_page" ON {name} (scope, created, seq)')
        for column in self.columns[kind]:
            self.db.execute(
                f'CREATE INDEX IF NOT EXISTS "{kind}_{column}" ON {name} (scope, "{column}", created, seq) '
                f'WHERE "{column}" IS NOT NULL'
            )

    def empty(self, *kinds: str) -> bool:
        """Tell whether there is nothing of these kinds."""
        return not any(
            self.db.execute(f"SELECT EXISTS (SELECT 1 FROM {self._names[kind]})").fetchone()[0] for kind in kinds
        )

    @contextmanager
    def loading(self, *kinds: str) -> Iterator[None]:
        """Write very much of some kinds: their indexes go, and are built at the end, each in its own order.

        The transaction around it brings them back when it fails.
        """
        self.db.execute(f"PRAGMA cache_size=-{LOADING_CACHE_KIB}")
        try:
            for kind in kinds:
                for column in ("id", "page", *self.columns[kind]):
                    self.db.execute(f'DROP INDEX IF EXISTS "{kind}_{column}"')
            yield
            for kind in kinds:
                self._build_indexes(kind)
        finally:
            self.db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")

    def _check_version(self) -> None:
        """See whose file it is before anything is written to it."""
        found = self.db.execute("PRAGMA user_version").fetchone()[0]
        if found not in {0, VERSION}:
            text = f"{self.path} holds state of version {found}, this simulator reads {VERSION}: start with a new file"
            raise StateMismatch(text)
        if _tables(self.db) - set(FIXED_NAMES) - self.columns.keys():
            raise StateMismatch(f"{self.path} is a database of something else: start with a new file")

    def recount(self) -> None:
        """Read the next number of each kind from the tables, after a restart or a restore."""
        last = self.db.execute(self._last).fetchone()
        self._next = {kind: (number or 0) + 1 for kind, number in zip(self._names, last, strict=True)}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all that is written inside, or nothing. Inside another one it is part of that."""
        if self.db.in_transaction:
            yield
            return
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.pause()
        except BaseException:
            self._roll_back()
            raise

    @contextmanager
    def part(self) -> Iterator[None]:
        """Undo what is written inside when it fails, and go on with the transaction around it."""
        self.db.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK TO part")
            self._rolled_back()
            raise
        finally:
            self.db.execute("RELEASE part")

    def pause(self) -> None:
        """Commit what the transaction has written so far; copies are taken and put back outside of one."""
        if self.db.in_transaction:
            self.db.execute("COMMIT")

    def _roll_back(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self._rolled_back()

    def _rolled_back(self) -> None:
        self.recount()
        for tell in self.rollbacks:
            tell()

    def number(self, kind: str) -> int:
        """Take the next number of a kind: the row's place, and what its id is derived from."""
        taken = self._next[kind]
        self._next[kind] = taken + 1
        return taken

    def insert(self, kind: str, scope: int, seq: int, doc: Doc, *, since: float = 0.0) -> None:
        """Add a document under its `id` and `created`; `since` is when search begins to find it, in epoch seconds."""
        columns = self.columns[kind]
        values = (seq, doc["id"], scope, doc["created"], orjson.dumps(doc), *(doc.get(column) for column in columns))
        self.db.execute(self._insert[kind], values)
        if kind in self.searchable:
            self._index(kind, scope, seq, doc.get("metadata") or {}, since)

    def insertion(self, kind: str) -> str:
        """Write the statement that adds a row: seq, id, scope, created, doc, then the columns of the kind."""
        marks = ",?" * len(self.columns[kind])
        return f"INSERT INTO {self._names[kind]} VALUES (?,?,?,?,?{marks})"

    def _index(self, kind: str, scope: int, seq: int, metadata: dict[str, str], since: float) -> None:
        for key, value in metadata.items():
            self.db.execute(
                "INSERT OR REPLACE INTO metadata VALUES (?,?,?,?,?,?)", (kind, scope, key, value, seq, since)
            )

    def get(self, kind: str, object_id: str) -> tuple[int, Doc] | None:
        """Fetch a document and the scope it lives in."""
        row = self.db.execute(self._select[kind], (object_id,)).fetchone()
        return (row[0], orjson.loads(row[1])) if row else None

    def put(self, kind: str, doc: Doc, *, since: float = 0.0, metadata: bool = True) -> None:
        """Replace a document by its id, and its filter columns with it; `metadata` tells whether that may have changed."""
        if metadata and kind in self.searchable:
            self._reindex(kind, doc, since)
        raw, values = orjson.dumps(doc), [doc.get(column) for column in self.columns[kind]]
        if not self.db.execute(self._update[kind], (raw, doc["id"], *values)).rowcount:
            # Told apart from the statement above, since naming an indexed column there rewrites its index every time.
            sets = "".join(f', "{column}"=?' for column in self.columns[kind])
            self.db.execute(f"UPDATE {self._names[kind]} SET doc=?{sets} WHERE id=?", (raw, *values, doc["id"]))

    def _reindex(self, kind: str, doc: Doc, since: float) -> None:
        """Let search follow a change of metadata; what did not change stays as visible as it was."""
        sql = f"SELECT seq, scope, doc FROM {self._names[kind]} WHERE id=?"
        row = self.db.execute(sql, (doc["id"],)).fetchone()
        if row is None:
            return
        before, now = orjson.loads(row[2]).get("metadata") or {}, doc.get("metadata") or {}
        if before != now:
            gone = [(kind, row[1], key, value, row[0]) for key, value in before.items()]
            self.db.executemany("DELETE FROM metadata WHERE kind=? AND scope=? AND key=? AND value=? AND seq=?", gone)
            self._index(kind, row[1], row[0], now, since)

    def remove(self, kind: str, object_id: str) -> None:
        """Delete a document."""
        self.db.execute(f"DELETE FROM {self._names[kind]} WHERE id=?", (object_id,))

    def place(self, kind: str, object_id: str) -> tuple[int, int, int] | None:
        """Tell an object's scope and its place in lists: created, seq."""
        sql = f"SELECT scope, created, seq FROM {self._names[kind]} WHERE id=?"
        row: tuple[int, int, int] | None = self.db.execute(sql, (object_id,)).fetchone()
        return row

    def page(
        self,
        kind: str,
        scope: int,
        equal: dict[str, str],
        *,
        created: dict[str, int] | None = None,
        where: tuple[str, Sequence[Any]] = ("", ()),
        after: tuple[int, int] | None = None,
        before: tuple[int, int] | None = None,
        limit: int = 10,
    ) -> list[Doc]:
        """Fetch documents, newest first.

        Args:
            kind: The table.
            scope: The world.
            equal: Filter columns and their values.
            created: `gt`, `gte`, `lt`, `lte` on the time of creation, in epoch seconds.
            where: A further condition in SQL (its columns are the table's) and its values.
            after: Go on behind this place (created, seq).
            before: Stop ahead of this place; the page is the one that ends there.
            limit: How many at most.
        """
        clauses, values = ["scope=?"], [scope, *equal.values()]
        clauses += [f'"{column}"=?' for column in equal]
        for name, sign in (("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<=")):
            if created and name in created:
                clauses.append(f"created{sign}?")
                values.append(created[name])
        if after:
            clauses.append("(created, seq)<(?,?)")
            values += after
        if before:
            clauses.append("(created, seq)>(?,?)")
            values += before
        if where[0]:
            clauses.append(where[0])
            values += where[1]
        order = "ASC" if before else "DESC"
        sql = f"SELECT doc FROM {self._names[kind]} WHERE {' AND '.join(clauses)} ORDER BY created {order}, seq {order} LIMIT ?"
        rows = [orjson.loads(row[0]) for row in self.db.execute(sql, (*values, limit))]
        return rows[::-1] if before else rows

    def select(
        self, kind: str, where: str, values: Sequence[Any], *, order: str, limit: int
    ) -> list[tuple[int, int, Doc]]:
        """Fetch created, seq and document of the rows that a condition in SQL names."""
        sql = f"SELECT created, seq, doc FROM {self._names[kind]} WHERE {where} ORDER BY {order} LIMIT ?"
        return [(created, seq, orjson.loads(doc)) for created, seq, doc in self.db.execute(sql, (*values, limit))]

    def every(self, kind: str, scope: int | None = None, **equal: str) -> Iterator[Doc]:
        """Fetch all documents of a kind, oldest first; with `equal`, those whose columns have these values."""
        clauses, values = [f'"{column}"=?' for column in equal], list[Any](equal.values())
        if scope is not None:
            clauses.append("scope=?")
            values.append(scope)
        elif equal:
            # Every index begins with the scope; naming all of them lets it be used.
            clauses.append("scope IN (SELECT scope FROM scope)")
        sql = (
            f"SELECT doc FROM {self._names[kind]}"
            + " WHERE " * bool(clauses)
            + " AND ".join(clauses)
            + " ORDER BY created, seq"
        )
        for row in self.db.execute(sql, values):
            yield orjson.loads(row[0])

    def count(self, kind: str, scope: int, equal: dict[str, str], where: tuple[str, Sequence[Any]] = ("", ())) -> int:
        """Count the documents whose columns have these values; `where` is a further condition in SQL, with its values."""
        more = "".join(f' AND "{column}"=?' for column in equal) + (f" AND {where[0]}" if where[0] else "")
        sql = f"SELECT count(*) FROM {self._names[kind]} WHERE scope=?{more}"
        return int(self.db.execute(sql, (scope, *equal.values(), *where[1])).fetchone()[0])

    def meta(self, name: str) -> Any:  # noqa: ANN401  # whatever was kept
        """Read a kept value, or `None`."""
        row = self.db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return orjson.loads(row[0]) if row else None

    def keep(self, name: str, value: Any) -> None:  # noqa: ANN401  # any JSON
        """Keep a value under a name."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, orjson.dumps(value).decode()))

    def snapshot(self) -> bytes:
        """Copy the whole state."""
        copy = sqlite3.connect(":memory:")
        self.db.backup(copy)
        taken: bytes = copy.serialize()
        copy.close()
        # Bytes 18 and 19 tell that the file keeps a write-ahead log; a copy in memory has none, and could not be opened.
        return taken[:18] + b"\x01\x01" + taken[20:]

    def restore(self, taken: bytes) -> None:
        """Go back to a copied state, all of it.

        Raises:
            ValueError: These bytes are no copy of this version's state; nothing was changed.
        """
        copy = sqlite3.connect(":memory:")
        try:
            copy.deserialize(taken)
            if copy.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise ValueError(f"is not a snapshot of version {VERSION}")
            whole = copy.execute("PRAGMA quick_check").fetchone()[0] == "ok" and _tables(copy) == _tables(self.db)
            if not whole or copy.execute("SELECT count(*) FROM meta WHERE name='platform'").fetchone()[0] != 1:
                raise ValueError("is not a snapshot of a whole state")
            copy.backup(self.db)
        except sqlite3.Error as error:
            raise ValueError(f"is not a snapshot: {error}") from error
        finally:
            copy.close()
        self._rolled_back()

    def close(self) -> None:
        """Close the file."""
        self.db.close()
