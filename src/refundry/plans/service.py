"""The use cases of a plan: check a file's rows, foresee what they cost, and have exactly that paid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from refundry.accounts.model import Connect
from refundry.audit import service as audit
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchRow, Foreseen, Verdict
from refundry.batches.service import Missing
from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.connectors.base import Reference
from refundry.infra.db import Needs, Unit
from refundry.kernel.actor import Actor
from refundry.plans import repository
from refundry.plans.model import (
    LOOK_MAX_AGE_MAX,
    NAME_IT,
    Forecast,
    Plan,
    PlanRefused,
    PlanRow,
    PlanState,
    PlanUnknown,
    fee_share,
    hashed,
)
from refundry.policies.model import Decision, Wait
from refundry.policies.model import Verdict as Decided
from refundry.policies.rules import WAITING
from refundry.refunds import service as refunds
from refundry.refunds.model import Planned, RefundRequest

SLICE = batches.SLICE
# The event of a plan's audit entry, which has its hash and that of what it tells.
MADE = "plan.made"


def begin(unit: Unit, plan_id: str, batch: Batch, *, look_max_age: float) -> Plan:
    """Begin to plan a batch that waits for its plan.

    Args:
        unit: The open unit.
        plan_id: A new id.
        batch: See `batches.service.accept`.
        look_max_age: See `Plan`; at most an hour.
    """
    look_age = min(look_max_age, LOOK_MAX_AGE_MAX)
    plan = Plan(plan_id, batch.id, batch.account, batch.sha256, PlanState.MAKING, unit.now, look_age)
    repository.add(unit, plan)
    return plan


def next_rows(unit: Unit, plan: Plan, most: int = SLICE) -> list[BatchRow]:
    """Read the next rows that are to be checked."""
    return batches.rows(unit, plan.batch, after=repository.last_number(unit, plan.id), most=most)


def check(
    unit: Unit,
    plan: Plan,
    rows: Sequence[BatchRow],
    missing: Mapping[Reference, Missing],
    *,
    mode: str,
    age_max_days: int,
    allow_repeat: Collection[int] = (),
    connect: Connect = Connect(),  # noqa: B008  # frozen: nothing is set
) -> None:
    """Say of the next rows what would become of them, from the mirror; nothing is handed in.

    Args:
        unit: The open unit.
        plan: The plan.
        rows: What `next_rows` gave.
        missing: The references that were looked for at Stripe and lead to no charge.
        mode: `test` or `live`.
        age_max_days: See `PaySettings`.
        allow_repeat: The numbers of rows that are no repeats, though they look like ones.
        connect: The Connect flags that are set for the account.
    """
    seen: list[tuple[BatchRow, RefundRequest | Verdict]] = []
    batches.fetch_named(unit, plan.account, rows)
    for row in rows:
        refused = row.verdict or Verdict("unreadable", "the row cannot be read")
        judged = (
            refused if row.wanted is None else batches.resolve(unit, plan.account, row.wanted, missing, mode, connect)
        )
        seen.append((row, judged))
    made = [judged for _, judged in seen if not isinstance(judged, Verdict)]
    requests, named = {one.id for one in made}, {one.content.charge for one in made}
    checked = _Checked(
        first=repository.first_rows(unit, plan.id, requests),
        claimed=repository.claimed(unit, plan.id, named),
        tickets=repository.ticketed(unit, plan.id, named, {one.content.ticket_id or "" for one in made} - {""}),
        known=refunds.many(unit, requests),
    )
    refunds.fetch(unit, [Needs(judged.content.charge) for _, judged in seen if not isinstance(judged, Verdict)])
    out = [
        checked.row(unit, row, judged, age_max_days, allow_repeat=row.number in allow_repeat) for row, judged in seen
    ]
    repository.add_rows(unit, plan.id, out)


class _Checked:
    """What is known of a plan's earlier rows."""

    def __init__(
        self,
        first: dict[str, tuple[int, str]],
        claimed: dict[str, int],
        tickets: dict[tuple[str, str], dict[str, int]],
        known: dict[str, RefundRequest],
    ) -> None:
        self._first, self._claimed, self._tickets, self._known = first, claimed, tickets, known

    def row(
        self, unit: Unit, row: BatchRow, judged: RefundRequest | Verdict, age_max_days: int, *, allow_repeat: bool
    ) -> PlanRow:
        """Say what would become of one row, and remember it for the next."""
        if isinstance(judged, Verdict):
            return PlanRow(row.number, judged.code, judged.text, currency=judged.currency)
        charge = charges.find(unit, judged.content.charge)
        if allow_repeat:
            judged = replace(judged, allowed=refunds.allowable(unit, judged) | self._twins(judged).keys())
        told = PlanRow(
            row.number, request=judged.id, fingerprint=judged.content.fingerprint, charge=judged.content.charge,
            currency=judged.content.currency, allow_repeat=allow_repeat, allowed=judged.allowed,
            ticket_id=judged.content.ticket_id,
        )  # fmt: skip
        if (again := self._again(row, judged)) is not None:
            return replace(told, code=again[0], text=again[1])
        claimed = self._claimed.get(judged.content.charge, 0)
        decision = refunds.foresee(
            unit, judged, known=charge is not None, age_max_days=age_max_days, more_reserved=claimed
        )
        self._first[judged.id] = (row.number, judged.content.fingerprint)
        if decision.verdict is not Decided.APPROVE or charge is None:
            return replace(told, code=decision.code, text=_unpaid(decision))
        if (text := self._twin(row.number, judged)) is not None:
            return replace(told, code="possible_repeat", text=text)
        self._claimed[charge.id] = claimed + decision.amount_minor
        if told.ticket_id is not None:
            self._tickets.setdefault((charge.id, told.ticket_id), {})[judged.id] = row.number
        return _payable(told, charge, decision)

    def _twin(self, number: int, request: RefundRequest) -> str | None:
        """Tell whether an earlier row would pay the same ticket and charge by another name, which holds this one when both are paid."""
        earlier = next((row for one, row in self._twins(request).items() if one not in request.allowed), None)
        if earlier is None:
            return None
        return (
            f"row {earlier} is for the same ticket and gives back some of {request.content.charge} too: if it is another refund, plan again "
            f"with --allow-repeat {number}"
        )

    def _twins(self, request: RefundRequest) -> dict[str, int]:
        """Tell the earlier rows that would pay the same ticket and charge by other names: their requests and numbers."""
        if request.keyed:
            return {}
        return self._tickets.get((request.content.charge, request.content.ticket_id or ""), {})

    def _again(self, row: BatchRow, request: RefundRequest) -> tuple[str, str] | None:
        """Tell whether a row asks for what is asked for already, by an earlier row or by a request that is there."""
        earlier = self._first.get(request.id)
        known = self._known.get(request.id)
        if earlier is None and known is None:
            return None
        where = f"row {earlier[0]}" if earlier else f"refund request {request.id} ({known.state})" if known else ""
        before = earlier[1] if earlier else known.content.fingerprint if known else ""
        if before != request.content.fingerprint:
            return "same_key_other_content", f"{where} already asks with the same key for something else"
        keyless = row.wanted is not None and row.wanted.request_key is None and row.wanted.ticket_id is None
        if keyless:
            text = f"{where} already asks for the same amount of this charge: if it is another refund, {NAME_IT}"
            return "possible_repeat", text
        return "repeated_row", f"the same refund as {where}"


