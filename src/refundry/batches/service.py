"""The use cases of a batch: accept a file, plan its rows, pause, resume, withdraw, retry, count, report."""

from __future__ import annotations

import hashlib
import marshal
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from refundry.accounts.model import Connect
from refundry.audit import service as audit
from refundry.batches import repository
from refundry.batches.model import (
    Batch,
    BatchRow,
    BatchState,
    BatchUnknown,
    BatchWithdrawn,
    Budget,
    Course,
    Foreseen,
    NotApplied,
    Schedule,
    Standing,
    Totals,
    Turn,
    Verdict,
    Wanted,
    batch_id,
    request_key_of,
    standing_of,
)
from refundry.batches.repository import PackedRow
from refundry.batches.rules import calendar
from refundry.batches.rules import schedule as rules
from refundry.batches.rules.asked import words
from refundry.batches.rules.schedule import Allow, Fit, Halt, Seen, Wait, Why
from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.connectors.base import FileOpened, Reference, ReferenceKind, amount_asked
from refundry.infra.db import Database, Needs, Unit
from refundry.infra.spool import Spool
from refundry.kernel import ids
from refundry.kernel.actor import SYSTEM, Actor
from refundry.kernel.errors import AmountInvalid, CurrencyUnknown
from refundry.kernel.lane import Lane
from refundry.kernel.money import Money, exponent
from refundry.kernel.outcome import SeenRefund
from refundry.policies.rules import ANEW, connect_of, undecided
from refundry.refunds import service as refunds
from refundry.refunds.model import (
    AT_STRIPE,
    IN_FLIGHT,
    REOPENABLE,
    UNPAID,
    Attempt,
    Content,
    HeldReason,
    RefundRequest,
    State,
)
from refundry.refunds.service import NOT_PAID, Claimed, Receipt, Received, Tally

