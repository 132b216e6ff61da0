"""Worlds to begin with: charges from a file, or a named scenario that comes with the simulator."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import orjson

from stripesim import cards, ids
from stripesim.clock import midnight_after
from stripesim.money import SUPPORTED
from stripesim.params import KEY_MAX, KEYS_MAX, VALUE_MAX
from stripesim.resources.charges import fee_of
from stripesim.store import Doc
from stripesim.world import Scope, World

NAMED = {"online-retail": "online_retail/charges.csv"}
IGNORED = {"online-retail": {"country", "lines"}}
COLUMNS = {"order_id", "created", "customer", "amount_minor", "currency", "card", "captured", "description", "refund"}
PLAIN = frozenset({"created", "amount_minor", "currency", "card", "captured", "refund"})
# Rows that are written together. What is longer than one slice, and finds nothing there, is written without indexes first.
SLICE = 2_000
LOADED = ("charge", "payment_intent", "balance_transaction")
AMOUNT_MAX = 99_999_999_999
AMOUNT = re.compile(r"\d{1,11}", re.ASCII)
EPOCH = re.compile(r"\d{9,10}", re.ASCII)


class BadScenario(Exception):  # noqa: N818  # its message names the line, the column and the reason
    """A file or row that cannot be taken; nothing of it was."""


@dataclass(slots=True)
class Batch:
    """Rows that are written together."""

    charges: list[tuple[Any, ...]] = field(default_factory=list)
    intents: list[tuple[Any, ...]] = field(default_factory=list)
    transactions: list[tuple[Any, ...]] = field(default_factory=list)
    metadata: list[tuple[Any, ...]] = field(default_factory=list)


def load(world: World, scope: Scope, source: str | Path) -> int:
    """Load charges that went through in the past; no events are made for them.

    Args:
        world: Where to.
        scope: The account that was paid.
        source: A named scenario, or a CSV file with the columns `amount_minor`, `currency` and optionally `created`
            (ISO 8601 or epoch seconds), `order_id`, `customer`, `card`, `captured`, `description`, `refund` and
            `metadata.*`.

    Returns:
        How many charges were loaded.

    Raises:
        BadScenario: What is wrong in which line and column; the caller's transaction undoes the rest.
    """
    ignored = IGNORED.get(str(source), set())
    with _opened(source) as path:
        return load_rows(world, scope, _rows(path, ignored))


@contextmanager
def _opened(source: str | Path) -> Iterator[Path]:
    if isinstance(source, str):
        if source not in NAMED:
            raise BadScenario(f"there is no scenario '{source}'; there are {', '.join(NAMED)}")
        with as_file(files("stripesim.scenarios").joinpath(NAMED[source])) as path:
            yield path
    else:
        yield source


def _rows(path: Path, ignored: set[str]) -> Iterator[tuple[str, Doc]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from rows_of(file, ignored)
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(f"cannot be read as CSV in UTF-8: {error}") from error


def rows_of(text: Iterable[str], ignored: AbstractSet[str] = frozenset()) -> Iterator[tuple[str, Doc]]:
    """Read CSV: each row with the name of its line; empty cells, and the columns to ignore, are left out.

    Raises:
        BadScenario: The line, and the column where one can be named.
    """
    reader = csv.reader(text, strict=True)
    try:
        names = next(reader, [])
        _check_header(names, ignored)
        width, wanted = len(names), [(at, name) for at, name in enumerate(names) if name not in ignored]
        for cells in reader:
            if not cells:
                continue
            place = f"line {reader.line_num}"
            if len(cells) > width:
                raise BadScenario(f"{place}: has more cells than the header has columns")
            if len(cells) < width:
                raise BadScenario(f"{place}: column {names[len(cells)]} is missing, the line ends before it")
            yield place, {name: cells[at] for at, name in wanted if cells[at]}
    except csv.Error as error:
        raise BadScenario(f"line {reader.line_num}: cannot be read as CSV: {error}") from error


def _check_header(names: Sequence[str] | None, ignored: AbstractSet[str]) -> None:
    if not names:
        raise BadScenario("line 1: is empty; it should name the columns")
    for name in names:
        if names.count(name) > 1:
            raise BadScenario(f"line 1: column {name} is there twice")
        if name not in COLUMNS | ignored and not name.startswith("metadata."):
            raise BadScenario(f"line 1: {_unknown(name)}")
    for name in ("amount_minor", "currency"):
        if name not in names:
            raise BadScenario(f"line 1: column {name} is missing")


def _unknown(name: str) -> str:
    return f"column {name} is not known; there are {', '.join(sorted(COLUMNS))} and metadata.*"


def load_rows(world: World, scope: Scope, rows: Iterable[tuple[str, Doc]]) -> int:
    """Load charges row by row; each row comes with the name of its place, for messages."""
    loader, fresh = _Loader(world, scope), world.store.empty(*LOADED)
    count = 0
    with ExitStack() as stack:
        for place, row in rows:
            loader.add(place, row)
            count += 1
            if count % SLICE == 0:
                if fresh and count == SLICE:
                    stack.enter_context(world.store.loading(*LOADED))
                loader.write()
        loader.write()
    loader.close()
    return count


class _Loader:
    """Writes many charges at once: the rows that `charges.make` would write, without its events and jobs."""

    def __init__(self, world: World, scope: Scope) -> None:
        self.world, self.scope = world, scope
        self.batch = Batch()
        self.customers: dict[str, str] = {}
        self.sums: dict[tuple[str, int], int] = {}
        self.now = world.clock.seconds()
        self.stem = ids.series(world.seed, "loaded", length=15)
        self.charge_rest = ids.series(world.seed, "lc", length=7)
        self.intent_rest = ids.series(world.seed, "lp", length=8)

    def add(self, place: str, row: Doc) -> None:
        checked = _checked(place, row, self.now)
        store = self.world.store
        seq, intent_seq = store.number("charge"), store.number("payment_intent")
        row_seq = store.number("balance_transaction")
        stem = "3" + self.stem(seq)
        charge_id, intent_id = f"ch_{stem}0{self.charge_rest(seq)}", f"pi_{stem}{self.intent_rest(seq)}"
        customer = self._customer(checked.pop("customer", None), checked["created"])
        captured, created, amount, metadata = (
            checked["captured"],
            checked["created"],
            checked["amount"],
            checked["metadata"],
        )
        charge: Doc = {
            "id": charge_id,
            "amount_captured": amount if captured else 0,
            "payment_intent": intent_id,
            **checked,
        }
        intent: Doc = {
            "id": intent_id,
            "created": created,
            "amount": amount,
            "currency": checked["currency"],
            "latest_charge": charge_id,
            "metadata": metadata,
            "status": "succeeded" if captured else "requires_capture",
        }
        if captured:
            intent["amount_received"] = amount
        else:
            intent |= {"amount_capturable": amount, "capture_method": "manual"}
        if customer:
            charge["customer"] = intent["customer"] = customer
        if captured:
            charge["balance_transaction"] = self._transaction(row_seq, charge)
        number = self.scope.number
        self.batch.charges.append((seq, charge_id, number, created, orjson.dumps(charge), customer, intent_id, None))
        self.batch.intents.append((intent_seq, intent_id, number, created, orjson.dumps(intent), customer))
        for key, value in metadata.items():
            self.batch.metadata.append(("charge", number, key, value, seq, 0.0))
            self.batch.metadata.append(("payment_intent", number, key, value, intent_seq, 0.0))

    def _customer(self, name: str | None, created: int) -> str | None:
        if name is None:
            return None
        if (known := self.customers.get(name)) is None:
            doc = self.world.add(
                "customer", self.scope, {"created": created, "description": name, "metadata": {"customer": name}}
            )
            known = self.customers[name] = doc["id"]
        return known

    def _transaction(self, seq: int, charge: Doc) -> str:
        world = self.world
        amount, currency, rate = world.settled(self.scope, charge["amount"], charge["currency"])
        fee = fee_of(world, amount)
        available_on = midnight_after(charge["created"], world.settings.funds_days)
        means = cards.BY_NAME[charge.get("means", "visa")]
        detail = {
            "amount": fee,
            "application": None,
            "currency": currency,
            "description": "Stripe processing fees",
            "type": "stripe_fee",
        }
        row: Doc = {
            "id": world.new_id("balance_transaction", seq),
            "created": charge["created"],
            "amount": amount,
            "currency": currency,
            "net": amount - fee,
            "fee": fee,
            "fee_details": [detail],
            "type": "charge" if means.type == "card" else "payment",
            "reporting_category": "charge",
            "available_on": available_on,
            "rate": rate,
            "source": charge["id"],
            "description": charge.get("description"),
        }
        due = 0 if available_on <= self.now else available_on
        self.sums[currency, due] = self.sums.get((currency, due), 0) + row["net"]
        values = (seq, row["id"], self.scope.number, row["created"], orjson.dumps(row), charge["id"], row["type"])
        self.batch.transactions.append(values)
        return str(row["id"])

    def write(self) -> None:
        store, batch = self.world.store, self.batch
        store.db.executemany(store.insertion("charge"), batch.charges)
        store.db.executemany(store.insertion("payment_intent"), batch.intents)
        store.db.executemany(store.insertion("balance_transaction"), batch.transactions)
        store.db.executemany("INSERT INTO metadata VALUES (?,?,?,?,?,?)", batch.metadata)
        self.batch = Batch()

    def close(self) -> None:
        for (currency, due), net in self.sums.items():
            self.world.credit(self.scope, currency, net, due)


def _checked(place: str, row: Doc, now: int) -> Doc:
    metadata: Doc = {}
    if not row.keys() <= COLUMNS:
        if unknown := sorted(name for name in row if name not in COLUMNS and not name.startswith("metadata.")):
            raise BadScenario(f"{place}: {_unknown(unknown[0])}")
        metadata = {name.removeprefix("metadata."): row[name] for name in row if name.startswith("metadata.")}
    _check_texts(place, row)
    if "order_id" in row:
        metadata["order_id"] = str(row["order_id"])
    amount = str(row.get("amount_minor", ""))
    if not AMOUNT.fullmatch(amount) or not 0 < int(amount) <= AMOUNT_MAX:
        raise BadScenario(
            f"{place}: column amount_minor should be a whole number of minor units above 0, not '{amount}'"
        )
    currency = str(row.get("currency", "")).lower()
    if currency not in SUPPORTED:
        raise BadScenario(f"{place}: column currency should be a currency that Stripe knows, not '{currency}'")
    card = str(row.get("card", "visa"))
    if card not in cards.BY_NAME or cards.BY_NAME[card].decline:
        raise BadScenario(f"{place}: column card should name a test card or method, not '{card}'")
    captured = str(row.get("captured", "true")).lower()
    if captured not in {"true", "false"}:
        raise BadScenario(f"{place}: column captured should be true or false, not '{captured}'")
    doc: Doc = {
        "created": _time(place, row.get("created"), now),
        "amount": int(amount),
        "currency": currency,
        "captured": captured == "true",
        "metadata": metadata,
    }
    if card != "visa":
        doc["means"] = card
    if "refund" in row:
        doc["refund_behaviour"] = refund = str(row["refund"])
        if refund not in cards.WAYS:
            raise BadScenario(f"{place}: column refund should be one of {', '.join(cards.WAYS)}, not '{refund}'")
    for name in ("customer", "description"):
        if name in row:
            doc[name] = str(row[name])
    return doc


def _check_texts(place: str, row: Doc) -> None:
    """Check the columns that are taken as they are, by Stripe's own limits."""
    for name, value in row.items():
        if name in PLAIN:
            continue
        words = name.startswith("metadata.") or name in {"order_id", "customer", "description"}
        if words and not (isinstance(value, str) or (name in {"order_id", "customer"} and type(value) is int)):
            raise BadScenario(f"{place}: column {name} should be text")
        if words and len(str(value)) > VALUE_MAX:
            raise BadScenario(f"{place}: column {name} should have at most {VALUE_MAX} characters")
        key = name.removeprefix("metadata.")
        if name != key and (not key or len(key) > KEY_MAX or "[" in key or "]" in key):
            raise BadScenario(
                f"{place}: column {name} should name a key of 1 to {KEY_MAX} characters, without brackets"
            )
    if len(row) > KEYS_MAX and sum(name.startswith("metadata.") or name == "order_id" for name in row) > KEYS_MAX:
        raise BadScenario(f"{place}: column metadata.*: a charge has at most {KEYS_MAX} of them")


def _time(place: str, given: Any, now: int) -> int:  # noqa: ANN401  # a cell, or JSON from outside
    if given is None:
        return now
    text = str(given)
    if EPOCH.fullmatch(text):
        created = int(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise BadScenario(f"{place}: column created should be ISO 8601 or epoch seconds, not '{text}'") from error
        created = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if not 0 <= created <= now:
        raise BadScenario(
            f"{place}: column created should lie between 1970 and the clock's present ({now}), not '{text}'"
        )
    return created