def _unpaid(decision: Decision) -> str:
    """Say why a row is not payable: a run waits until its siblings are over, a plan that is applied does not."""
    if decision.wait is not Wait.SIBLING:
        return decision.text
    return (
        f"{decision.text.removesuffix(WAITING)}: a plan does not wait for them: lower the amount, or have the row decided anew by "
        "`refundry batch retry` once they are over"
    )


def _payable(told: PlanRow, charge: Charge, decision: Decision) -> PlanRow:
    amount = decision.amount_minor
    fee = None if charge.fee_minor is None else fee_share(charge.fee_minor, amount, charge.captured_minor)
    return replace(
        told, amount_minor=amount, currency=charge.currency, expected=charge.expected, text=decision.text, fee_minor=fee,
        fee_currency=charge.fee_currency,
    )  # fmt: skip


def finish(unit: Unit, plan: Plan, actor: Actor, *, balance: Mapping[str, int] | None, rate: float) -> Plan:
    """Close a plan whose rows are all checked: hash it, and tell what applying it would do.

    Args:
        unit: The open unit.
        plan: The plan.
        actor: Who plans.
        balance: What is available now per currency; `None`, if Stripe did not say.
        rate: Refunds per second; zero means that no limit is set.
    """
    forecast = Forecast(balance, rate)

    def taken() -> Iterator[str]:
        for row in repository.rows(unit, plan.id):
            forecast.take(row)
            yield row.written

    digest = hashed(plan.header, taken())
    made = replace(plan, state=PlanState.MADE, hash=digest, forecast=forecast.told())
    repository.save(unit, made)
    facts = {
        "batch": plan.batch, "hash": digest, "rows": forecast.rows, "payable": forecast.payable,
        "forecast_sha256": made.forecast_sha256,
    }  # fmt: skip
    audit.record(unit, actor, MADE, plan.id, facts)
    return made