SLICE = 500
# The event of a batch's one audit entry for all its rows.
ACCEPTED = "batch.accepted"
# And of its end by a person.
WITHDRAWN = "batch.withdrawn"
# Rows that led to more than one charge, by what these say at Stripe.
UNCLEAR = ("ambiguous_order", "references_disagree")


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a reference leads to no charge."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """A file whose rows were all read and checked, and lie packed on the disk.

    Args:
        file: The file.
        rows_sha256: Of its rows as they will be kept: see `_hashed`.
        kept: The packed rows, slice by slice.
        sizes: How many bytes each slice has.
    """

    file: FileOpened
    rows_sha256: str
    kept: Spool = field(repr=False)
    sizes: array[int] = field(repr=False)

    def slices(self) -> Iterator[list[PackedRow]]:
        """Give the rows again, slice by slice."""
        start = 0
        for size in self.sizes:
            yield marshal.loads(self.kept.part(start, size))  # noqa: S302  # what this process has just written
            start += size


def ready(file: FileOpened) -> ReadyFile:
    """Read and check every row of a file. It may take long, and is done before a unit is open, since a unit keeps other writers waiting.

    Raises:
        FileRefused: The file changed while it was read; nothing was taken in.
    """
    kept, sizes, digest = Spool(), array("Q"), hashlib.sha256()
    rows = (repository.packed_row(row) for row in file.rows())
    while some := list(islice(rows, SLICE)):
        written = marshal.dumps(some)
        kept.append(written)
        sizes.append(len(written))
        digest.update(_hashed(some))
    return ReadyFile(file, digest.hexdigest(), kept, sizes)


def _hashed(rows: Sequence[PackedRow]) -> bytes:
    """Write down of rows what never changes: number, line, cells, what is asked for; JSON has no line breaks of its own."""
    return "".join(f"{number}\n{line}\n{raw}\n{wanted or ''}\n" for number, line, raw, wanted, _, _ in rows).encode()


def accept(
    unit: Unit, account: str, file: FileOpened | ReadyFile, options: str, actor: Actor, *, planned: bool = False
) -> tuple[Batch, bool]:
    """Take a whole file in, in one commit; the same file again is the batch that is there already.

    With `planned` nothing of it is paid before its plan is applied, or it is handed in again without. Its one audit entry has the hash of its bytes and the hash of its rows as they are kept.

    Returns:
        The batch, and whether it is new.

    Raises:
        FileRefused: The file changed while it was read; nothing was taken in.
    """
    opened = file.file if isinstance(file, ReadyFile) else file
    known = repository.find(unit, batch_id(account, opened.sha256, options))
    if known is not None:
        return (known if planned else _unplanned_run(unit, known, actor)), False
    state = BatchState.PLANNED if planned else BatchState.ACCEPTED
    batch = Batch(
        batch_id(account, opened.sha256, options), account, opened.name, opened.sha256, state,
        opened.columns, opened.row_count, unit.now,
    )  # fmt: skip
    if not repository.add(unit, batch):
        # Another process has just taken it in, perhaps to plan it.
        known = need(unit, batch.id)
        return (known if planned else _unplanned_run(unit, known, actor)), False
    kept = file if isinstance(file, ReadyFile) else ready(file)
    for rows in kept.slices():
        repository.add_rows(unit, batch.id, rows)
    batch = _planned_if_all(unit, batch)
    facts = {
        "file": batch.name, "sha256": batch.sha256, "options": options, "rows": batch.row_count,
        "rows_sha256": kept.rows_sha256, "account": account,
    }  # fmt: skip
    audit.record(unit, actor, ACCEPTED, batch.id, facts)
    return batch, True


def _unplanned_run(unit: Unit, batch: Batch, actor: Actor) -> Batch:
    """Let a batch that waits for a plan be paid without one: whoever runs a file has said so."""
    if batch.state is not BatchState.PLANNED:
        return batch
    # Somebody may be about to withdraw it, or to apply its plan, which is waited for and stays.
    repository.lock(unit, batch.id)
    batch = need(unit, batch.id)
    if batch.state is not BatchState.PLANNED:
        return batch
    repository.set_state(unit, batch.id, BatchState.ACCEPTED)
    audit.record(unit, actor, "batch.run", batch.id, {})
    return _planned_if_all(unit, replace(batch, state=BatchState.ACCEPTED))


def apply(unit: Unit, batch: Batch, plan: str) -> bool:
    """Let a batch that waits for its plan be paid by it; false, if it does not wait.

    Raises:
        BatchWithdrawn: It was withdrawn.
    """
    if not repository.apply(unit, batch.id, plan):
        _not_withdrawn(unit, batch)
        return False
    _planned_if_all(unit, need(unit, batch.id))
    return True


def first_fault(unit: Unit) -> str | None:
    """Hold the rows of every batch against the hash in its audit entry: `None` if nobody has changed them, else what is wrong."""
    for entry in audit.of_event(unit, ACCEPTED):
        digest = hashlib.sha256()
        for rows in repository.packed_rows(unit, entry.subject):
            digest.update(_hashed(rows))
        if digest.hexdigest() != entry.facts.get("rows_sha256", digest.hexdigest()):
            return f"rows of batch {entry.subject[:8]} ({entry.facts['file']}) are not those that were accepted"
    return None


def _planned_if_all(unit: Unit, batch: Batch) -> Batch:
    """Move a batch on once none of its rows is left to be looked up, be it that none ever was."""
    if batch.state is not BatchState.ACCEPTED or repository.any_unplanned(unit, batch.id):
        return batch
    repository.set_state(unit, batch.id, BatchState.RUNNING)
    return replace(batch, state=BatchState.RUNNING)


# Planning


def hold_planning(unit: Unit, batch: str, lease: str, seconds: float) -> bool:
    """Take the turn to look a batch's rows up, or keep it, for so long; false while another process has it.

    What two looked up at once would cost each call twice, at a pace that they share.
    """
    # A unit that waited for the other one's began before it, and takes no turn of a moment ago for one of a clock that was ahead.
    return repository.hold_planning(unit, batch, lease, unit.now + seconds, unit.now + 2 * seconds)


def release_planning(unit: Unit, batch: str, lease: str) -> None:
    """Give the turn back, if it is still held."""
    repository.release_planning(unit, batch, lease)


def end_planning(unit: Unit, account: str) -> None:
    """Give back the turns that dead processes had. Only for whoever knows that no other process executes."""
    repository.end_planning(unit, account)


def next_unplanned(unit: Unit, batch: str, most: int = SLICE, after: int = 0) -> list[BatchRow]:
    """Read the next rows whose charges are to be looked up; none of a batch that is paused, or that nothing is paid of."""
    current = repository.find(unit, batch)
    return repository.unplanned(unit, batch, most, after) if current is not None and current.state in PAYING else []


def plan_slice(
    unit: Unit,
    batch: Batch,
    missing: Mapping[Reference, Missing],
    *,
    mode: str,
    actor: Actor,
    looked: Sequence[BatchRow] | None = None,
    connect: Connect = Connect(),  # noqa: B008  # frozen: nothing is set
    foreseen: Mapping[int, Foreseen] | None = None,
) -> int:
    """Turn the next rows into refund requests, from the mirror; tells how many rows were planned.

    Args:
        unit: The open unit.
        batch: Whose rows.
        missing: The references that were looked for at Stripe and lead to no charge.
        mode: `test` or `live`.
        actor: Who handed the file in.
        looked: The rows whose references were looked for, as they were read then; another planner may have taken some of them since,
            and then the next ones are not ours: what was not looked for would be called unknown. The next ones, if not told.
        connect: The Connect flags that are set for the account.
        foreseen: What the batch's plan says of those rows; `None` without a plan.
    """
    repository.lock(unit, batch.id)
    now = repository.find(unit, batch.id)
    scheduled = now is not None and now.schedule is not None
    if looked is None:
        rows = repository.unplanned(unit, batch.id, SLICE)
    else:
        rows = repository.still_unplanned(unit, batch.id, looked)
    fetch_named(unit, batch.account, rows)
    verdicts: dict[int, Verdict] = {}
    wanted: list[tuple[BatchRow, RefundRequest]] = []
    for row in rows:
        if row.wanted is None:
            continue
        judged = resolve(unit, batch.account, row.wanted, missing, mode, connect)
        if foreseen is not None and not row.anew:
            judged = _as_planned(judged, foreseen.get(row.number))
        if isinstance(judged, Verdict):
            # The next retry goes on with the request that it became before: under its key there can be no other.
            verdicts[row.number] = replace(judged, request=row.became)
        else:
            judged = refunds.put_in_line(judged) if scheduled else judged
            wanted.append((row, judged))
    first: dict[str, int] = {}
    for (row, request), got in zip(wanted, refunds.receive(unit, [q for _, q in wanted], actor), strict=True):
        own = row.became == request.id
        verdicts[row.number] = _goes_on(unit, request, actor) if own else _received(unit, row, request, got, first)
        first.setdefault(request.id, row.number)
    if verdicts:
        repository.plan(unit, batch.id, verdicts)
    for row, request in wanted:
        if row.became is not None and not verdicts[row.number].code and refunds.need(unit, request.id).state in UNPAID:
            # It had its turn before.
            _stopped_if_paused(unit, batch, request.id, actor)
            _in_line_again(unit, request.id, actor)
    current = repository.find(unit, batch.id)
    if current is not None and current.state is not BatchState.RUNNING and current.state is not BatchState.ACCEPTED:
        refunds.stop(unit, [v.request for v in verdicts.values() if v.request and not v.code], actor)
    if current is not None:
        _planned_if_all(unit, current)
    return len(rows)


def fetch_named(unit: Unit, account: str, rows: Iterable[BatchRow]) -> None:
    """Read the charges that rows name, all together."""
    of: dict[ReferenceKind, list[str]] = {kind: [] for kind in ReferenceKind}
    for row in rows:
        for reference in row.wanted.references if row.wanted else ():
            of[reference.kind].append(reference.value)
    charges.fetch(
        unit, account, ids=of[ReferenceKind.CHARGE_ID], orders=of[ReferenceKind.ORDER_ID],
        payment_intents=of[ReferenceKind.PAYMENT_INTENT],
    )  # fmt: skip


def _as_planned(judged: Verdict | RefundRequest, foreseen: Foreseen | None) -> Verdict | RefundRequest:
    """Take only what the plan was to pay, and only if the row still means the same."""
    if foreseen is None:
        return Verdict("not_in_plan", "the plan does not know this row")
    if foreseen.code:
        return Verdict(foreseen.code, f"not payable in the plan: {foreseen.text}")
    if isinstance(judged, Verdict):
        return replace(judged, code="changed_since_plan", text=f"payable in the plan, and now: {judged.text}")
    if judged.id != foreseen.request or judged.content.fingerprint != foreseen.fingerprint:
        text = f"in the plan it was request {foreseen.request}, and now it is {judged.id} on {judged.content.charge}: {ANEW}"
        return Verdict("changed_since_plan", text)
    return replace(judged, allowed=foreseen.allowed, planned=foreseen.planned)


def resolve(
    unit: Unit,
    account: str,
    wanted: Wanted,
    missing: Mapping[Reference, Missing],
    mode: str,
    connect: Connect = Connect(),  # noqa: B008  # frozen: nothing is set
) -> Verdict | RefundRequest:
    """Find the charge and amount that a row, or a person at the desk, asks for; or say why not.

    Args:
        unit: The open unit.
        account: Whose charge it has to be.
        wanted: What is asked for.
        missing: The references that were looked for at Stripe and lead to no charge.
        mode: `test` or `live`.
        connect: The Connect flags that are set for the account; what they say becomes part of the request's content.
    """
    found: Charge | None = None
    for reference in wanted.references:
        charge = _charge(unit, account, reference, missing)
        if isinstance(charge, Verdict):
            return charge
        if found is not None and charge.id != found.id:
            text = f"the row names {found.id} and {charge.id}: leave one of its references empty, or make them agree"
            return Verdict("references_disagree", text)
        found = charge
    if found is None:
        return Verdict("no_charge_named", "the row names no charge")
    currency = wanted.currency or found.currency
    try:
        # Also where all of it is asked for: nobody here could tell how much that is.
        exponent(currency)
        money = amount_asked(wanted.amounts, currency)
    except (AmountInvalid, CurrencyUnknown) as error:
        return Verdict(error.code, error.message, currency=currency)
    asked = None if money is None else money.minor_units
    flags = connect_of(found, Connect(wanted.reverse_transfer, wanted.refund_application_fee), connect)
    if (refused := undecided(found, flags)) is not None:
        # Before there is a request: the row is to be filled in, and then asks for something else under the same key.
        return Verdict(refused.code, refused.text, currency=currency, asked_minor=asked)
    key = request_key_of(wanted, found.id, asked, currency)
    content = Content(
        charge=found.id,
        asked_minor=asked,
        currency=currency,
        reason=wanted.reason,
        ticket_id=wanted.ticket_id,
        metadata=wanted.metadata,
        refund_application_fee=flags.refund_application_fee,
        reverse_transfer=flags.reverse_transfer,
    )
    stripe_id = account.partition("|")[0]
    return RefundRequest(ids.request_id(stripe_id, mode, key), account, key, content, lane=Lane.BULK, due_at=unit.now)


def _charge(unit: Unit, account: str, reference: Reference, missing: Mapping[Reference, Missing]) -> Charge | Verdict:
    by_id = charges.find(unit, reference.value) if reference.kind is ReferenceKind.CHARGE_ID else None
    if by_id is not None and by_id.account != account:
        whose = by_id.account.partition("|")[0]
        text = f"{by_id.id} is a charge of {whose}, another of your accounts: pay it there, with --account {whose}"
        return Verdict("charge_of_other_account", text)
    if (gone := missing.get(reference)) is not None:
        return Verdict(gone.code, gone.text)
    candidates = _candidates(unit, account, reference)
    live = [charge for charge in candidates if charge.status != "failed"] or candidates
    captured = [charge for charge in live if charge.captured] or live
    if not captured:
        return Verdict(
            "charge_unknown", f"there is no charge for {reference.kind} {reference.value} in this account and mode"
        )
    if len(captured) > 1:
        told = ", ".join(charge.id for charge in captured[:5])
        return Verdict(
            "ambiguous_order",
            f"{reference.kind} {reference.value} has {len(captured)} charges ({told}): name one of them (in a file as charge_id, "
            "by command as --charge)",
        )
    return captured[0]


def _candidates(unit: Unit, account: str, reference: Reference) -> list[Charge]:
    match reference.kind:
        case ReferenceKind.CHARGE_ID:
            charge = charges.find(unit, reference.value)
            return [] if charge is None else [charge]
        case ReferenceKind.PAYMENT_INTENT:
            return charges.by_payment_intent(unit, account, reference.value)
        case ReferenceKind.ORDER_ID:
            return charges.by_order(unit, account, reference.value)


def _received(unit: Unit, row: BatchRow, request: RefundRequest, got: Received, first: Mapping[str, int]) -> Verdict:
    """Say what became of a row whose request was handed in."""
    asked, currency = request.content.asked_minor, request.content.currency
    if got.receipt is Receipt.NEW:
        return Verdict(request=request.id, currency=currency, asked_minor=asked)
    where = _where(unit, request.id, first)
    if got.receipt is Receipt.CONFLICT:
        text = f"{where} already asks with the same key for something else ({_said(got.request)}): nothing was changed"
        if refunds.asks_as_before(got.request, request):
            text = (
                f"{where} asks for the same of {got.request.content.charge}, whose payment has failed, and which gives nothing back: "
                f"`refundry refund create` asks for it anew, of {request.content.charge}"
            )
        return Verdict("same_key_other_content", text, request.id, currency, asked)
    keyless = row.wanted is not None and row.wanted.request_key is None and row.wanted.ticket_id is None
    if keyless:
        text = f"{where} already asks for the same amount of this charge: give the row a ticket_id or a request_key, if it is another refund"
        return Verdict("possible_repeat", text, request.id, currency, asked)
    return Verdict("repeated_row", f"the same refund as {where}{_unpaid(got.request)}", request.id, currency, asked)


def _goes_on(unit: Unit, request: RefundRequest, actor: Actor) -> Verdict:
    """Let a row keep the request that it became before, on the charge that it leads to now."""
    refunds.follow_payment(unit, request, actor)
    return Verdict(request=request.id, currency=request.content.currency, asked_minor=request.content.asked_minor)


def _unpaid(request: RefundRequest) -> str:
    """Say of a request that is over without a refund that it is: who reads that a row repeats another takes it for paid."""
    if request.state not in REOPENABLE:
        return ""
    return f", which is {request.state} and gives nothing back: `refundry refund create` asks for it anew"


def _where(unit: Unit, request: str, first: Mapping[str, int]) -> str:
    if request in first:
        return f"row {first[request]}"
    came = repository.first_row_of(unit, request)
    return f"row {came[2]} of {came[1]}" if came else f"refund request {request}"


def _said(request: RefundRequest) -> str:
    content = request.content
    return f"{content.asked} {content.currency} of {content.charge}, {content.reason}"


# Steering


def need(unit: Unit, prefix: str) -> Batch:
    """Read a batch by its id or the beginning of it.

    Raises:
        BatchUnknown: There is none, or more than one begins so.
    """
    found = repository.starting_with(unit, prefix) if prefix else []
    if len(found) == 1:
        return found[0]
    why = "more than one batch begins with" if found else "there is no batch"
    raise BatchUnknown(f"{why} {prefix}: `refundry batch list` shows them", batch=prefix)


def _applied(batch: Batch) -> None:
    if batch.state is BatchState.PLANNED:
        raise NotApplied(
            f"{batch.name} is planned, and its plan was not applied: nothing of it is paid; `refundry batch apply PLAN` or "
            "`refundry batch run FILE --yes` pays it",
            batch=batch.id,
        )


def hold_up(unit: Unit, batch: Batch, actor: Actor) -> None:
    """Let nothing more of a batch be sent from this commit on.

    For who is about to pause or withdraw it, which goes through all of its rows and takes the longer the more they are.
    """
    # Somebody may have withdrawn it since it was read, which is its end.
    repository.lock(unit, batch.id)
    if need(unit, batch.id).state in PAYING:
        repository.set_state(unit, batch.id, BatchState.PAUSED)
        audit.record(unit, actor, "batch.held_up", batch.id, {})


def pause(unit: Unit, batch: Batch, actor: Actor, why: str = "") -> int:
    """Stop a batch: nothing more of it is sent; what is on its way is awaited. Tells how many rows were stopped.

    Raises:
        NotApplied: It waits for its plan to be applied, and pays nothing.
    """
    _applied(batch)
    _not_withdrawn(unit, batch)
    repository.set_state(unit, batch.id, BatchState.PAUSED)
    count = sum(refunds.stop(unit, page, actor) for page in repository.requests(unit, batch.id))
    audit.record(unit, actor, "batch.paused", batch.id, {"stopped": count} | ({"why": why} if why else {}))
    return count + _in_line_count(unit, batch) + repository.unplanned_count(unit, batch.id)


def _in_line_count(unit: Unit, batch: Batch) -> int:
    """Count the rows that wait for their turn: a pause keeps them there, and so does going on."""
    if batch.schedule is None:
        return 0
    pages = repository.requests_selected(batch.id, batch.row_count)
    tallies = (tally for page in pages for tally in refunds.tally(unit, page))
    return sum(tally.count for tally in tallies if tally.held in refunds.IN_LINE)


def resume(unit: Unit, batch: Batch, actor: Actor) -> int:
    """Let a paused batch go on; tells how many rows go on.

    Raises:
        NotApplied: It waits for its plan to be applied.
    """
    _applied(batch)
    _not_withdrawn(unit, batch)
    unplanned = repository.unplanned_count(unit, batch.id)
    repository.set_state(unit, batch.id, BatchState.ACCEPTED if unplanned else BatchState.RUNNING)
    current = need(unit, batch.id)
    waiting = _in_line_count(unit, current)
    in_line = current.schedule is not None
    count, course = 0, current.course
    for page in repository.requests(unit, batch.id):
        count += refunds.go_on(unit, page, actor, in_line=in_line)
        if in_line:
            waits = [request.id for request in refunds.many(unit, page).values() if refunds.waits_in_line(request)]
            course = _turn_anew(unit, batch.id, course, waits)
    if in_line:
        having = _having_turn(unit, replace(current, course=course))
        # Whoever lets it go on knows what has failed: only what fails from here on halts it again.
        failed = having.course.failed + having.unknown
        repository.set_course(unit, batch.id, replace(course, halted="", forgiven=failed, resting=False))
    audit.record(unit, actor, "batch.resumed", batch.id, {"resumed": count})
    return count + waiting + unplanned


def _not_withdrawn(unit: Unit, batch: Batch) -> None:
    """Keep a batch that was withdrawn as it is; until the unit is over, nobody withdraws it."""
    repository.lock(unit, batch.id)
    current = repository.find(unit, batch.id)
    if current is not None and current.state is BatchState.WITHDRAWN:
        raise BatchWithdrawn(
            f"batch {batch.id[:8]} ({batch.name}) was withdrawn: nothing more of it is paid; `refundry refund create` pays a refund "
            "of it that is wanted after all",
            batch=batch.id,
        )


def withdraw(unit: Unit, batch: Batch, actor: Actor, why: str) -> int:
    """Take back all that was not sent yet; tells how many rows were withdrawn."""
    # First, since it waits for a planner that is turning rows into requests: none of those may be missed.
    repository.set_state(unit, batch.id, BatchState.WITHDRAWN)
    count = 0
    for page in repository.requests(unit, batch.id):
        for request in refunds.many(unit, page, hold=True).values():
            if request.state in {State.RECEIVED, State.AWAITING_APPROVAL, State.APPROVED}:
                refunds.withdraw(unit, request.id, actor, why)
                count += 1
    unplanned = {row.number: Verdict("withdrawn", why) for row in repository.unplanned(unit, batch.id, batch.row_count)}
    if unplanned:
        repository.plan(unit, batch.id, unplanned)
    audit.record(unit, actor, WITHDRAWN, batch.id, {"withdrawn": count, "unplanned": len(unplanned), "why": why})
    return count + len(unplanned)


def came_back(unit: Unit, request: str) -> None:
    """Keep to what a person has said of a batch while a request of it was on its way, which came back unpaid: it waits, or is taken back."""
    if repository.paused(unit, request):
        refunds.stop(unit, [request], SYSTEM)
    if taken_back(unit, request) and refunds.need(unit, request).state in UNPAID:
        refunds.withdraw(unit, request, SYSTEM, "its batch was withdrawn while it was on its way")


def taken_back(unit: Unit, request: str) -> bool:
    """Tell whether the batch of a request was withdrawn, and no person has reopened the request since: then it is not sent anew.

    When it was sent says nothing: what was in doubt then is sent again under its key.
    """
    batch = repository.withdrawn(unit, request)
    if batch is None:
        return False
    withdrawn = [entry.at for entry in audit.timeline(unit, batch) if entry.event == WITHDRAWN]
    reopened = [entry.at for entry in audit.timeline(unit, request) if entry.event == refunds.REOPENED]
    return max(withdrawn, default=0.0) >= max(reopened, default=0.0)


def retry(unit: Unit, batch: Batch, actor: Actor) -> int:
    """Have those rows looked at again that were declined or rejected, whose charge was not found, or that wait for the balance; tells how many.

    What people have said was not paid stays as it is: they may have paid it in another way, and it is asked for by itself. Where a payment had
    failed, what the row names is looked up again: the customer may have paid by another charge since.

    Raises:
        NotApplied: It waits for its plan to be applied.
        BatchWithdrawn: It was withdrawn.
    """
    _applied(batch)
    _not_withdrawn(unit, batch)
    count, again, over = 0, 0, {State.DECLINED, State.REJECTED}
    _distrust_what_was_unclear(unit, batch)
    for page in repository.requests(unit, batch.id):
        count += refunds.try_now(unit, page, actor)
        refused = [
            request
            for request in refunds.many(unit, page).values()
            if request.state in over and request.reason_code != NOT_PAID
        ]
        paid_since = _perhaps_paid_since(unit, batch, [one.id for one in refused if refunds.payment_failed(one)])
        again += repository.unplan_rows(unit, batch.id, list(paid_since.values()))
        refused = [request for request in refused if request.id not in paid_since]
        # By a new look: whoever asks again has changed something. Charges before requests, as everywhere.
        for charge in sorted({request.content.charge for request in refused}):
            charges.touch(unit, charge, unit.now)
        for request in refunds.many(unit, [request.id for request in refused], hold=True).values():
            if request.state in over:
                refunds.reopen(unit, request.id, actor)
                _stopped_if_paused(unit, batch, request.id, actor)
                _in_line_again(unit, request.id, actor)
                count += 1
    again += repository.unplan(unit, batch.id)
    repository.lock(unit, batch.id)
    current = repository.find(unit, batch.id)
    if again and current is not None and current.schedule is not None:
        # Their turns are still to come, wherever they stand in the file, also if the batch has come to rest.
        repository.set_course(unit, batch.id, replace(current.course, rows=0, next_row=1, resting=False))
    if again and current is not None and current.state is BatchState.RUNNING:
        repository.set_state(unit, batch.id, BatchState.ACCEPTED)
    audit.record(unit, actor, "batch.retried", batch.id, {"reopened": count, "looked_up_again": again})
    return count + again


def _perhaps_paid_since(unit: Unit, batch: Batch, failed: Sequence[str]) -> dict[str, int]:
    """Tell those of requests whose payment had failed whose rows do not name its charge itself, and the numbers of these."""
    of = dict(repository.of_requests(unit, batch.id, failed))
    by_id = ReferenceKind.CHARGE_ID
    return {
        of[row.number]: row.number
        for row in repository.some_rows(unit, batch.id, of)
        if row.wanted and all(one.kind is not by_id for one in row.wanted.references)
    }


def _distrust_what_was_unclear(unit: Unit, batch: Batch) -> None:
    """Have the charges looked at anew that rows led to, and not to one of them: whoever asks again has changed their metadata."""
    after = 0
    while rows := repository.of_codes(unit, batch.id, UNCLEAR, after=after, most=SLICE):
        fetch_named(unit, batch.account, rows)
        named = [reference for row in rows if row.wanted is not None for reference in row.wanted.references]
        for charge in sorted({charge.id for one in named for charge in _candidates(unit, batch.account, one)}):
            charges.touch(unit, charge, unit.now)
        after = rows[-1].number


def allow_repeat(unit: Unit, batch: Batch, number: int, actor: Actor) -> bool:
    """Say that a row's request is no repeat; false, if the row has no request of its own."""
    request = repository.request_of_row(unit, batch.id, number)
    if request is None:
        return False
    if refunds.allow_repeat(unit, request, actor).state in UNPAID:
        # One that somebody else has let go before, and that is paid, has been counted.
        _stopped_if_paused(unit, batch, request, actor)
        _in_line_again(unit, request, actor)
    return True


