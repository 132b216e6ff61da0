"""Stripe's search query language, turned into SQL conditions (docs.stripe.com/search).

`status:'succeeded' AND metadata['order_id']:'536365'`, `amount>1000`, `-currency:'eur'`, `description~'order'`,
`metadata['k']:null`. AND and OR cannot be mixed. Metadata is found by an index, whatever the number of objects.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from stripesim import cards
from stripesim.errors import refused
from stripesim.store import Doc, Store

TOKEN = re.compile(
    r"""\s*(?:(?P<word>AND|OR)(?![\w.\[])|(?P<minus>-)?(?P<field>[a-z_0-9.]+)(?:\[(?P<quote>["'])(?P<key>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\])?
    \s*(?P<op>[:~]|[<>]=?)\s*(?:(?P<open>["'])(?P<text>(?:\\.|(?!(?P=open)).)*)(?P=open)|(?P<bare>-?\d+|null|true|false)(?![\w.])))""",
    re.VERBOSE | re.DOTALL,
)
# A field is a word, a number, or a truth; a card's member is read off its means.
TEXT, NUMBER, TRUTH, CARD, MAP = "text", "number", "truth", "card", "map"
CARD_MEMBERS = ("brand", "last4", "country", "funding")
FIELDS: dict[str, dict[str, str]] = {
    "charge": {
        "amount": NUMBER,
        "created": NUMBER,
        "currency": TEXT,
        "customer": TEXT,
        "disputed": TRUTH,
        "metadata": MAP,
        "refunded": TRUTH,
        "status": TEXT,
        **{f"payment_method_details.card.{member}": CARD for member in CARD_MEMBERS},
    },
    "payment_intent": {
        "amount": NUMBER,
        "created": NUMBER,
        "currency": TEXT,
        "customer": TEXT,
        "metadata": MAP,
        "status": TEXT,
    },
    "customer": {"created": NUMBER, "email": TEXT, "metadata": MAP, "name": TEXT, "phone": TEXT},
}
# What a document leaves out because it is the rule.
DEFAULTS = {("charge", "status"): "succeeded", ("payment_intent", "status"): "requires_payment_method"}
REFUNDED = "(json_extract({doc}, '$.amount_refunded')>=json_extract({doc}, '$.amount_captured') AND json_extract({doc}, '$.captured'))"
JSON = "CAST(doc AS TEXT)"
QUERY_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Clause:
    """One comparison: `-field[key] op value`."""

    negated: bool
    field: str
    key: str | None
    op: str
    value: str | None
    quoted: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """A query as SQL, its values, and whether an index of metadata narrows it to few rows."""

    sql: str
    values: list[Any]
    narrow: bool


def parsed(query: str) -> tuple[str, list[Clause]]:
    """Read a query into its word, AND or OR, and its clauses.

    Raises:
        StripeError: 400 in the manner of Stripe, saying where it stops making sense.
    """
    clauses: list[Clause] = []
    words: set[str] = set()
    at, expect = 0, True
    text = query.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None or bool(match["word"]) == expect:
            raise _bad(f"We were unable to parse your search query, near: {text[at : at + 40].strip()}")
        if match["word"]:
            words.add(match["word"])
        else:
            quoted = match["open"] is not None
            value = re.sub(r"\\(.)", r"\1", match["text"]) if quoted else match["bare"]
            key = re.sub(r"\\(.)", r"\1", match["key"]) if match["key"] is not None else None
            clauses.append(Clause(match["minus"] is not None, match["field"], key, match["op"], value, quoted))
        at, expect = match.end(), bool(match["word"])
    if expect:
        raise _bad("We were unable to parse your search query: it is empty or ends too early.")
    if len(words) > 1:
        raise _bad("Queries cannot mix AND and OR clauses.")
    return (words.pop() if words else "AND"), clauses


def _bad(text: str) -> Exception:
    return refused("query", text + " See https://stripe.com/docs/search#query-language for the query language.")


def condition(kind: str, scope: int, query: str, now: float) -> Condition:
    """Turn a query into SQL.

    Args:
        kind: What is searched.
        scope: The world.
        query: Stripe's query language.
        now: Metadata written after this moment is not found yet.
    """
    if len(query) > QUERY_MAX:
        raise _bad("Your search query is too long.")
    word, clauses = parsed(query)
    parts = [_clause(kind, scope, clause, now) for clause in clauses]
    named = [c.field == "metadata" and c.op == ":" and c.quoted and not c.negated for c in clauses]
    narrow = any(named) if word == "AND" else all(named)
    sql = "(" + f" {word} ".join(sql for sql, _ in parts) + ")"
    return Condition(sql, [value for _, values in parts for value in values], narrow)


def _clause(kind: str, scope: int, clause: Clause, now: float) -> tuple[str, list[Any]]:
    sort = FIELDS[kind].get(clause.field)
    if sort is None or (sort == MAP) != (clause.key is not None):
        raise _bad(f"Field '{clause.field}' is an unsupported search field for resource '{kind}s'.")
    sql, values = {MAP: _map, NUMBER: _number, TRUTH: _truth, CARD: _card, TEXT: _text}[sort](kind, scope, clause, now)
    if sort == MAP and not clause.negated:
        # Never null, and bare, so that the rows which the metadata names drive the query.
        return sql, values
    return (f"NOT coalesce({sql}, 0)" if clause.negated else f"coalesce({sql}, 0)"), values


def _map(kind: str, scope: int, clause: Clause, now: float) -> tuple[str, list[Any]]:
    rows = "seq IN (SELECT seq FROM metadata WHERE kind=? AND scope=? AND key=? AND since<=?"
    values = [kind, scope, clause.key, now]
    if clause.op == ":" and not clause.quoted and clause.value == "null":
        return f"(NOT {rows}))", values
    if clause.op == ":":
        # The value stands ahead of the row in the index, so this is one look-up.
        return "seq IN (SELECT seq FROM metadata WHERE kind=? AND scope=? AND key=? AND value=? AND since<=?)", [
            kind,
            scope,
            clause.key,
            clause.value,
            now,
        ]
    if clause.op == "~" and clause.quoted:
        return f"{rows} AND instr(lower(value), lower(?))>0)", [*values, clause.value]
    raise _bad("Metadata can be compared with : and ~ only.")


def _number(_: str, __: int, clause: Clause, ___: float) -> tuple[str, list[Any]]:
    if clause.op == "~" or not re.fullmatch(r"-?\d{1,15}", clause.value or "", re.ASCII):
        raise _bad(f"Field '{clause.field}' takes :, <, >, <=, >= and a whole number.")
    sign = "=" if clause.op == ":" else clause.op
    column = "created" if clause.field == "created" else f"json_extract({JSON}, '$.{clause.field}')"
    return f"{column}{sign}?", [int(clause.value or 0)]


def _truth(_: str, __: int, clause: Clause, ___: float) -> tuple[str, list[Any]]:
    if clause.op != ":" or clause.value not in {"true", "false"}:
        raise _bad(f"Field '{clause.field}' takes : and 'true' or 'false'.")
    member = REFUNDED.format(doc=JSON) if clause.field == "refunded" else f"json_extract({JSON}, '$.{clause.field}')"
    return f"coalesce({member}, 0)=?", [int(clause.value == "true")]


def _card(_: str, __: int, clause: Clause, ___: float) -> tuple[str, list[Any]]:
    if clause.op != ":" or not clause.quoted:
        raise _bad(f"Field '{clause.field}' takes : and a quoted text.")
    member = clause.field.rsplit(".", 1)[1]
    names = [
        name for name, means in cards.BY_NAME.items() if means.type == "card" and getattr(means, member) == clause.value
    ]
    return f"coalesce(json_extract({JSON}, '$.means'), 'visa') IN ({','.join('?' * len(names))})", names


def _text(kind: str, _: int, clause: Clause, __: float) -> tuple[str, list[Any]]:
    default = DEFAULTS.get((kind, clause.field))
    member = f"json_extract({JSON}, '$.{clause.field}')"
    column = f"coalesce({member}, '{default}')" if default else member
    if clause.op == ":" and not clause.quoted and clause.value == "null":
        return f"{column} IS NULL", []
    if not clause.quoted or clause.op not in {":", "~"}:
        raise _bad(f"Field '{clause.field}' takes :, ~ and a quoted text.")
    if clause.op == "~":
        return f"instr(lower({column}), lower(?))>0", [clause.value]
    return f"lower({column})=lower(?)", [clause.value]


def found(
    store: Store, kind: str, scope: int, wanted: Condition, *, before: int, after: tuple[int, int] | None, limit: int
) -> list[tuple[int, int, Doc]]:
    """Fetch matching rows, newest first: created, seq, document.

    Args:
        store: Where.
        kind: What.
        scope: The world.
        wanted: The query.
        before: Only what was created by then, in epoch seconds.
        after: Go on behind this place.
        limit: How many at most.
    """
    # The plus keeps the order's index out of the plan, so that the few rows which the metadata names are looked up.
    plus = "+" if wanted.narrow else ""
    clauses, values = [f"{plus}scope=?", f"{plus}created<=?", wanted.sql], [scope, before, *wanted.values]
    if after:
        clauses.append(f"({plus}created, {plus}seq)<(?,?)")
        values += after
    return store.select(kind, " AND ".join(clauses), values, order=f"{plus}created DESC, {plus}seq DESC", limit=limit)


def page_of(place: tuple[int, int]) -> str:
    """Write a place as the opaque `next_page`."""
    return base64.urlsafe_b64encode(f"{place[0]}.{place[1]}".encode()).decode()


def place_of(page: str) -> tuple[int, int]:
    """Read a `next_page`.

    Raises:
        StripeError: 400, if it is not one of ours.
    """
    try:
        created, _, seq = base64.urlsafe_b64decode(page).decode().partition(".")
        return int(created), int(seq)
    except (binascii.Error, ValueError) as error:
        raise refused("page", f"Invalid page: {page}") from error
