"""The use cases of a batch: accept a file, plan its rows, pause, resume, withdraw, retry, count, report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from refundry.audit import service as audit
from refundry.batches import repository
from refundry.batches.model import (
    Batch,
    BatchRow,
    BatchState,
    BatchUnknown,
    Standing,
    Totals,
    Verdict,
    Wanted,
    batch_id,
    request_key_of,
    standing_of,
    wanted_of,
)
from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.connectors.base import FileOpened, ParsedRow, Reference, ReferenceKind, Row, amount_asked
from refundry.infra.db import Unit
from refundry.kernel import ids
from refundry.kernel.actor import Actor
from refundry.kernel.errors import AmountInvalid, CurrencyUnknown
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import Content, RefundRequest, State
from refundry.refunds.service import Receipt, Received, Tally

SLICE = 500


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a reference leads to no charge."""

    code: str
    text: str


def accept(unit: Unit, account: str, file: FileOpened, options: str, actor: Actor) -> tuple[Batch, bool]:
    """Take a whole file in, in one commit; the same file again is the batch that is there already.

    Returns:
        The batch, and whether it is new.

    Raises:
        FileRefused: The file changed while it was read; nothing was taken in.
    """
    known = repository.find(unit, batch_id(account, file.sha256, options))
    if known is not None:
        return known, False
    batch = Batch(
        batch_id(account, file.sha256, options), account, file.name, file.sha256, BatchState.ACCEPTED, file.columns,
        file.row_count, unit.now,
    )  # fmt: skip
    if not repository.add(unit, batch):
        return need(unit, batch.id), False
    waiting: list[BatchRow] = []
    for row in file.rows():
        waiting.append(_row(row))
        if len(waiting) == SLICE:
            repository.add_rows(unit, batch.id, waiting)
            waiting = []
    if waiting:
        repository.add_rows(unit, batch.id, waiting)
    batch = _planned_if_all(unit, batch)
    facts = {"file": batch.name, "sha256": batch.sha256, "rows": batch.row_count, "account": account}
    audit.record(unit, actor, "batch.accepted", batch.id, facts)
    return batch, True


def _planned_if_all(unit: Unit, batch: Batch) -> Batch:
    """Move a batch on once none of its rows is left to be looked up, be it that none ever was."""
    if batch.state is not BatchState.ACCEPTED or repository.unplanned_count(unit, batch.id):
        return batch
    repository.set_state(unit, batch.id, BatchState.RUNNING)
    return replace(batch, state=BatchState.RUNNING)


def _row(row: Row) -> BatchRow:
    if isinstance(row, ParsedRow):
        return BatchRow(row.number, row.line, row.raw, wanted_of(row))
    return BatchRow(row.number, row.line, row.raw, None, Verdict(row.code, row.message))


# Planning


def next_unplanned(unit: Unit, batch: str, most: int = SLICE) -> list[BatchRow]:
    """Read the next rows whose charges are to be looked up."""
    return repository.unplanned(unit, batch, most)


def plan_slice(
    unit: Unit,
    batch: Batch,
    missing: Mapping[Reference, Missing],
    *,
    mode: str,
    actor: Actor,
    only: Collection[int] | None = None,
) -> int:
    """Turn the next rows into refund requests, from the mirror; tells how many rows were planned.

    Args:
        unit: The open unit.
        batch: Whose rows.
        missing: The references that were looked for at Stripe and lead to no charge.
        mode: `test` or `live`.
        actor: Who handed the file in.
        only: The numbers of the rows whose references were looked for; another planner may have taken some of them since, and
            then the next ones are not ours: what was not looked for would be called unknown.
    """
    repository.lock(unit, batch.id)
    rows = [row for row in repository.unplanned(unit, batch.id, SLICE) if only is None or row.number in only]
    verdicts: dict[int, Verdict] = {}
    wanted: list[tuple[BatchRow, RefundRequest]] = []
    for row in rows:
        if row.wanted is None:
            continue
        judged = resolve(unit, batch.account, row.wanted, missing, mode)
        if isinstance(judged, Verdict):
            verdicts[row.number] = judged
        else:
            wanted.append((row, judged))
    first: dict[str, int] = {}
    for (row, request), got in zip(wanted, refunds.receive(unit, [q for _, q in wanted], actor), strict=True):
        verdicts[row.number] = _received(unit, row, request, got, first)
        first.setdefault(request.id, row.number)
    if verdicts:
        repository.plan(unit, batch.id, verdicts)
    current = repository.find(unit, batch.id)
    if current is not None and current.state is not BatchState.RUNNING and current.state is not BatchState.ACCEPTED:
        refunds.stop(unit, [v.request for v in verdicts.values() if v.request and not v.code], actor)
    if current is not None:
        _planned_if_all(unit, current)
    return len(rows)