def _stopped_if_paused(unit: Unit, batch: Batch, request: str, actor: Actor) -> None:
    """Keep to a pause: what was freed from another wait does not go on before the batch does."""
    current = repository.find(unit, batch.id)
    if current is not None and current.state is BatchState.PAUSED:
        refunds.stop(unit, [request], actor)


def _in_line_again(unit: Unit, request: str, actor: Actor) -> None:
    """Keep to a schedule: what was freed from another wait, or is decided anew, waits for its turn."""
    found = repository.schedule_of(unit, request)
    if found is None or found[0].schedule is None:
        return
    batch = found[0].id
    refunds.make_wait(unit, [request], actor)
    course = _turn_anew(unit, batch, _held_course(unit, batch), [request])
    repository.set_course(unit, batch, replace(course, resting=False))


def _turn_anew(unit: Unit, batch: str, course: Course, requests: Sequence[str]) -> Course:
    """Have the next turn look at those rows again that were over or had left their place, of some requests; tells the course without them."""
    over, failed = (repository.of_turn(unit, batch, requests, turn) for turn in (Turn.OVER, Turn.FAILED))
    repository.set_turn(unit, batch, [*over, *failed], Turn.HAS_COME)
    # How much of it was forgiven the next turn tells, which knows also what is unknown.
    return replace(course, over=max(course.over - len(failed), 0), failed=max(course.failed - len(failed), 0))


