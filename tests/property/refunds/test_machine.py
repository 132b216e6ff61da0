"""The machine finds nothing in the services as they are, and finds bugs that are planted in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from refundry.kernel.errors import InvariantViolated
from refundry.refunds import model, repository
from refundry.refunds import service as refunds
from tests.property.refunds.machine import OneCharge

pytestmark = pytest.mark.property

SMALL = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
# A planted bug is to be found, not to be made small.
FINDING = settings(SMALL, max_examples=80, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False)


def test_whatever_happens_nothing_is_paid_or_promised_twice() -> None:
    run_state_machine_as_test(OneCharge, settings=SMALL)  # type: ignore[no-untyped-call]


def _nothing_reserved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "reserved", lambda *_, **__: 0)


def _unknown_is_no(patch: pytest.MonkeyPatch) -> None:
    apply = model.apply

    def hasty(request: model.RefundRequest, fact: model.Fact) -> model.Change | None:
        if isinstance(fact, model.Sent) and isinstance(fact.outcome, model.Unknown):
            fact = replace(fact, outcome=model.NotTaken(model.NotTakenWhy.UNSENT, fact.outcome.answer))
            fact = replace(fact, attempt=replace(fact.attempt, sends=()))
        return apply(request, fact)

    patch.setattr(refunds, "apply", hasty)
    patch.setattr(refunds, "adopt", lambda *_: False)


def _reservation_kept_beside_the_refund(patch: pytest.MonkeyPatch) -> None:
    taken = model._taken

    def kept(request: model.RefundRequest, refund: model.SeenRefund, to: model.State) -> model.Change:
        change = taken(request, refund, to)
        return replace(change, after=replace(change.after, reserved_minor=request.reserved_minor))

    patch.setattr(model, "_taken", kept)


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "siblings' reservations not counted": _nothing_reserved,
    "unknown taken for no, and no look": _unknown_is_no,
    "a reservation kept beside its refund": _reservation_kept_beside_the_refund,
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    PLANTED[bug](monkeypatch)
    with pytest.raises((AssertionError, InvariantViolated)):
        run_state_machine_as_test(OneCharge, settings=FINDING)  # type: ignore[no-untyped-call]
