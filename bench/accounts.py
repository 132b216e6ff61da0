"""Many accounts at full pace at once: what each reaches of its own limit on one Postgres, and what is used up meanwhile.

Each account has its own key, its own live limits at the simulator, its own file of orders, and its own budgets. Its charges are listed
before, so that a refund is one call. Counted are the calls that the simulator has let pass, for a while in the middle, when all accounts
are at work; the processor time is that of every process that takes part, over the same while.

`make bench ARGS=accounts:4:10` measures four accounts for ten seconds, to see whether it works at all.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import databases, results, sim
from bench.pace import READS, SHARE, WRITES
from bench.product import Product, Running, product
from bench.shop import PLENTY, REFUND, Shop, control, load
from bench.sim import TICKS_PER_SECOND
from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.bootstrap import attached, read_file
from refundry.connectors.base import ReadOptions
from refundry.infra.db import Database
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import SystemClock
from tests.support.database import PostgresServer

ACCOUNTS, SECONDS = 20, 20.0
WORKERS = (1, 2)
REACHED = 0.95
INTERRUPTED = 130
# What an account may pay while the others are planned, in seconds at full pace.
WHILE_PLANNED = 20.0
# An account is at work once it has made so many refunds: the slots of its first second were there all at once.
AT_WORK = 25
# All files are planned before anything is measured: twenty at once take the processor from what is paid meanwhile. A machine that is too
# small for all accounts gets there late, and is measured all the same.
PLAN_SECONDS, WARM_SECONDS, PATIENCE_SECONDS, LOOK_SECONDS = 120.0, 15.0, 60.0, 0.2


def rows_of(seconds: float) -> int:
    """Tell how many rows an account needs, so that it is not done before the measurement is."""
    return int((seconds + WARM_SECONDS + WHILE_PLANNED) * SHARE)


@contextmanager
def stripe(count: int, rows: int) -> Iterator[tuple[Shop, dict[str, str]]]:
    """Open a Stripe with so many accounts, each with so many charges; tells the key of each."""
    with sim.server() as server, tempfile.TemporaryDirectory(prefix="refundry-bench-") as name:
        folder = Path(name)
        control(server.address, "POST /_sim/settings", {"opening_balance": PLENTY})
        keys = {control(server.address, "GET /v1/account")["id"]: sim.KEY}
        for at in range(1, count):
            opened = control(server.address, "POST /_sim/accounts", {"secret": f"{sim.KEY}_{at}"})
            keys[opened["account"]] = opened["secret"]
        sim.write_charges(folder / "charges.csv", rows)
        for account in keys:
            load(server.address, (folder / "charges.csv").read_bytes(), account)
        control(server.address, "POST /_sim/faults", {"seed": 1, "rules": [READS, WRITES]})
        control(server.address, "POST /_sim/limits", {"limits": "live"})
        yield Shop(server, [], folder), keys


def measured(server: PostgresServer, workers: int, count: int, seconds: float) -> dict[str, Any]:
    """Pay all accounts' files with so many processes, and look at a while in the middle."""
    rows = rows_of(seconds)
    with stripe(count, rows) as (opened, keys), server.made() as address:
        further = {f"REFUNDRY_ACCOUNTS__A{at}__SECRET_KEY": key for at, key in enumerate(keys.values()) if at}
        with product(opened.address, limits="live", postgres=address, **further) as house:
            house.run("db", "upgrade")
            database = attached(Database(address.replace("postgresql://", "postgresql+psycopg://"), SystemClock()))
            try:
                running = [house.start("worker") for _ in range(workers)]
                until(lambda: len(_known(database)) == count, PATIENCE_SECONDS)
                file = opened.file("rows", range(rows))
                _hand_in(database, list(keys), file)
                until(lambda: not _to_plan(database), PLAN_SECONDS)
                until(lambda: min(_refunds(opened, keys).values()) >= AT_WORK, WARM_SECONDS, must=False)
                told = _while(opened, keys, seconds, _used_by(server, opened, running))
            finally:
                database.close()
            _stopped(house, running)
            _paid_rightly(opened, count * rows)
            return told