# Keeping to a schedule

PAYING = frozenset({BatchState.ACCEPTED, BatchState.RUNNING})
# How many rows in line are looked at in one turn at most: those that were paid before there was a schedule are passed by.
LINE_MAX = 5000
# The balance is read again after so many seconds while rows are on their way, and while none is.
BALANCE_SECONDS, BALANCE_IDLE_SECONDS = 5.0, 60.0
# So many rows are looked at though fewer may go, for those that are passed by.
LOOK_LEAST = 50


def set_schedule(unit: Unit, batch: Batch, schedule: Schedule, actor: Actor) -> Batch:
    """Give a batch a schedule, or another one: what could be sent and is not yet waits for its turn, anew.

    The same schedule again changes nothing, and what was sent today stays counted. One that was withdrawn has no turns to give: what a person
    has asked for anew since would wait for ever.
    """
    repository.lock(unit, batch.id)
    current = need(unit, batch.id)
    if current.schedule == schedule or current.state is BatchState.WITHDRAWN:
        return current
    repository.set_schedule(unit, batch.id, schedule)
    course = replace(current.course, anchor=None, rows=0, next_row=1, resting=False)
    for page in repository.requests(unit, batch.id):
        course = _turn_anew(unit, batch.id, course, refunds.make_wait(unit, page, actor))
    if schedule.canary and (current.schedule is None or schedule.canary != current.schedule.canary):
        # Stages begin with the first: whoever asks for one row wants to see one more, however many were sent before.
        begun = [number for number, _ in repository.having_turn(unit, batch.id)]
        repository.set_turn(unit, batch.id, begun, Turn.WAITS)
        for page in repository.requests(unit, batch.id):
            declined = [request.id for request in refunds.many(unit, page).values() if request.state is State.DECLINED]
            # Counted no more: tried again, it must not take another one's failure off the count.
            counted = repository.of_turn(unit, batch.id, declined, Turn.FAILED)
            repository.set_turn(unit, batch.id, counted, Turn.OVER)
        course = replace(course, released=course.released - len(begun), over=0, failed=0, forgiven=0)
    repository.set_course(unit, batch.id, course)
    if schedule.max_per_day is not None:
        # Only now that the requests are held: what was just being sent is on disk, and counts. And before budgets, as everywhere.
        _count_today(unit, batch.id, schedule)
    audit.record(unit, actor, "batch.scheduled", batch.id, {"schedule": asdict(schedule)})
    return need(unit, batch.id)