def resolve(
    unit: Unit, account: str, wanted: Wanted, missing: Mapping[Reference, Missing], mode: str
) -> Verdict | RefundRequest:
    """Find the charge and amount that a row, or a person at the desk, asks for; or say why not."""
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
        money = amount_asked(wanted.amounts, currency)
    except (AmountInvalid, CurrencyUnknown) as error:
        return Verdict(error.code, error.message, currency=currency)
    asked = None if money is None else money.minor_units
    key = request_key_of(wanted, found.id, asked, currency)
    content = Content(
        charge=found.id,
        asked_minor=asked,
        currency=currency,
        reason=wanted.reason,
        ticket_id=wanted.ticket_id,
        metadata=wanted.metadata,
        refund_application_fee=wanted.refund_application_fee,
        reverse_transfer=wanted.reverse_transfer,
    )
    stripe_id = account.partition("|")[0]
    return RefundRequest(ids.request_id(stripe_id, mode, key), account, key, content, lane=Lane.BULK, due_at=unit.now)


def _charge(unit: Unit, account: str, reference: Reference, missing: Mapping[Reference, Missing]) -> Charge | Verdict:
    if (gone := missing.get(reference)) is not None:
        return Verdict(gone.code, gone.text)
    match reference.kind:
        case ReferenceKind.CHARGE_ID:
            charge = charges.find(unit, reference.value)
            candidates = [charge] if charge is not None else []
        case ReferenceKind.PAYMENT_INTENT:
            candidates = charges.by_payment_intent(unit, account, reference.value)
        case ReferenceKind.ORDER_ID:
            candidates = charges.by_order(unit, account, reference.value)
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
            f"{reference.kind} {reference.value} has {len(captured)} charges ({told}): name one by charge_id",
        )
    return captured[0]


def _received(unit: Unit, row: BatchRow, request: RefundRequest, got: Received, first: Mapping[str, int]) -> Verdict:
    """Say what became of a row whose request was handed in."""
    asked, currency = request.content.asked_minor, request.content.currency
    if got.receipt is Receipt.NEW:
        return Verdict(request=request.id, currency=currency, asked_minor=asked)
    where = _where(unit, request.id, first)
    if got.receipt is Receipt.CONFLICT:
        text = f"{where} already asks with the same key for something else ({_said(got.request)}): nothing was changed"
        return Verdict("same_key_other_content", text, request.id, currency, asked)
    keyless = row.wanted is not None and row.wanted.request_key is None and row.wanted.ticket_id is None
    if keyless:
        text = f"{where} already asks for the same amount of this charge: give the row a ticket_id or a request_key, if it is another refund"
        return Verdict("possible_repeat", text, request.id, currency, asked)
    return Verdict("repeated_row", f"the same refund as {where}", request.id, currency, asked)


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


def pause(unit: Unit, batch: Batch, actor: Actor) -> int:
    """Stop a batch: nothing more of it is sent; what is on its way is awaited. Tells how many requests were stopped."""
    repository.set_state(unit, batch.id, BatchState.PAUSED)
    count = sum(refunds.stop(unit, page, actor) for page in repository.requests(unit, batch.id))
    audit.record(unit, actor, "batch.paused", batch.id, {"stopped": count})
    return count


