"""The demo: a simulator of its own, an installation of its own, two files, and two sets of books side by side."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refundry.batches import service as batches
from refundry.batches.model import Batch, Standing, Totals
from refundry.bootstrap import read_file
from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID
from refundry.cli import batch_run, batch_told, demo_follow, interruption, output, serving, session
from refundry.cli.simulator import KEY, Simulator, SimulatorFailed, sample
from refundry.cli.work import Work, working
from refundry.connectors.base import ReadOptions
from refundry.infra import loop
from refundry.infra.db import Unit
from refundry.infra.lock import FileLock
from refundry.infra.settings import Settings
from refundry.kernel.errors import RefundryError, UsageError
from refundry.refunds import service as refunds
from refundry.refunds.model import State

FILE, UNMATCHED = "refund_requests.csv", "unmatched_credit_notes.csv"
PATIENCE_SECONDS = 900.0
PAGE = 1000
SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed."""

    once: bool
    rows: int | None
    seed: int
    limits: str
    port: int


@dataclass(frozen=True, slots=True)
class Books:
    """Our sums held against the simulator's.

    Args:
        refunds: How many refunds the simulator has made.
        amounts: Its sums, in minor units by currency.
        wrong: The charges whose sums differ, with both.
        problems: What the simulator itself finds wrong.
    """

    refunds: int
    charges: int
    amounts: dict[str, int]
    wrong: dict[str, tuple[int, int]]
    problems: list[Any]

    @property
    def agree(self) -> bool:
        """Tell whether every charge agrees to the penny."""
        return not self.wrong and not self.problems


def run(wanted: Wanted, *, as_json: bool) -> int:
    """Run the demo."""
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(wanted))
        kept = [] if wanted.once else ["--state", str(folder / "simulator.db")]
        flags = ["--load", "online-retail", "--seed", str(wanted.seed), "--limits", wanted.limits, *kept]
        output.say("Starting the simulator: a Stripe on this machine. No money moves.")
        simulator = stack.enter_context(_started(flags, folder))
        interruption.last_words.append(simulator.end)
        stack.callback(interruption.last_words.remove, simulator.end)
        settings = _settings(folder, simulator, wanted)
        return loop.run(_shown(settings, simulator, wanted, folder, as_json=as_json))


@contextmanager
def _started(flags: list[str], folder: Path) -> Iterator[Simulator]:
    """Start the simulator.

    Raises:
        SimulatorFailed: Perhaps since its kept state is an older version's: then the demo can only begin anew.
    """
    with ExitStack() as stack:
        try:
            simulator = stack.enter_context(Simulator(*flags))
        except SimulatorFailed as error:
            if "--state" not in flags:
                raise
            advice = f"if it is about its kept state, delete {folder} to begin the demo anew"
            raise SimulatorFailed(f"{error.message}; {advice}") from error
        yield simulator


@contextmanager
def _folder(wanted: Wanted) -> Iterator[Path]:
    """Take a directory for the demo's own books, never the installation's."""
    if wanted.once:
        with tempfile.TemporaryDirectory(prefix="refundry-demo-") as passing:
            yield Path(passing)
        return
    folder = session.settings().folder / "demo" / str(wanted.seed)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(
            f"the demo's directory {folder} cannot be made ({error.strerror}): set REFUNDRY_STATE_DIR to one that can be written, or add --once",
            code="state_dir_unusable",
            setting="REFUNDRY_STATE_DIR",
        ) from error
    lock = FileLock(folder / "demo.lock")
    if not lock.take():
        raise RefundryError(
            f"a demo is running already (process {lock.holder()}): end it first, or add --once for one beside it",
            code="demo_running",
        )
    try:
        yield folder
    finally:
        lock.free()