def _count_after_set_back(unit: Unit, batch: str, schedule: Schedule) -> None:
    """Count today anew if a day was begun that is still to come: the clock was set back since, and of today nothing is known any more."""
    if schedule.max_per_day is None:
        return
    today = calendar.day_of(schedule.zone, unit.now)
    begun = [currency for currency, kept in repository.budgets(unit, batch).items() if kept.day > today]
    # Held now: by the time that it is, no other process can have begun a day that this one has not seen yet.
    held = [repository.budget(unit, batch, currency) for currency in begun]
    today = calendar.day_of(schedule.zone, max(unit.now, unit.present()))
    stale = [kept for kept in held if kept.day > today]
    for kept in stale:
        repository.save_budget(unit, batch, replace(kept, day=today, sent_minor=0))
    if stale:
        _count_today(unit, batch, schedule)


def _count_today(unit: Unit, batch: str, schedule: Schedule) -> None:
    """Count what was sent today before there was a maximum, or when today was another day, by another time zone."""
    day = calendar.day_of(schedule.zone, unit.now)
    sent: Counter[str] = Counter()
    for page in repository.requests(unit, batch):
        for at, currency, amount in refunds.sent(unit, page):
            if calendar.day_of(schedule.zone, at) >= day:
                sent[currency] += amount
    for currency, amount in sorted(sent.items()):
        kept = repository.budget(unit, batch, currency)
        counted = max(amount, kept.sent_minor) if kept.day == day else amount
        repository.save_budget(unit, batch, replace(kept, day=day, sent_minor=counted))


@dataclass(slots=True)
class _HavingTurn:
    """What has become of the rows whose turn had come, or that were sent before there were turns; by row number, and amounts in minor units by currency."""

    course: Course
    before: int = 0
    back: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    over: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    unsent: dict[str, int] = field(default_factory=dict)
    moving: int = 0
    unknown: int = 0
    promised: Counter[str] = field(default_factory=Counter)
    flying: Counter[str] = field(default_factory=Counter)


def _having_turn(unit: Unit, batch: Batch, *, hold: bool = False) -> _HavingTurn:
    """Look at the rows whose turn had come, or that are on their way without one; nothing is written. With `hold`, those that wait for a person or a dispute go on waiting until the unit is over."""
    course = batch.course
    if batch.state is BatchState.ACCEPTED:
        course = replace(course, rows=0)
    elif not course.rows:
        # All are looked up, also those that were passed by before.
        course = replace(course, rows=repository.request_count(unit, batch.id), next_row=1)
    rows = repository.having_turn(unit, batch.id)
    known = refunds.but_for_waiting(unit, [request for _, request in rows], refunds.IN_LINE)
    if hold:
        known |= refunds.many(unit, [request for _, request in rows if request not in known], hold=True)
    seen = _HavingTurn(course)
    for number, request_id in rows:
        if request_id in known:
            _look_at(seen, number, known[request_id])
    _look_before(unit, batch, seen, {request for _, request in rows})
    if batch.schedule is not None and batch.schedule.canary:
        # Stripe had taken them, and told only later that their money did not arrive.
        late = repository.of_turn(unit, batch.id, refunds.failed(unit, batch.account), Turn.OVER)
        seen.failed += late
        seen.course = replace(seen.course, failed=seen.course.failed + len(late))
    # What was unknown when the batch was let go on, and is paid by now, is no failure that another one may take the place of.
    forgiven = min(seen.course.forgiven, seen.course.failed + seen.unknown)
    seen.course = replace(seen.course, forgiven=forgiven)
    return seen


def _look_before(unit: Unit, batch: Batch, seen: _HavingTurn, turned: Container[str]) -> None:
    """Look at what is on its way though no turn of this schedule let it go: it may be paid on any day that begins meanwhile."""
    others = [request for request in refunds.all_on_the_way(unit, batch.account) if request not in turned]
    sent = repository.of_requests(unit, batch.id, others)
    known = refunds.many(unit, [request for _, request in sent])
    for number, request_id in sent:
        request = known[request_id]
        seen.flying[request.content.currency] += request.amount_minor if request.state in IN_FLIGHT else 0
        if request.state is State.SUBMITTING:
            seen.before = min(seen.before or number, number)


def _look_at(seen: _HavingTurn, number: int, request: RefundRequest) -> None:
    course, amount, currency = seen.course, request.amount_minor, request.content.currency
    if refunds.waits_in_line(request):
        seen.back.append(number)
        seen.course = replace(
            course, next_row=min(course.next_row, number), released=course.released - 1, resting=False
        )
    elif request.state in UNPAID:
        goes_on = request.state is not State.AWAITING_APPROVAL
        if goes_on and (request.hold is None or request.hold.until is not None):
            seen.moving += 1
            seen.unsent[request.id] = number
            seen.promised[currency] += amount or request.asks_minor or 0
        else:
            seen.left.append(number)
    elif request.state in IN_FLIGHT:
        seen.flying[currency] += amount
        seen.moving += request.state is State.SUBMITTING
        seen.unknown += request.state is State.OUTCOME_UNKNOWN
    else:
        # What was refused before it was sent, or taken back, says nothing about how Stripe takes the rest.
        told = request.state in AT_STRIPE or request.state is State.DECLINED
        failed = told and standing_of(request.state) in {Standing.REFUSED, Standing.FAILED}
        (seen.failed if failed else seen.over).append(number)
        seen.course = replace(course, over=course.over + told, failed=course.failed + failed)


def _seen(batch: Batch, schedule: Schedule, having: _HavingTurn, now: float) -> Seen:
    rows = having.course.rows or batch.row_count
    seen = Seen(having.course, having.moving, having.unknown, rows, having.before)
    return replace(seen, course=rules.anchored(schedule, seen, now))


