"""Three Stripe accounts in one installation, paid by workers that are disturbed, while the key of one is refused; Stripe's books judge.

The same orders and tickets stand in the file of each account, with other amounts: whoever mixes accounts up is seen.
"""

from __future__ import annotations

import contextlib
import csv
import json
import random  # noqa: TID251  # from the seed of the test
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.bootstrap import attached, read_file
from refundry.connectors.base import ReadOptions
from refundry.infra.db import Database
from refundry.kernel.actor import SYSTEM
from tests.support import books, crash_run, fault_run
from tests.support.crash_run import House, Shop, wait_until
from tests.support.database import PostgresServer
from tests.support.disturbed import Trouble, calls, disturb
from tests.support.fault_run import DONE, LATENCY, PARTLY, SEND, Rule
from tests.support.forked import Process
from tests.support.plan_run import QUICK
from tests.support.server import Server
from tests.support.stripe_call import called

OWN = "sk_test_of_eu"
# A look at the counts of all batches costs their processes something.
LOOK = 0.2


@dataclass
class Till:
    """One account, and its file.

    Args:
        name: In the settings.
        account: `acct_…`.
        key_of: The account whose key pays it.
        file: What asks for refunds.
        obligations: The same, as the simulator's audit takes it.
    """

    name: str
    account: str
    key_of: str
    file: Path
    obligations: list[dict[str, Any]] = field(default_factory=list)
    batch: str = ""

    @property
    def charges(self) -> set[str]:
        """Tell the ids of its charges."""
        return {one["charge"] for one in self.obligations}


@dataclass
class Mall:
    """A Stripe with three accounts: the platform, one with a key of its own, and one that is connected to the platform."""

    server: Server
    tills: list[Till]

    @property
    def obligations(self) -> list[dict[str, Any]]:
        """Tell what all accounts owe."""
        return [one for till in self.tills for one in till.obligations]

    @property
    def refused(self) -> Till:
        """Tell the account whose key will be refused."""
        return self.tills[1]

    @property
    def others(self) -> list[Till]:
        """Tell the other accounts."""
        return [self.tills[0], self.tills[2]]


@contextlib.contextmanager
def mall(folder: Path, rows: int, *, seed: int) -> Iterator[Mall]:
    """Open a Stripe with three accounts, each with so many rows, each of an order of its own."""
    chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
    with Server("--seed", str(seed), "--state", str(folder / "stripe.db"), start=None) as server:
        server.control("POST /_sim/settings", {"opening_balance": 10**12})
        eu = server.control("POST /_sim/accounts", {"secret": OWN})["account"]
        shop = called(server, "POST /v1/accounts", country="GB", type="custom")["id"]
        opened = Mall(
            server,
            [
                Till("", server.account, server.account, folder / "primary.csv"),
                Till("eu", eu, eu, folder / "eu.csv"),
                Till("shop", shop, server.account, folder / "shop.csv"),
            ],
        )
        for till in opened.tills:
            _fill(opened, till, [chance.randrange(2_000, 90_000) for _ in range(rows)])
        yield opened


def _fill(opened: Mall, till: Till, amounts: list[int]) -> None:
    charges = [
        {"order_id": f"o{at}", "amount_minor": amount, "currency": "gbp", "created": 1_780_000_000 + at}
        for at, amount in enumerate(amounts)
    ]
    opened.server.control("POST /_sim/load", {"account": till.account, "charges": charges})
    way_in: dict[str, Any] = {"key": OWN} if till is opened.refused else {"account": till.account}
    made = books.listed(Shop(opened.server, till.file, []), "charges", **way_in)
    ids = {charge["metadata"]["order_id"]: charge["id"] for charge in made}
    with till.file.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket_id", "order_id", "amount_minor", "currency"])
        for at, amount in enumerate(amounts):
            asked = amount // 2 + at
            writer.writerow([f"t{at}", f"o{at}", asked, "gbp"])
            till.obligations.append(
                {"charge": ids[f"o{at}"], "amount": asked, "ticket": f"t{at}", "name": f"{till.name} t{at}"}
            )