def _settings(folder: Path, simulator: Simulator, wanted: Wanted) -> Settings:
    """Set everything that could lead elsewhere: the demo never meets a real key or a real database."""
    stripe = {
        "secret_key": KEY, "api_base": simulator.address, "account": None, "order_key": "order_id",
        "limits": wanted.limits,
    }  # fmt: skip
    read = session.settings(mode="test", state_dir=folder, database_url=None, stripe=stripe)
    # What is handed over is merged with the environment, where further accounts may be named, with their keys, and the real order system.
    return read.model_copy(update={"accounts": {}, "orders": demo_follow.told_by(read, folder)})


async def _shown(settings: Settings, simulator: Simulator, wanted: Wanted, folder: Path, *, as_json: bool) -> int:
    async with working(settings, every=True) as at_work:
        began, began_at = at_work.desk.clock.boot_seconds(), at_work.desk.clock.now()
        told: dict[str, Any] = {}
        done: list[tuple[Batch, Totals]] = []
        for name in (FILE, UNMATCHED):
            done.append(await _paid(at_work, _cut(sample(name), folder, wanted.rows)))
            # The first file's counts, and the calls that it took, are the run's.
            told = told or batch_told.facts(*done[0], batch_run.of_run(at_work, began))
            if at_work.interrupted:
                return _interrupted(told, as_json=as_json)
        (batch, totals), (second, refused) = done
        followed = await demo_follow.followed(at_work, began_at)
        if at_work.interrupted:
            return _interrupted(told, as_json=as_json)
        orders = await demo_follow.orders(at_work)
        books = await _compared(at_work, simulator)
        told |= {
            "simulator": True,
            "books": {
                "agree": books.agree, "refunds": books.refunds, "charges": books.charges, "amounts": books.amounts,
                "wrong": books.wrong, "problems": books.problems,
            },
            "second_file": batch_told.facts(second, refused),
            **demo_follow.facts(followed, orders),
        }  # fmt: skip
        why = await at_work.read(lambda unit: [batch_told.examples(unit, *one) for one in done])
        if as_json:
            output.as_json(told)
        else:
            where = session.where(batch.account, settings)
            batch_told.words(batch, totals, why[0], where)
            batch_told.words(second, refused, why[1], where)
            demo_follow.tell(followed, orders, None if wanted.once else settings.orders.file)
            _tell_books(books)
        if not wanted.once:
            return await _stay(at_work, simulator, wanted.port, batch)
        # Beginning with nothing, all that was given back was told.
        if not books.agree or orders.amounts != books.amounts:
            return output.FAILED
        return batch_told.exit_code(totals)