def release(unit: Unit, batch_id: str, ahead: int) -> None:
    """Let the next rows of a batch have their turn, as far as its schedule allows; call back those whose time is over.

    Processes take turns. Too many failures pause the batch, and `course.halted` says why.

    Args:
        unit: The open unit.
        batch_id: The batch; without a schedule, or paused, nothing happens.
        ahead: How many rows that had their turn may be unsent at most.
    """
    repository.lock(unit, batch_id)
    batch = repository.find(unit, batch_id)
    if batch is None or batch.schedule is None or batch.state not in PAYING:
        return
    having = _having_turn(unit, batch, hold=bool(batch.schedule.canary))
    repository.set_turn(unit, batch.id, having.back, Turn.WAITS)
    if batch.schedule.canary:
        # Another row takes their place in the stage, so they need one of their own when they go on.
        repository.set_turn(unit, batch.id, having.left, Turn.OVER)
    repository.set_turn(unit, batch.id, having.over, Turn.OVER)
    repository.set_turn(unit, batch.id, having.failed, Turn.FAILED)
    _count_after_set_back(unit, batch.id, batch.schedule)
    seen = _seen(batch, batch.schedule, having, unit.now)
    course = seen.course
    match rules.decide(batch.schedule, seen, unit.now, ahead):
        case Allow(rows=rows):
            course = _let_go(unit, batch, batch.schedule, having, replace(seen, course=course), rows)
        case Wait(recall=True):
            course = _recalled(unit, batch, having, course)
        case Wait():
            pass
        case Halt(text=text):
            course = replace(course, halted=text)
            pause(unit, batch, SYSTEM, why=text)
    if batch.state is BatchState.RUNNING and course.released >= course.rows and not having.moving:
        course = replace(course, resting=True)
    if course != batch.course:
        repository.set_course(unit, batch.id, course)


def _recalled(unit: Unit, batch: Batch, having: _HavingTurn, course: Course) -> Course:
    put = [having.unsent[request] for request in refunds.make_wait(unit, having.unsent, SYSTEM)]
    repository.set_turn(unit, batch.id, put, Turn.WAITS)
    return replace(course, released=course.released - len(put), next_row=min([course.next_row, *put]))


def _let_go(unit: Unit, batch: Batch, schedule: Schedule, having: _HavingTurn, seen: Seen, rows: int) -> Course:
    """Let up to so many rows go, in row order, until one does not fit into the day or the balance."""
    course, budgets, looked_at = seen.course, dict[str, Budget](), 0
    left = rows
    while left > 0 and looked_at < LINE_MAX:
        line = repository.in_line(unit, batch.id, course.next_row, min(max(left, LOOK_LEAST), SLICE))
        if not line:
            ended = batch.state is BatchState.RUNNING
            return replace(course, next_row=batch.row_count + 1, released=course.rows) if ended else course
        looked_at += len(line)
        known = refunds.many(unit, [request for _, request in line], hold=True)
        free: list[RefundRequest] = []
        passed: dict[int, Turn] = {}
        stuck: Wait | None = None
        for number, request_id in line:
            if len(free) == left:
                break
            request = known[request_id]
            if refunds.waits_in_line(request):
                stuck = _stuck(unit, batch, schedule, having, budgets, request)
                if stuck is not None:
                    break
                free.append(request)
            passed[number] = _turn_passed(schedule, request)
            course = replace(course, next_row=number + 1, released=course.released + 1)
        refunds.let_go(unit, free, SYSTEM)
        for turn in (Turn.HAS_COME, Turn.OVER, Turn.FAILED):
            repository.set_turn(unit, batch.id, [number for number, to in passed.items() if to is turn], turn)
        having.moving += len(free)
        left -= len(free)
        if stuck is not None:
            if stuck.why is Why.BALANCE:
                short = [request for _, request in line[len(passed) : len(passed) + left]]
                refunds.make_wait(unit, short, SYSTEM, HeldReason.LOW_BALANCE)
            break
    return course


def _turn_passed(schedule: Schedule, request: RefundRequest) -> Turn:
    """Tell where a row stands from now on. One that is over or unknown, or waits for something else, without a stage having let it go fills none.

    Whatever else does not wait any more is looked at in the next turn.
    """
    if not schedule.canary or request.state is State.SUBMITTING or refunds.waits_in_line(request):
        return Turn.HAS_COME
    return Turn.FAILED if request.state in {State.FAILED, State.CANCELED} else Turn.OVER


def _stuck(
    unit: Unit,
    batch: Batch,
    schedule: Schedule,
    having: _HavingTurn,
    budgets: dict[str, Budget],
    request: RefundRequest,
) -> Wait | None:
    """Tell why a row's money does not fit; if it does, it is counted in `budgets`, which is what is left for the next."""
    if schedule.max_per_day is None and schedule.keep_balance is None:
        return None
    currency, amount = request.content.currency, request.amount_minor or request.content.asked_minor or 0
    if currency not in budgets:
        budgets[currency] = rules.spent(_today(unit, batch, schedule, currency), having.promised[currency])
    fit = rules.fits(schedule, budgets[currency], amount, unit.now)
    if fit in {Fit.ANOTHER_DAY, Fit.LOW_BALANCE}:
        return rules.short(schedule, budgets[currency], fit, amount, unit.now)
    if fit is Fit.YES:
        budgets[currency] = rules.spent(budgets[currency], amount)
    # One that never fits is let go too: it is refused when it is about to be sent, and its amount is decided.
    return None


def _today(unit: Unit, batch: Batch, schedule: Schedule, currency: str) -> Budget:
    """Read what was spent, held until the unit is over; on a new day, what is still on its way counts on it."""
    kept = repository.budget(unit, batch.id, currency)
    day = calendar.day_of(schedule.zone, unit.now)
    if day <= kept.day:
        return kept
    # Kept at once: what is on its way now may be over when the day's first row is sent.
    begun = rules.of_day(kept, day, _having_turn(unit, batch).flying[currency])
    repository.save_budget(unit, batch.id, begun)
    return begun


def attach(database: Database) -> None:
    """Let where requests stand in line be read for all pieces of work together."""
    database.before_work(_expect_schedules)


def _expect_schedules(unit: Unit, needs: Sequence[Needs]) -> None:
    repository.expect_schedules(unit, [one.request for one in needs if one.request])


def held_back(unit: Unit, claimed: Claimed, absent: Attempt) -> bool:
    """Hold a request back whose attempt is proven to have paid nothing, if its batch is paused or its hours are over.

    While it was in doubt it was sent again at any hour, since Stripe soon forgets its key. The next attempt has another, and no hurry.

    Args:
        unit: The open unit.
        claimed: The request.
        absent: That attempt.
    """
    found = repository.schedule_of(unit, claimed.request.id)
    if found is None:
        return False
    batch = found[0]
    if batch.state is BatchState.PAUSED:
        reason = HeldReason.STOPPED
    elif batch.state in PAYING and batch.schedule is not None and rules.too_early(batch.schedule, unit.now):
        reason = HeldReason.SCHEDULE
    else:
        return False
    if refunds.come_back(unit, claimed, absent, reason):
        not_sent(unit, claimed.request, absent.body.amount_minor)
        if batch.course.resting:
            repository.set_course(unit, batch.id, replace(_held_course(unit, batch.id), resting=False))
    return True


