"""The state behind the API: accounts and keys, objects, money, events, and the work that is due at a time.

It owns every write. It knows nothing of HTTP, and nothing of the meaning of single resources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import orjson

from stripesim import ids, registry
from stripesim.clock import Clock, midnight_after
from stripesim.errors import missing
from stripesim.money import share
from stripesim.registry import KINDS, View
from stripesim.store import Doc, Store

PLATFORM = "main"
RATE_UNIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How this world behaves where Stripe leaves it open, or where tests want it otherwise. All delays in seconds.

    Amounts are in minor units. `docs/design/simulator.md` says for each why its default was chosen.
    """

    opening_balance: int = 100_000_000
    overdraft: int = 100_000
    funds_days: int = 2
    low_balance_expiry: int = 7 * 86_400
    arn_delay: float = 5.0
    pending_delay: float = 300.0
    fail_delay: float = 300.0
    bank_delay: float = 3 * 86_400.0
    bank_failure_delay: float = 60.0
    bank_charge_delay: float = 0.0
    authorization_expiry: float = 7 * 86_400.0
    action_expiry: float = 45 * 86_400.0
    dispute_delay: float = 0.5
    dispute_verdict_delay: float = 5.0
    inquiry_refund_grace: float = 240.0
    balance_transaction_delay: float = 3.0
    search_delay: float = 60.0
    refund_age_max: int = 0
    failed_refund_frees_charge: bool = True
    charge_refunded_at_success: bool = False
    refund_both_references: bool = False
    limiter_code: bool = True
    conflict_as_idempotency_error: bool = True
    connect_limits_both: bool = True
    webhook_timeout: float = 10.0
    lock_wait: float = 0.0
    idempotency_hours: int = 24
    dispute_fee: int = 1500
    fee_permille: int = 29
    fee_fixed: int = 30
    account_default_version: str = registry.DAHLIA


@dataclass(frozen=True, slots=True)
class Scope:
    """One account in one mode: what a key opens, and what no other key sees."""

    number: int
    account: str
    livemode: bool