def need(unit: Unit, prefix: str) -> Plan:
    """Read a plan by its id or the beginning of it.

    Raises:
        PlanUnknown: There is none, or more than one begins so.
    """
    found = repository.starting_with(unit, prefix) if prefix else []
    if len(found) == 1:
        return found[0]
    why = f"more than one plan begins with {prefix}" if found else f"there is no plan {prefix} in this database"
    raise PlanUnknown(f"{why}: make one here with `refundry batch plan FILE`", plan=prefix)


def verified(unit: Unit, plan: Plan, account: str) -> None:
    """See that a plan may be paid: it is whole, of this account, and as it was made.

    Raises:
        PlanRefused: `plan_of_another_account`, `plan_unfinished`, `plan_altered`, `plan_applied`.
    """
    if plan.account != account:
        raise PlanRefused(
            f"plan {plan.id[:8]} is for {plan.account}, and this is {account}: nothing was paid",
            code="plan_of_another_account", plan=plan.id,
        )  # fmt: skip
    if plan.state is PlanState.MAKING:
        raise PlanRefused(
            f"plan {plan.id[:8]} was interrupted before all rows were checked: make it again with `refundry batch plan`",
            code="plan_unfinished", plan=plan.id,
        )  # fmt: skip
    if hashed(plan.header, (row.written for row in repository.rows(unit, plan.id))) != plan.hash:
        raise _altered(plan, "its rows do not fit its hash")
    # Whoever alters a database can compute a hash anew, and what a person is shown is not in it: the audit log has both.
    written = [entry.facts for entry in audit.timeline(unit, plan.id) if entry.event == MADE]
    if [facts["hash"] for facts in written] != [plan.hash]:
        raise _altered(plan, "its hash is not the one in the audit log")
    if written[0].get("forecast_sha256", plan.forecast_sha256) != plan.forecast_sha256:
        raise _altered(plan, "the totals that it tells are not those that were made")


def _altered(plan: Plan, what: str) -> PlanRefused:
    return PlanRefused(
        f"plan {plan.id[:8]} is not as it was made: {what}; nothing was paid, make it again",
        code="plan_altered", plan=plan.id,
    )  # fmt: skip


def apply(unit: Unit, plan: Plan, account: str, actor: Actor) -> Batch:
    """Let exactly what was planned be paid, in this commit; a plan that is applied already goes on.

    Raises:
        PlanRefused: See `verified`; or `plan_applied`: its batch is paid by other means already.
        BatchWithdrawn: Its batch was withdrawn.
    """
    held = repository.lock(unit, plan.id) or plan
    verified(unit, held, account)
    batch = batches.need(unit, held.batch)
    if held.state is PlanState.APPLIED:
        return batch
    if not batches.apply(unit, batch, held.id):
        raise PlanRefused(
            f"{batch.name} is {batch.state} already, by another plan or by a run: `refundry batch status {batch.id[:8]}`",
            code="plan_applied", plan=plan.id, batch=batch.id,
        )  # fmt: skip
    repository.save(unit, replace(held, state=PlanState.APPLIED))
    audit.record(unit, actor, "plan.applied", plan.id, {"batch": batch.id, "hash": held.hash})
    return batches.need(unit, batch.id)


def foreseen(unit: Unit, plan: str, numbers: Collection[int]) -> Mapping[int, Foreseen]:
    """Tell for rows of an applied plan what may become of them, by number."""
    held = need(unit, plan)
    out = {}
    for number, row in repository.some(unit, plan, numbers).items():
        payable = row.expected is not None and not row.code
        planned = (
            Planned(row.expected, held.look_max_age, row.amount_minor) if payable and row.expected is not None else None
        )
        out[number] = Foreseen(row.code, row.text, row.request, row.fingerprint, row.allowed, planned)
    return out


def checked(unit: Unit, plan: Plan) -> int:
    """Tell how many rows of a plan are checked."""
    return repository.last_number(unit, plan.id)


rows = repository.rows