def may_send(unit: Unit, claimed: Claimed) -> bool:
    """Tell whether a request may be sent at this moment, by the schedule of the batch that it came from.

    Where it may, its amount is spent. Where it may not, it waits in line again, or is refused, and its worker has lost it. This is
    what makes the hours of a window and the maximum of a day exact, whatever process was asleep when they were over. One whose
    outcome is in doubt is sent again whatever the schedule says, since its money was spent before.
    """
    request = claimed.request
    found = repository.schedule_of(unit, request.id)
    if found is not None and found[0].schedule is None and request.state is State.APPROVED:
        # Its batch was paused while it waited for something else, as for a dispute to end.
        refunds.send_back(unit, claimed, HeldReason.STOPPED)
        return False
    if found is None or found[0].state is BatchState.WITHDRAWN or found[0].schedule is None:
        return True
    batch, number, turn = found
    schedule = found[0].schedule
    limited = schedule.max_per_day is not None or schedule.keep_balance is not None
    if request.state is not State.APPROVED:
        if limited:
            _today(unit, batch, schedule, request.content.currency)
        return True
    paused, early = batch.state is BatchState.PAUSED, rules.too_early(schedule, unit.now) is not None
    if paused or early or _without_place(unit, batch, schedule, turn):
        _back(unit, claimed, batch, turn, HeldReason.SCHEDULE)
        return False
    if limited:
        budget = _today(unit, batch, schedule, request.content.currency)
        match rules.fits(schedule, budget, request.amount_minor, unit.now):
            case Fit.YES:
                repository.save_budget(unit, batch.id, rules.spent(budget, request.amount_minor))
            case Fit.NEVER:
                text = (
                    f"{Money(request.amount_minor, budget.currency)} is more than the batch may send in a day "
                    f"({schedule.max_per_day}): raise --max-per-day and use `batch retry`, or pay it with `refundry refund create`"
                )
                refunds.refuse(unit, claimed, "above_daily_maximum", text)
                return False
            case Fit.ANOTHER_DAY:
                _back(unit, claimed, batch, turn, HeldReason.SCHEDULE)
                return False
            case Fit.LOW_BALANCE:
                _back(unit, claimed, batch, turn, HeldReason.LOW_BALANCE)
                return False
    if turn is Turn.WAITS:
        repository.set_turn(unit, batch.id, [number], Turn.HAS_COME)
    elif turn is not Turn.HAS_COME:
        _decided_anew(unit, batch, request)
    return True


def _without_place(unit: Unit, batch: Batch, schedule: Schedule, turn: Turn) -> bool:
    """Tell whether the stages have no place for a row yet: a dispute has ended for which it was held, or a person has let it go as a single request."""
    if not schedule.canary or turn is Turn.HAS_COME:
        return False
    if turn is Turn.WAITS:
        return True
    course = _held_course(unit, batch.id)
    # After the stages, or where nothing else is left to be sent, it makes none longer.
    return course.over < sum(schedule.canary) and not course.resting


def _back(unit: Unit, claimed: Claimed, batch: Batch, turn: Turn, reason: HeldReason) -> None:
    back = refunds.send_back(unit, claimed, reason)
    # Whoever has lost it, as to a dispute that is over by now, says nothing about its place.
    if back and (turn in {Turn.OVER, Turn.FAILED} or batch.course.resting):
        _decided_anew(unit, batch, claimed.request)


def _decided_anew(unit: Unit, batch: Batch, request: RefundRequest) -> None:
    """Count a row once that was over, or had left its place, and goes on by a person's word or since its dispute has ended."""
    course = _turn_anew(unit, batch.id, _held_course(unit, batch.id), [request.id])
    repository.set_course(unit, batch.id, replace(course, resting=False))


def _held_course(unit: Unit, batch: str) -> Course:
    """Read the course anew, and hold it until the unit is over: whoever lets rows go may have counted since the batch was read."""
    repository.lock(unit, batch)
    return need(unit, batch).course


def not_sent(unit: Unit, request: RefundRequest, amount_minor: int) -> None:
    """Give back what was spent for a request by `may_send`, and not sent after all."""
    found = repository.schedule_of(unit, request.id)
    if found is None or found[0].schedule is None:
        return
    if found[0].schedule.max_per_day is not None or found[0].schedule.keep_balance is not None:
        budget = repository.budget(unit, found[0].id, request.content.currency)
        repository.save_budget(unit, found[0].id, rules.spent(budget, -amount_minor))


@dataclass(frozen=True, slots=True)
class Purse:
    """What has to be known from before a balance is read: what is spent until then may be in it, or not.

    Args:
        at: When, by the database's clock.
        spent: By currency, in minor units.
        flying: What is being sent on the whole account, and may or may not be taken from the balance.
        leaving: What was refunded on the whole account, and is still shown as available.
    """

    at: float
    spent: Mapping[str, int]
    flying: Mapping[str, int]
    leaving: Mapping[str, int]


def purse(unit: Unit, batch_id: str, leaving_since: float, listed: Sequence[SeenRefund] = ()) -> Purse | None:
    """Tell what has to be known before a balance is read for a batch; `None`, if it needs none now.

    Args:
        unit: The open unit.
        batch_id: The batch.
        leaving_since: Since when refunds were made whose money is still shown as available; epoch seconds UTC, by Stripe's clock.
        listed: Those that Stripe lists since then; the ones that are not known here are counted too.
    """
    batch = repository.find(unit, batch_id)
    if batch is None or batch.schedule is None or batch.schedule.keep_balance is None or batch.state not in PAYING:
        return None
    kept = repository.budgets(unit, batch_id)
    if not kept or rules.too_early(batch.schedule, unit.now) is not None:
        return None
    wait = BALANCE_SECONDS if repository.having_turn(unit, batch_id) else BALANCE_IDLE_SECONDS
    if 0 <= unit.now - min(budget.read_at for budget in kept.values()) < wait:
        return None
    flying = refunds.flying(unit, batch.account)
    spent = {currency: budget.spent_minor for currency, budget in kept.items()}
    return Purse(unit.now, spent, flying, charges.leaving(unit, batch.account, leaving_since, listed))


def note_balance(unit: Unit, batch_id: str, before: Purse, available: Mapping[str, int]) -> None:
    """Keep how much more a batch may spend before the available balance is used up.

    Args:
        unit: The open unit.
        batch_id: The batch.
        before: What `purse` told before the balance was read.
        available: The balance, in minor units by currency; one that is not in it has nothing.
    """
    note_unread(unit, batch_id, "")
    for currency, spent in before.spent.items():
        kept = repository.budget(unit, batch_id, currency)
        # What was read at a time that is still to come was read before the clock was set back: it would keep all others out until then.
        if kept.read_at < before.at or unit.yet_to_come(kept.read_at):
            not_there = before.flying.get(currency, 0) + before.leaving.get(currency, 0)
            ceiling = spent + available.get(currency, 0) - not_there
            repository.save_budget(unit, batch_id, replace(kept, ceiling_minor=ceiling, read_at=before.at))