def resume(unit: Unit, batch: Batch, actor: Actor) -> int:
    """Let a paused batch go on; tells how many requests go on."""
    planned = repository.unplanned_count(unit, batch.id) == 0
    repository.set_state(unit, batch.id, BatchState.RUNNING if planned else BatchState.ACCEPTED)
    count = sum(refunds.go_on(unit, page, actor) for page in repository.requests(unit, batch.id))
    audit.record(unit, actor, "batch.resumed", batch.id, {"resumed": count})
    return count


def withdraw(unit: Unit, batch: Batch, actor: Actor, why: str) -> int:
    """Take back all that was not sent yet; tells how many requests were withdrawn."""
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
    audit.record(
        unit, actor, "batch.withdrawn", batch.id, {"withdrawn": count, "unplanned": len(unplanned), "why": why}
    )
    return count + len(unplanned)


def retry(unit: Unit, batch: Batch, actor: Actor) -> int:
    """Have those looked at again that were declined or rejected; tells how many."""
    count = 0
    for page in repository.requests(unit, batch.id):
        for request in refunds.many(unit, page, hold=True).values():
            if request.state in {State.DECLINED, State.REJECTED}:
                refunds.reopen(unit, request.id, actor)
                _stopped_if_paused(unit, batch, request.id, actor)
                count += 1
    audit.record(unit, actor, "batch.retried", batch.id, {"reopened": count})
    return count


def allow_repeat(unit: Unit, batch: Batch, number: int, actor: Actor) -> bool:
    """Say that a row's request is no repeat; false, if the row has no request."""
    request = repository.request_of_row(unit, batch.id, number)
    if request is None:
        return False
    refunds.allow_repeat(unit, request, actor)
    _stopped_if_paused(unit, batch, request, actor)
    return True


def _stopped_if_paused(unit: Unit, batch: Batch, request: str, actor: Actor) -> None:
    """Keep to a pause: what was freed from another wait does not go on before the batch does."""
    current = repository.find(unit, batch.id)
    if current is not None and current.state is BatchState.PAUSED:
        refunds.stop(unit, [request], actor)


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
            yield _line(row, known)
        after = rows[-1].number


def _line(row: BatchRow, known: Mapping[str, RefundRequest]) -> Line:
    verdict = row.verdict
    if verdict is None:
        return Line(row, Standing.WAITING, "not_looked_up", "its charge is not looked up yet", None)
    request = known.get(verdict.request) if verdict.request else None
    if verdict.code or request is None:
        return Line(row, Standing.REFUSED, verdict.code, verdict.text, request)
    code = request.hold.reason.value if request.hold else request.reason_code or request.state.value
    return Line(row, standing_of(request.state), code, request.reason_text, request)


def totals(unit: Unit, batch: Batch) -> Totals:
    """Count a batch's rows and money, from the rows themselves."""
    out = Totals(rows=batch.row_count)
    refused = repository.refused_counts(unit, batch.id)
    out.standings[Standing.REFUSED] += sum(refused.values())
    out.reasons.update(refused)
    unplanned = repository.unplanned_count(unit, batch.id)
    out.standings[Standing.WAITING] += unplanned
    out.moving += unplanned
    for page in repository.requests(unit, batch.id):
        for tally in refunds.tally(unit, page):
            _count(out, tally)
    return out


def _count(out: Totals, tally: Tally) -> None:
    standing, currency = standing_of(tally.state), tally.currency
    out.standings[standing] += tally.count
    out.requested[currency] = out.requested.get(currency, 0) + tally.amount_minor
    if standing is Standing.PAID:
        out.paid[currency] = out.paid.get(currency, 0) + tally.amount_minor
        out.pending += tally.count if tally.state is State.PENDING else 0
        return
    if tally.state is not State.REQUIRES_ACTION and standing is Standing.WAITING and tally.held is None:
        out.moving += tally.count
    code = tally.held.value if tally.held else tally.reason_code or tally.state.value
    out.reasons[code] = out.reasons.get(code, 0) + tally.count


find = repository.find
every = repository.every
paused = repository.paused