def until(true: Any, seconds: float, *, must: bool = True) -> None:
    """Wait until something is so, for so long; after that it is an error, if it must be."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            assert not must, f"it did not come true within {seconds:.0f} s"
            return
        time.sleep(LOOK_SECONDS)


def _known(database: Database) -> list[str]:
    with database.reading() as unit:
        return [account.name for account in accounts.known(unit)]


def _to_plan(database: Database) -> set[str]:
    with database.reading() as unit:
        return set(batches.accounts_to_plan(unit))


def _hand_in(database: Database, ids: list[str], path: Path) -> None:
    """Hand the same file in for each account; as `batch run --no-wait` does, whose start would take longer than all the rest."""
    file = read_file(path, options=ReadOptions())
    for account in ids:
        ready = batches.ready(file)
        with database.unit() as unit:
            batches.accept(unit, f"{account}|test", ready, "", SYSTEM)


def _refunds(opened: Shop, keys: dict[str, str]) -> dict[str, int]:
    """Count the refunds that passed, by account."""
    made = opened.control("GET /_sim/calls/accounts")["accounts"]
    return {account: made.get(account, {}).get(account, {}).get(REFUND, 0) for account in keys}


# What is used


def _used_by(server: PostgresServer, opened: Shop, running: list[Running]) -> dict[str, list[int]]:
    """Name the processes that take part, by their numbers."""
    workers = {f"worker {at + 1}": [one.process.pid] for at, one in enumerate(running)}
    return {"simulator": [opened.server.pid], **workers, "postgres": _postgres(server)}


def _postgres(server: PostgresServer) -> list[int]:
    """Find the server's first process, if it runs on this machine; the others are its children."""
    with server.admin.connect() as connection:
        backend = int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        try:
            return [int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])]
        except OSError:
            return []


def _cpu_seconds(pids: list[int]) -> float:
    """Tell how long processes and their children have computed so far, those children that have ended included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(stat.parent.name) in pids:
            ticks += sum(int(fields[at]) for at in (11, 12, 13, 14))
        elif int(fields[1]) in pids:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def _machine_busy() -> float:
    """Tell how long the cores have computed so far, for whomever, in seconds."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICKS_PER_SECOND


def _while(opened: Shop, keys: dict[str, str], seconds: float, pids: dict[str, list[int]]) -> dict[str, Any]:
    """Count for so many seconds, and tell the rates and what was used."""
    limited = sum(opened.control("GET /_sim/calls")["limited"].values())
    began, before = time.monotonic(), _refunds(opened, keys)
    used = {name: _cpu_seconds(numbers) for name, numbers in pids.items()}
    busy = _machine_busy()
    time.sleep(seconds)
    took, after = time.monotonic() - began, _refunds(opened, keys)
    cores = {name: round((_cpu_seconds(numbers) - used[name]) / took, 2) for name, numbers in pids.items()}
    all_busy = round((_machine_busy() - busy) / took, 2)
    limited = sum(opened.control("GET /_sim/calls")["limited"].values()) - limited
    rates = sorted((after[account] - before[account]) / took for account in keys)
    per_refund = sum(cores.values()) / max(sum(rates), 1)
    return {
        "refunds_per_second": round(sum(rates), 1),
        "of_share_min": round(rates[0] / SHARE, 3),
        "of_share_median": round(statistics.median(rates) / SHARE, 3),
        "of_share_max": round(rates[-1] / SHARE, 3),
        "limited_share": round(limited / max(limited + sum(rates) * took, 1), 4),
        "cpu_ms_per_refund": round(1000 * per_refund, 1),
        # If a refund takes as much when there are more of them.
        "cores_for_all": round(per_refund * SHARE * len(keys), 1),
        "cores_used": cores,
        "cores_busy": all_busy,
        "cores": os.cpu_count(),
    }


def _stopped(house: Product, running: list[Running]) -> None:
    for one in running:
        one.process.terminate()
    for one in running:
        house.checked(one, one.end(), (0, INTERRUPTED))


def _paid_rightly(opened: Shop, rows: int) -> None:
    """See that no row was paid twice, and nothing that no row asks for; not all were to be paid."""
    audit = opened.control("GET /_sim/audit")
    assert audit["ok"], audit["problems"][:3]
    tickets = {
        (line["charge"], refund["metadata"]["ticket_id"]) for line in audit["charges"] for refund in line["refunds"]
    }
    assert len(tickets) == audit["refunds"] <= rows, f"{audit['refunds']} refunds for {len(tickets)} rows"


def main(count: str = str(ACCOUNTS), seconds: str = str(SECONDS)) -> None:
    """Measure, print, and keep."""
    number = int(count)
    with databases.postgres() as server:
        if server is None:
            return
        told = {
            f"{workers} worker{'s' * (workers > 1)}": measured(server, workers, number, float(seconds))
            for workers in WORKERS
        }
    names = [name for name in next(iter(told.values())) if name != "cores_used"]
    results.table(("", *told), [(name, *(figure[name] for figure in told.values())) for name in names])
    parts = list(dict.fromkeys(part for figure in told.values() for part in figure["cores_used"]))
    results.table(
        ("cores used by", *told),
        [(part, *(figure["cores_used"].get(part, "") for figure in told.values())) for part in parts],
    )
    best = max(told.values(), key=lambda figure: float(figure["refunds_per_second"]))
    aims = [
        results.Aim("the slowest account, of its limit less head-room", best["of_share_min"], least=REACHED),
        results.Aim("the middle account, of its limit less head-room", best["of_share_median"], least=REACHED),
    ]
    name = "accounts" if number == ACCOUNTS else f"accounts_{number}"
    results.write(name, {"accounts": number, **told, "aims": results.show(aims)})