class World:
    """Everything that the simulator remembers.

    Args:
        store: Where it is kept.
        clock: Its time.
        seed: What ids and every random choice are derived from; a state file keeps the seed it was made with.
    """

    def __init__(self, store: Store, clock: Clock, seed: int) -> None:
        """Open the world: make its platform account, or go on where the state file stopped."""
        self.store = store
        self.clock = clock
        self.request: Doc = {"id": None, "idempotency_key": None}
        self.as_of: float | None = None
        self.keep_history = False
        self.wakes: list[Callable[[], None]] = []
        self._opened: set[tuple[int, str]] = set()
        self._own_settings: dict[int, Doc] = {}
        self._endpoints: dict[int, list[Doc]] = {}
        self._series: dict[str, Callable[[int], str]] = {}
        self.delivery_plan: Doc | None = None
        store.rollbacks.append(self._forget_cached)
        with store.transaction():
            self.seed: int = store.meta("seed") if store.meta("seed") is not None else seed
            store.keep("seed", self.seed)
            self.boot = int(store.meta("boot") or 0) + 1
            store.keep("boot", self.boot)
            if store.meta("clock"):
                clock.restore(store.meta("clock"))
            if not store.meta("platform"):
                self._found()
        self.reload()

    def _found(self) -> None:
        account = "acct_1" + ids.token(self.seed, PLATFORM, length=15)
        self.store.keep("platform", account)
        self.store.keep("settings", {})
        for livemode, secret in ((False, "sk_test_sim"), (True, "sk_live_sim")):
            scope = self.add_scope(account, livemode=livemode)
            self.add_key(secret, scope, None)

    def reload(self) -> None:
        """Read what is kept in memory from the store again."""
        self.platform: str = self.store.meta("platform")
        self.settings = replace(Settings(), **self.store.meta("settings"))
        rows = self.store.db.execute("SELECT scope, account, livemode FROM scope").fetchall()
        self.scopes = {(account, bool(live)): Scope(number, account, bool(live)) for number, account, live in rows}
        self.numbered = {scope.number: scope for scope in self.scopes.values()}
        self.keys: dict[str, tuple[Scope, frozenset[str] | None]] = {}
        for secret, number, permissions in self.store.db.execute("SELECT secret, scope, permissions FROM api_key"):
            allowed = None if permissions is None else frozenset(orjson.loads(permissions))
            self.keys[secret] = (self.numbered[number], allowed)
        self.expired_keys: frozenset[str] = frozenset(self.store.meta("expired_keys") or ())
        self.next_job: float | None = self.store.db.execute("SELECT min(due) FROM job").fetchone()[0]
        self._forget_cached()

    def _forget_cached(self) -> None:
        """What was kept in memory may have been undone in the store."""
        self._opened.clear()
        self._own_settings.clear()
        self.forget_endpoints()
        self.delivery_plan = None
        self.next_job = self.store.db.execute("SELECT min(due) FROM job").fetchone()[0]

    # Accounts, keys, settings

    def add_scope(self, account: str, *, livemode: bool) -> Scope:
        """Open an account in a mode, with its settings: settlement currencies and rates."""
        found = self.store.db.execute(
            "SELECT scope FROM scope WHERE account=? AND livemode=?", (account, livemode)
        ).fetchone()
        if found:
            return Scope(found[0], account, livemode)
        cursor = self.store.db.execute(
            "INSERT INTO scope (account, livemode, settings) VALUES (?,?,'{}')", (account, livemode)
        )
        return Scope(cursor.lastrowid or 0, account, livemode)

    def open_account(self, account: str, *, livemode: bool) -> Scope:
        """Open an account so that calls can name it at once."""
        scope = self.add_scope(account, livemode=livemode)
        self.scopes[account, livemode] = self.numbered[scope.number] = scope
        return scope

    def scope_settings(self, scope: Scope) -> Doc:
        """Read an account's own settings: `settle` maps a currency to `[settlement currency, rate in millionths]`."""
        if (settings := self._own_settings.get(scope.number)) is None:
            text = self.store.db.execute("SELECT settings FROM scope WHERE scope=?", (scope.number,)).fetchone()[0]
            settings = self._own_settings[scope.number] = orjson.loads(text)
        return settings

    def set_scope_settings(self, scope: Scope, settings: Doc) -> None:
        """Write an account's own settings."""
        text = orjson.dumps(settings).decode()
        self.store.db.execute("UPDATE scope SET settings=? WHERE scope=?", (text, scope.number))
        self._own_settings.pop(scope.number, None)

    def add_key(self, secret: str, scope: Scope, permissions: list[str] | None) -> None:
        """Let a secret open a scope; `permissions` (`refund_write`) restrict it, `None` allows all."""
        text = None if permissions is None else orjson.dumps(sorted(permissions)).decode()
        self.store.db.execute("INSERT OR REPLACE INTO api_key VALUES (?,?,?)", (secret, scope.number, text))
        self.store.keep("expired_keys", sorted({*(self.store.meta("expired_keys") or ())} - {secret}))

    def expire_key(self, secret: str) -> None:
        """Let a secret open nothing any more, and say so: Stripe tells an expired key from an unknown one."""
        self.store.keep("expired_keys", sorted({*(self.store.meta("expired_keys") or ()), secret}))

    def change_settings(self, change: dict[str, Any]) -> None:
        """Change settings by name; the names and types were checked by the caller."""
        self.settings = replace(self.settings, **change)
        changed = {f.name: v for f in fields(Settings) if (v := asdict(self.settings)[f.name]) != f.default}
        self.store.keep("settings", changed)

    # Objects

    def new_id(self, kind: str, seq: int, prefix: str | None = None) -> str:
        """Derive an object's id from the seed and its number."""
        if (series := self._series.get(kind)) is None:
            series = self._series[kind] = ids.series(self.seed, kind, length=23)
        return (prefix or KINDS[kind].prefix) + "1" + series(seq)

    def add(self, kind: str, scope: Scope, doc: Doc) -> Doc:
        """Keep a new object; `id` and `created` are made unless they are given."""
        seq = self.store.number(kind)
        doc.setdefault("id", self.new_id(kind, seq))
        doc.setdefault("created", self.clock.seconds())
        self.insert(kind, scope, seq, doc)
        return doc

    def insert(self, kind: str, scope: Scope, seq: int, doc: Doc) -> None:
        """Keep a new object that has its `id` and `created` already, under its number."""
        self.store.insert(kind, scope.number, seq, doc, since=self.clock.now() + self.settings.search_delay)
        if self.keep_history:
            self.remember(kind, doc["id"])

    def save(self, kind: str, doc: Doc, *, metadata: bool = True) -> None:
        """Keep a changed object; `metadata` tells whether that may have changed too."""
        if self.keep_history and (found := self.store.get(kind, doc["id"])):
            self.remember(kind, doc["id"], orjson.dumps(found[1]))
        self.store.put(kind, doc, since=self.clock.now() + self.settings.search_delay, metadata=metadata)

    def remember(self, kind: str, object_id: str, doc: bytes = b"") -> None:
        """Keep what an object was until now, for stale reads; nothing, if it is new."""
        self.store.db.execute("INSERT INTO history VALUES (?,?,?,?)", (kind, object_id, self.clock.now(), doc))

    def find(self, kind: str, object_id: str, scope: Scope | None = None) -> Doc | None:
        """Fetch an object, or `None`; with a scope, only from that world."""
        found = self.store.get(kind, object_id)
        if found is None or (scope is not None and found[0] != scope.number):
            return None
        return found[1] if self.as_of is None else self.past(kind, found[1])

    def need(self, kind: str, object_id: str, scope: Scope, *, param: str, status: int = 404) -> Doc:
        """Fetch an object.

        Raises:
            StripeError: `resource_missing`, saying so when it lives in the account's other mode.
        """
        if (doc := self.find(kind, object_id, scope)) is not None:
            return doc
        found = self.store.get(kind, object_id)
        other = self.numbered[found[0]] if found else None
        in_other_mode = other is not None and other.account == scope.account and other.livemode != scope.livemode
        raise missing(
            KINDS[kind].noun,
            object_id,
            param=param,
            status=status,
            other_mode=not scope.livemode if in_other_mode else None,
        )

    def past(self, kind: str, doc: Doc) -> Doc | None:
        """Tell an object as it was at `as_of`; `None` if it did not exist then."""
        sql = "SELECT doc FROM history WHERE kind=? AND id=? AND until>? ORDER BY until, rowid LIMIT 1"
        row = self.store.db.execute(sql, (kind, doc["id"], self.as_of)).fetchone()
        if row is None:
            return doc
        return orjson.loads(row[0]) if row[0] else None

    def moment(self) -> float:
        """Tell the time whose state a read shows: the present, or the past of a stale read."""
        return self.clock.now() if self.as_of is None else self.as_of

    def existing(self, kind: str) -> tuple[str, list[Any]]:
        """Write the SQL condition that leaves out what a stale read is too old to know, and its values."""
        if self.as_of is None:
            return "", []
        young = "SELECT id FROM history WHERE kind=? AND until>? AND length(doc)=0"
        return f"id NOT IN ({young})", [kind, self.as_of]

    def seen(self, kind: str, **equal: str) -> list[Doc]:
        """Fetch the documents with these values, newest first, as a read shows them."""
        found = list(self.store.every(kind, None, **equal))[::-1]
        if self.as_of is None:
            return found
        return [past for doc in found if (past := self.past(kind, doc)) is not None]

    def forget_history(self, before: float) -> None:
        """Drop the past that no stale read can ask for any more."""
        self.store.db.execute("DELETE FROM history WHERE until<?", (before,))

    def show(self, kind: str, doc: Doc, scope: Scope, version: str | None = None) -> Doc:
        """Render an object."""
        view = View(self, scope.livemode, version or self.settings.account_default_version)
        return KINDS[kind].render(view, doc)

    # Events

    def emit(self, scope: Scope, event: str, kind: str, doc: Doc, previous: Doc | None = None) -> Doc:
        """Record that something happened to an object, for lists of events and for webhooks.

        Args:
            scope: The account it happened in.
            event: The event's type: `refund.created`.
            kind: The object's kind.
            doc: The object as it is now; the event keeps this state whatever becomes of the object.
            previous: The earlier values of what changed, on updates.
        """
        record: Doc = {"type": event, "kind": kind, "state": doc, "request": self.request}
        record["api_version"] = self.settings.account_default_version
        if previous is not None:
            record["previous"] = previous
        if scope.account != self.platform:
            record["account"] = scope.account
        self.add("event", scope, record)
        for listener in self.listeners:
            listener(scope, record)
        return record

    def endpoints(self, scope: Scope) -> list[Doc]:
        """Tell an account's webhook endpoints."""
        if (known := self._endpoints.get(scope.number)) is None:
            known = self._endpoints[scope.number] = list(self.store.every("webhook_endpoint", scope.number))
        return known

    def forget_endpoints(self) -> None:
        """Read the endpoints anew: they were changed."""
        self._endpoints.clear()

    listeners: tuple[Callable[[Scope, Doc], None], ...] = ()

    # Work that is due at a time

    def schedule(self, delay: float, name: str, **args: Any) -> None:  # noqa: ANN401  # the job's own arguments
        """Let a job run `delay` seconds from now, by the world's clock."""
        due = self.clock.now() + delay
        self.store.db.execute(
            "INSERT INTO job (due, name, args) VALUES (?,?,?)", (due, name, orjson.dumps(args).decode())
        )
        if self.next_job is None or due < self.next_job:
            self.next_job = due

    def catch_up(self) -> None:
        """Run what is due, in the order it was due, each stamped with the time at which it was due."""
        while self.next_job is not None and self.next_job <= self.clock.now():
            with self.store.transaction():
                rows = self.store.db.execute(
                    "SELECT number, due, name, args FROM job ORDER BY due, number LIMIT 2"
                ).fetchall()
                # The second is the next, unless the first one schedules something earlier.
                self.next_job = rows[1][1] if rows[1:] else None
                if rows:
                    self._run(*rows[0])

    def _run(self, number: int, due: float, name: str, args: str) -> None:
        self.store.db.execute("DELETE FROM job WHERE number=?", (number,))
        self.clock.hold(due)
        try:
            registry.JOBS[name](self, **orjson.loads(args))
        finally:
            self.clock.hold(None)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Act as nobody's request: what happens inside is Stripe's own doing."""
        before, self.request = self.request, {"id": None, "idempotency_key": None}
        try:
            yield
        finally:
            self.request = before

    # Money

    def settled(self, scope: Scope, amount: int, currency: str) -> tuple[int, str, int | None]:
        """Convert into the currency in which the account is paid.

        Returns:
            The amount in minor units, its currency, and the rate in millionths, `None` where nothing was converted.
        """
        rule = self.scope_settings(scope).get("settle", {}).get(currency)
        if rule is None:
            return amount, currency, None
        converted = share(abs(amount), rule[1], RATE_UNIT)
        return (converted if amount >= 0 else -converted), rule[0], rule[1]

    def book(self, scope: Scope, *, type: str, amount: int, currency: str, **more: Any) -> Doc:  # noqa: A002, ANN401
        """Write a balance transaction and move the balance.

        Args:
            scope: Whose balance.
            type: Stripe's type: `charge`, `refund`, `adjustment`.
            amount: Minor units of `currency`, signed; converted if the account settles in another currency.
            currency: Of the amount.
            **more: `source`, `fee` and `fee_details` (in the settlement currency), `description`,
                `reporting_category`, `available_on` (default: at once), `exact` (already in the settlement currency).
        """
        exact = more.pop("exact", False)
        net_amount, into, rate = (amount, currency, None) if exact else self.settled(scope, amount, currency)
        self._open_balance(scope, into)
        fee = more.get("fee", 0)
        row = {
            "amount": net_amount,
            "currency": into,
            "net": net_amount - fee,
            "type": type,
            "reporting_category": type,
            "available_on": self.clock.seconds(),
            "rate": rate,
            **more,
        }
        self.add("balance_transaction", scope, row)
        self._move(scope, into, row["net"], row["available_on"])
        if row["net"] > 0:
            self._wake_waiting(scope, into, row["available_on"])
        return row

    def _wake_waiting(self, scope: Scope, currency: str, available_on: float) -> None:
        """Let refunds that wait for a balance be looked at again when money that came in can be spent."""
        sql = "SELECT 1 FROM refund WHERE scope=? AND low=? LIMIT 1"
        if self.store.db.execute(sql, (scope.number, currency)).fetchone():
            self.schedule(max(available_on - self.clock.now(), 0.0), "balance_grew", scope=scope.number)

    def _open_balance(self, scope: Scope, currency: str) -> None:
        if (scope.number, currency) in self._opened:
            return
        self._opened.add((scope.number, currency))
        cursor = self.store.db.execute("INSERT OR IGNORE INTO balance VALUES (?,?,0)", (scope.number, currency))
        if cursor.rowcount and (opening := self.settings.opening_balance):
            topup = {
                "amount": opening,
                "currency": currency,
                "net": opening,
                "type": "topup",
                "reporting_category": "topup",
            }
            self.add(
                "balance_transaction",
                scope,
                topup | {"available_on": self.clock.seconds(), "description": "Opening balance"},
            )
            self._move(scope, currency, opening, self.clock.seconds())

    def _move(self, scope: Scope, currency: str, net: int, available_on: int) -> None:
        if available_on <= self.clock.now():
            sql = "UPDATE balance SET available=available+? WHERE scope=? AND currency=?"
            self.store.db.execute(sql, (net, scope.number, currency))
        else:
            sql = "INSERT INTO maturing VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET net=net+excluded.net"
            self.store.db.execute(sql, (scope.number, currency, available_on, net))
            if net < 0:
                # It leaves the balance on its day, and cannot be spent on anything else until then.
                self.store.db.execute(sql.replace("maturing", "outgoing"), (scope.number, currency, available_on, net))

    def credit(self, scope: Scope, currency: str, net: int, available_on: int) -> None:
        """Move a balance whose transactions were written elsewhere: by a loader, many at a time."""
        self._open_balance(scope, currency)
        self._move(scope, currency, net, available_on)
        self._wake_waiting(scope, currency, available_on)

    def balance(self, scope: Scope) -> dict[str, tuple[int, int]]:
        """Tell what is available and what is pending, per settlement currency, in minor units."""
        rows = self.store.db.execute(
            "SELECT currency, available FROM balance WHERE scope=?", (scope.number,)
        ).fetchall()
        found = {currency: [available, 0] for currency, available in rows}
        sql = "SELECT currency, available_on, net FROM maturing WHERE scope=?"
        now = self.moment()
        for currency, available_on, net in self.store.db.execute(sql, (scope.number,)):
            found[currency][available_on > now] += net
        for currency, available_on, net, booked in self._unseen_rows(scope):
            found[currency][available_on > booked] -= net
        return {currency: (available, pending) for currency, (available, pending) in sorted(found.items())}

    def _unseen_rows(self, scope: Scope) -> list[tuple[str, int, int, float]]:
        """Fetch what was booked after the moment of a stale read: currency, when it is available, net, when it was booked."""
        if self.as_of is None:
            return []
        sql = (
            "SELECT json_extract(CAST(row.doc AS TEXT), '$.currency'), json_extract(CAST(row.doc AS TEXT), '$.available_on'), "
            "json_extract(CAST(row.doc AS TEXT), '$.net'), until FROM history JOIN balance_transaction AS row USING (id) "
            "WHERE kind='balance_transaction' AND until>? AND length(history.doc)=0 AND row.scope=?"
        )
        return self.store.db.execute(sql, (self.as_of, scope.number)).fetchall()

    def available(self, scope: Scope, currency: str) -> int:
        """Tell what may be spent in a settlement currency, in minor units: what is available, less what is about to leave.

        It may be negative.
        """
        self._open_balance(scope, currency)
        sql = (
            "SELECT available + (SELECT coalesce(sum(net), 0) FROM maturing WHERE scope=?1 AND currency=?2 "
            "AND available_on<=?3) + (SELECT coalesce(sum(net), 0) FROM outgoing WHERE scope=?1 AND currency=?2 "
            "AND available_on>?3) FROM balance WHERE scope=?1 AND currency=?2"
        )
        return int(self.store.db.execute(sql, (scope.number, currency, self.clock.now())).fetchone()[0])

    def funds_at(self) -> int:
        """Tell when the money of a charge that is made now becomes available."""
        return midnight_after(self.clock.now(), self.settings.funds_days)