def play(
    folder: Path, rows: int, *, seed: int, server: PostgresServer | None, trouble: Trouble, rules: tuple[Rule, ...] = ()
) -> None:
    """Pay three files, by two workers on Postgres and by one on SQLite, through trouble; half-way the key of one account is refused.

    Args:
        folder: For the files.
        rows: How many rows each account has.
        seed: Of everything that is drawn.
        server: A Postgres server; `None` for SQLite.
        trouble: What is done to the workers.
        rules: The faults that all accounts meet.

    Raises:
        AssertionError: An account was paid by another's key, or delayed by it, or not just as its own file asks.
    """
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(mall(folder, rows, seed=seed))
        address = stack.enter_context(server.made()) if server else None
        settings = {
            "REFUNDRY_ACCOUNTS__EU__SECRET_KEY": OWN,
            "REFUNDRY_ACCOUNTS__SHOP__CONNECTED": opened.tills[2].account,
        }
        shop = Shop(opened.server, folder / "none.csv", opened.obligations)
        house = stack.enter_context(crash_run.house(shop, postgres=address, jumping=True, settings=QUICK | settings))
        sized = [LATENCY, *(fault_run.sized(rule, rows * len(opened.tills)) for rule in rules)]
        refusal = {"kind": "unauthorized", "operation": SEND, "account": opened.refused.account, "skip": rows // 2}
        opened.server.control("POST /_sim/faults", {"seed": seed, "rules": [*sized, refusal]})

        def worker() -> Process:
            return house.begin("worker")

        crew = [worker() for _ in range(2 if server else 1)]
        with books.opened(house) as database:
            attached(database)
            wait_until("the accounts to be known", lambda: _known(database, opened))
            for till in opened.tills:
                till.batch = _handed_in(database, till)
            disturb(
                house, crew, worker, trouble, progress=lambda: calls(shop, SEND), within=(0, rows * 2), seed=seed
            )  # fmt: skip
            wait_until("the other accounts to be paid", lambda: _over(database, opened.others), every=LOOK)
            wait_until("the refused key to be told", lambda: _held(database, opened.refused), every=LOOK)
        # A worker that began last tries the refused key once more: what is read by two commands is read when nobody works.
        for process in crew:
            process.terminate()
        for process in crew:
            process.wait()
        _judge_refused(opened, house)
        opened.server.control("POST /_sim/faults", {"seed": seed + 1, "rules": sized})
        last = worker()
        with books.opened(house) as database:
            wait_until("all to be paid", lambda: _over(database, opened.tills), every=LOOK)
        last.terminate()
        last.wait()
        _judge(opened, house)


def _known(database: Database, opened: Mall) -> bool:
    with contextlib.suppress(Exception), database.reading() as unit:
        return len(accounts.known(unit)) == len(opened.tills)
    return False  # its tables are not there yet


def _handed_in(database: Database, till: Till) -> str:
    file = read_file(till.file, options=ReadOptions())
    with database.unit() as unit:
        return batches.accept(unit, f"{till.account}|test", file, "", SYSTEM)[0].id


def _over(database: Database, tills: list[Till]) -> bool:
    with database.reading() as unit:
        return not any(batches.totals(unit, batches.need(unit, till.batch)).moving for till in tills)


def _held(database: Database, till: Till) -> bool:
    with database.reading() as unit:
        return bool(accounts.held_text(unit, f"{till.account}|test"))


def _judge_refused(opened: Mall, house: House) -> None:
    """See that the others are paid, and that the rows of the account whose key is refused wait, as far as they were not paid before."""
    audit = _audited(opened)
    unpaid = {one["name"] for one in audit["not_paid"]}
    late = [one["name"] for till in opened.others for one in till.obligations if one["name"] in unpaid]
    assert not late, f"delayed by another account's key: {late[:5]}"
    own = {one["name"] for one in opened.refused.obligations}
    assert 0 < len(unpaid & own) < len(own), f"{len(unpaid & own)} of {len(own)} wait for the key"
    _judge_till(opened.refused, house, audit, code=PARTLY)


def _audited(opened: Mall) -> dict[str, Any]:
    audit: dict[str, Any] = opened.server.control("POST /_sim/audit", {"obligations": opened.obligations})
    fault_run.judge_books(audit, last=False)
    return audit


def _judge(opened: Mall, house: House) -> None:
    audit = _audited(opened)
    fault_run.judge_books(audit, last=True)
    for till in opened.tills:
        _judge_till(till, house, audit, code=DONE)
    callers = opened.server.control("GET /_sim/calls/accounts")["accounts"]
    for till in opened.tills:
        by = {caller for caller, made in callers[till.account].items() if SEND in made}
        assert by == {till.key_of}, f"{till.account} was paid by the key of {by}: {json.dumps(callers)}"


def _judge_till(till: Till, house: House, audit: dict[str, Any], *, code: int) -> None:
    """Hold the report of one account against its part of Stripe's books."""
    part = audit | {"charges": [line for line in audit["charges"] if line["charge"] in till.charges]}
    counts = fault_run.asked(house, "batch", "status", till.batch, codes=(code,))
    report = fault_run.report_of(house, till.batch)
    fault_run.judge_report(part, report, counts, set())
    owed = {one["ticket"]: one for one in till.obligations}
    unpaid = [
        {"name": one["ticket"]}
        for one in till.obligations
        if one["name"] in {each["name"] for each in audit["not_paid"]}
    ]
    fault_run.judge_rows(owed, {}, {row["ticket"]: row for row in report}, {"not_paid": unpaid}, last=code == DONE)