def _interrupted(told: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        output.as_json(told | {"simulator": True})
    output.say("interrupted: the simulator is ended too")
    return output.INTERRUPTED


def _cut(path: Path, folder: Path, rows: int | None) -> Path:
    """Take the first rows of a file, under its own name."""
    if rows is None:
        return path
    cut = folder / f"first-{rows}" / path.name
    cut.parent.mkdir(exist_ok=True)
    with path.open(encoding="utf-8", newline="") as whole, cut.open("w", encoding="utf-8", newline="") as part:
        for at, line in enumerate(whole):
            if at > rows:
                break
            part.write(line)
    return cut


async def _paid(at_work: Work, path: Path) -> tuple[Batch, Totals]:
    """Take a file in, and work on it until it is over."""
    file = read_file(path, options=ReadOptions())
    account = at_work.desk.account.name
    batch, _ = await at_work.desk.writer.put(
        lambda unit: batches.accept(unit, account, file, "", session.person()), long=True
    )
    seen = await batch_run.paid(at_work, batch, frozenset(), PATIENCE_SECONDS)
    return await at_work.read(lambda unit: batches.need(unit, batch.id)), seen.totals


async def _compared(at_work: Work, simulator: Simulator) -> Books:
    """Hold our sums per charge against the simulator's own."""
    ours: Counter[str] = Counter()

    def add(unit: Unit) -> None:
        after = 0
        while page := refunds.page(
            unit, at_work.desk.account.name, [State.PENDING, State.SETTLED], after=after, most=PAGE
        ):
            for _, request in page:
                ours[request.content.charge] += request.amount_minor
            after = page[-1][0]

    def by_hand(unit: Unit) -> None:
        # The demo invites to it: what others have given back is in both books too, once it was followed.
        for charge in charges.many(unit, [name for name, minor in theirs.items() if ours[name] != minor]).values():
            ours[charge.id] += sum(
                refund.amount_minor
                for refund in charge.refunds
                if not refund.over and REQUEST_ID not in refund.metadata
            )

    await at_work.read(add)
    audit = await asyncio.to_thread(simulator.audit)
    theirs = {line["charge"]: int(line["refunded"]) for line in audit["charges"]}
    await at_work.read(by_hand)
    wrong = {
        charge: (ours[charge], theirs.get(charge, 0))
        for charge in {*ours, *theirs}
        if ours[charge] != theirs.get(charge, 0)
    }
    count = sum(len(line["refunds"]) for line in audit["charges"])
    return Books(count, len(theirs), audit["totals"], wrong, audit["problems"])


def _tell_books(books: Books) -> None:
    total = output.amounts(books.amounts)
    if books.agree:
        told = f"Books: {output.counted(books.refunds, 'refund')} on {output.counted(books.charges, 'charge')}, {total}; the simulated "
        output.line(output.wrapped(told + "Stripe's books agree with ours to the penny, charge by charge."))
    else:
        output.line(f"Books: they do NOT agree. Stripe has {output.counted(books.refunds, 'refund')}, {total}")
        for charge, (ours, theirs) in sorted(books.wrong.items())[:SHOWN_MAX]:
            output.line(f"  {charge}: ours {ours}, theirs {theirs} (minor units)")
        for problem in books.problems[:SHOWN_MAX]:
            output.line(f"  {problem}")
    output.line("This was the simulator: no money moved.")


async def _stay(at_work: Work, simulator: Simulator, port: int, batch: Batch) -> int:
    """Stay up, and say what can be tried."""
    sock = _free(port)
    refundry = session.program()
    desk = at_work.desk
    charge = await at_work.read(lambda unit: _example(unit, batch))
    lines = [
        "",
        "The simulator and a worker stay up. In a second terminal:",
        f"  export STRIPE_SECRET_KEY={KEY}",
        f"  export REFUNDRY_STRIPE__API_BASE={simulator.address}",
        f"  export REFUNDRY_STATE_DIR={desk.settings.folder}",
        f"  export REFUNDRY_ORDERS__FILE={desk.settings.orders.file} REFUNDRY_ORDERS__KINDS={desk.settings.orders.kinds}",
        f"  {refundry} doctor",
        f"  {refundry} batch status {batch.id[:8]}",
        f"  {refundry} batch report {batch.id[:8]} -o report.csv",
    ]
    if charge is not None:
        lines += [
            f"  {refundry} refund create --charge {charge} \\",
            "      --amount 1.00 --reason duplicate --ticket T-1",
            "Run the last one twice: it is paid once. Then refund by hand, as in Stripe's Dashboard, and see that followed, and told:",
            f"  curl -X POST {simulator.address}/_sim/refunds \\",
            f'      -d \'{{"charge": "{charge}", "amount": 50}}\'',
            f"  {refundry} catch-up",
            f"  tail -n 1 {desk.settings.orders.file}",
        ]
    output.say("\n".join([*lines, ""]))
    try:
        await serving.until_interrupted(at_work, sock)
    finally:
        sock.close()
    return output.INTERRUPTED if at_work.interrupted else output.DONE


def _example(unit: Unit, batch: Batch) -> str | None:
    """Find a charge that was refunded in part, most likely, for a command to try: the sample's first."""
    first = next(batches.lines(unit, batch), None)
    return first.request.content.charge if first and first.request and first.standing is Standing.PAID else None


def _free(port: int) -> socket.socket:
    """Take the wanted port, or a free one: a demo should not fail for that."""
    with suppress(UsageError):
        return serving.bound(serving.Address("127.0.0.1", port))
    return serving.bound(serving.Address("127.0.0.1", 0))