def note_unread(unit: Unit, batch_id: str, why: str) -> None:
    """Keep why the balance could not be read for a batch, for who looks at it from another process; an empty text, if it could."""
    if need(unit, batch_id).course.unread != why:
        repository.set_course(unit, batch_id, replace(_held_course(unit, batch_id), unread=why))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a batch's schedule says at a moment.

    Args:
        schedule: As it was asked for, in words.
        waits_for: What is waited for, see `Why`; empty, if rows may go on.
        until: When that is over, in epoch seconds UTC, if time is all it takes.
        text: The same in words.
        halted: Why the batch was halted; empty, if it was not.
        stage: In which stage it is, in words; empty, if it has none.
    """

    schedule: str
    waits_for: str = ""
    until: float | None = None
    text: str = ""
    halted: str = ""
    stage: str = ""

    @property
    def due(self) -> bool:
        """Tell whether rows may go on as soon as somebody executes, who also reads the balance that is not known."""
        return self.waits_for in {"", Why.BALANCE_UNKNOWN.value}


def outlook(unit: Unit, batch: Batch) -> Outlook | None:
    """Tell what a batch waits for by its schedule; `None`, if it has none."""
    if batch.schedule is None:
        return None
    told = Outlook(words(batch.schedule, unit.now), halted=batch.course.halted)
    if batch.schedule.canary:
        seen = _seen(batch, batch.schedule, _having_turn(unit, batch), unit.now)
        told = replace(told, stage=rules.stage_now(batch.schedule, seen))
    waits = _waits(unit, batch, batch.schedule)
    return replace(told, waits_for=waits.why.value, until=waits.until, text=waits.text) if waits else told


def _waits(unit: Unit, batch: Batch, schedule: Schedule) -> Wait | None:
    if batch.state not in PAYING or batch.course.resting:
        return None
    having = _having_turn(unit, batch)
    if batch.state is BatchState.RUNNING and not having.moving and not _any_in_line(unit, batch, having):
        return None
    seen = _seen(batch, schedule, having, unit.now)
    verdict = rules.decide(schedule, seen, unit.now, seen.rows)
    if isinstance(verdict, Wait):
        stuck = _kept_open(unit, batch, having) if verdict.why is Why.STAGE else ""
        return replace(verdict, text=verdict.text + stuck)
    line = repository.in_line(unit, batch.id, seen.course.next_row, 1)
    known = refunds.many(unit, [request for _, request in line])
    for _, request_id in line:
        request = known[request_id]
        currency, amount = request.content.currency, request.amount_minor or request.content.asked_minor or 0
        kept = repository.budgets(unit, batch.id).get(currency, Budget(currency))
        budget = rules.of_day(kept, calendar.day_of(schedule.zone, unit.now), having.flying[currency])
        budget = rules.spent(budget, having.promised[currency])
        fit = rules.fits(schedule, budget, amount, unit.now)
        if fit in {Fit.ANOTHER_DAY, Fit.LOW_BALANCE}:
            wait = rules.short(schedule, budget, fit, amount, unit.now)
            unread = seen.course.unread if wait.why is Why.BALANCE_UNKNOWN else ""
            return replace(wait, text=f"{wait.text}: {unread}") if unread else wait
    return None


def _kept_open(unit: Unit, batch: Batch, having: _HavingTurn) -> str:
    """Tell of a stage which of its rows goes on only after a person has acted, since nobody knows whether its charge's other request was paid."""
    unknown = refunds.unknown(unit, batch.account)
    known = refunds.many(unit, having.unsent) if unknown else {}
    stuck = sorted((having.unsent[id_], one) for id_, one in known.items() if one.content.charge in unknown)
    if not stuck:
        return ""
    number, request = stuck[0]
    other, more = unknown[request.content.charge], f" (and {len(stuck) - 1:,} more)" if len(stuck) > 1 else ""
    return (
        f"; row {number:,}{more} waits for request {other} of {request.content.charge}, of which nobody knows whether it was paid: look at it "
        f"by `refundry refund show {other}`, or give the row's place to another by `refundry refund withdraw {request.id}`"
    )


@dataclass(frozen=True, slots=True)
class Stuck:
    """Rows that go on only after a person has acted, in words: nobody knows whether another refund of their charge was paid."""

    count: int
    text: str


def stuck(unit: Unit, batch: Batch) -> Stuck | None:
    """Tell which rows of a batch wait for a request of unknown outcome; `None`, if none does."""
    behind = refunds.behind_unknown(unit, batch.account)
    rows = sorted(repository.of_requests(unit, batch.id, list(behind)))
    if not rows:
        return None
    number, request = rows[0]
    who = f"row {number:,} waits" if len(rows) == 1 else f"{len(rows):,} rows, as row {number:,}, wait"
    return Stuck(
        len(rows),
        f"{who} for refund request {behind[request]} of the same charge, of which nobody knows whether it was paid: "
        "`refundry task list --kind outcome_unknown` says what can be done",
    )


def _any_in_line(unit: Unit, batch: Batch, having: _HavingTurn) -> bool:
    """Tell whether any row of a batch waits for its turn; those that are over before it are passed by only in the batch's hours."""
    if having.back:
        return True
    since = having.course.next_row
    while line := repository.in_line(unit, batch.id, since, LOOK_LEAST):
        known = refunds.many(unit, [request for _, request in line])
        if any(refunds.waits_in_line(request) for request in known.values()):
            return True
        since = line[-1][0] + 1
    return False


# Counting


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the report: what it was, and what became of it."""

    row: BatchRow
    standing: Standing
    code: str
    text: str
    request: RefundRequest | None


def lines(unit: Unit, batch: Batch) -> Iterator[Line]:
    """Tell the truth about every row, in order."""
    after = 0
    while rows := repository.rows(unit, batch.id, after=after):
        known = refunds.many(unit, [row.verdict.request for row in rows if row.verdict and row.verdict.request])
        for row in rows:
            yield _line(row, known, batch)
        after = rows[-1].number


def _line(row: BatchRow, known: Mapping[str, RefundRequest], batch: Batch) -> Line:
    verdict = row.verdict
    if verdict is None:
        return Line(row, Standing.WAITING, "not_looked_up", "its charge is not looked up yet", None)
    request = known.get(verdict.request) if verdict.request else None
    if verdict.code or request is None:
        return Line(row, Standing.REFUSED, verdict.code, verdict.text, request)
    held, text = _held_as(request.hold.reason if request.hold else None, batch), request.reason_text
    if held is HeldReason.STOPPED and batch.course.halted:
        text = f"the batch was halted: {batch.course.halted}"
    elif held is HeldReason.SCHEDULE:
        text = "waits for its turn, by the batch's schedule"
    elif refunds.waits_for_money(request):
        minutes = int(refunds.LOW_BALANCE_WAIT // 60)
        text = (
            f"{text.rstrip('.')}; it is tried again within {minutes} minutes by a process that works, and at once by "
            f"`refundry batch retry {batch.id[:8]}`"
        )
    code = held.value if held else request.reason_code or request.state.value
    return Line(row, standing_of(request.state), code, text, request)


def _held_as(reason: HeldReason | None, batch: Batch) -> HeldReason | None:
    """Tell why a request is held: while its batch is paused, not for its turn, which does not come."""
    waits = batch.schedule is not None and reason in refunds.IN_LINE and batch.state is BatchState.PAUSED
    return HeldReason.STOPPED if waits else reason


def totals(unit: Unit, batch: Batch) -> Totals:
    """Count a batch's rows and money, from the rows themselves."""
    out = Totals(rows=batch.row_count)
    refused = repository.refused_counts(unit, batch.id)
    out.standings[Standing.REFUSED] += sum(refused.values())
    out.reasons.update(refused)
    unplanned = repository.unplanned_count(unit, batch.id)
    if unplanned:
        out.standings[Standing.WAITING] += unplanned
        out.reasons["not_looked_up"] = out.waits["not_looked_up"] = unplanned
        # Nobody looks them up for a batch that is paused: whoever waits for it would wait for ever.
        out.moving += 0 if batch.state is BatchState.PAUSED else unplanned
    for page in repository.requests_selected(batch.id, batch.row_count):
        for tally in refunds.tally(unit, page):
            _count(out, tally, batch)
    return out


def _count(out: Totals, tally: Tally, batch: Batch) -> None:
    standing, currency = standing_of(tally.state), tally.currency
    out.standings[standing] += tally.count
    out.requested[currency] = out.requested.get(currency, 0) + tally.amount_minor
    if tally.next_look_at is not None:
        out.in_doubt += tally.in_doubt
        out.next_look_at = min(out.next_look_at or tally.next_look_at, tally.next_look_at)
    if standing is Standing.PAID:
        out.paid[currency] = out.paid.get(currency, 0) + tally.amount_minor
        out.pending += tally.count if tally.state is State.PENDING else 0
        return
    in_turn = tally.held in refunds.IN_LINE and batch.schedule is not None and batch.state in PAYING
    if tally.state is not State.REQUIRES_ACTION and standing is Standing.WAITING and (tally.held is None or in_turn):
        out.moving += tally.count
        out.in_line += tally.count if in_turn else 0
    held = _held_as(tally.held, batch)
    code = held.value if held else tally.reason_code or tally.state.value
    out.reasons[code] = out.reasons.get(code, 0) + tally.count
    if standing is Standing.WAITING:
        out.waits[code] = out.waits.get(code, 0) + tally.count


find = repository.find
rows = repository.rows
some_rows = repository.some_rows
every = repository.every
accounts_to_plan = repository.accounts_to_plan
paused = repository.paused
scheduled = repository.scheduled
