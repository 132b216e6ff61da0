"""The machine finds nothing in the services as they are, and its checks see bugs that are planted in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from refundry.refunds import model, repository, rules
from refundry.refunds import service as refunds
from refundry.refunds.rules import Plan, Step
from tests.property.refunds.machine import OneCharge

pytestmark = pytest.mark.property

SMALL = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
Plant = Callable[[pytest.MonkeyPatch], None]
Walk = Callable[[OneCharge], None]


@pytest.fixture(autouse=True)
def template(monkeypatch: pytest.MonkeyPatch, sqlite_file: Path) -> None:
    """Give the machine its migrated file."""
    monkeypatch.setattr(OneCharge, "template", sqlite_file, raising=False)


def test_whatever_happens_nothing_is_paid_or_promised_twice() -> None:
    run_state_machine_as_test(OneCharge, settings=SMALL)  # type: ignore[no-untyped-call]


# For each bug a walk that meets it; without the bug the same walk is sound.


def _siblings_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(repository, "reserved", lambda *_, **__: 0)


def _two_over_half(machine: OneCharge) -> None:
    machine.hand_in(asked=600)
    machine.take_up(who=0)
    machine.person(at=0, verb="stop")
    machine.hand_in(asked=600)
    machine.take_up(who=1)


def _reservation_kept_beside_the_refund(patch: pytest.MonkeyPatch) -> None:
    taken = model._taken

    def kept(request: model.RefundRequest, refund: model.SeenRefund, to: model.State) -> model.Change:
        change = taken(request, refund, to)
        return replace(change, after=replace(change.after, reserved_minor=request.reserved_minor))

    patch.setattr(model, "_taken", kept)


def _one_paid(machine: OneCharge) -> None:
    machine.hand_in(asked=400)
    machine.take_up(who=0)
    machine.write_intent(at=0)
    machine.send(at=0, how="answered")
    machine.record(at=0)


def _unknown_taken_for_no(patch: pytest.MonkeyPatch) -> None:
    def hasty(attempt: model.Attempt, *_: object, **__: object) -> Plan:
        return Plan(Step.NEXT_ATTEMPT, replace(attempt, absent=True))

    patch.setattr(rules, "plan", hasty)
    patch.setattr(refunds, "adopt", lambda *_: False)


def _answer_lost(machine: OneCharge) -> None:
    machine.hand_in(asked=400)
    machine.take_up(who=0)
    machine.write_intent(at=0)
    machine.send(at=0, how="lost")
    machine.record(at=0)
    machine.time_passes(seconds=3.0)
    machine.take_up(who=1)
    if machine.approved:
        machine.write_intent(at=0)
        machine.send(at=0, how="answered")


def _said_paid_without_a_refund(patch: pytest.MonkeyPatch) -> None:
    apply = model.apply

    def hopeful(request: model.RefundRequest, fact: model.Fact) -> model.Change | None:
        if isinstance(fact, model.Sent) and isinstance(fact.outcome, model.Unknown):
            change = apply(request, fact)
            return change and replace(change, after=replace(change.after, state=model.State.PENDING, reserved_minor=0))
        return apply(request, fact)

    patch.setattr(refunds, "apply", hopeful)


PLANTED: dict[str, tuple[Plant, Walk]] = {
    "siblings' reservations not counted": (_siblings_not_counted, _two_over_half),
    "a reservation kept beside its refund": (_reservation_kept_beside_the_refund, _one_paid),
    "unknown taken for no, and no look": (_unknown_taken_for_no, _answer_lost),
    "said paid without a refund": (_said_paid_without_a_refund, _answer_lost),
}


def walked(walk: Walk) -> None:
    """Take a walk, and look at everything that must be so."""
    machine = OneCharge()
    machine.open()
    try:
        walk(machine)
        machine.nothing_is_promised_twice()
        machine.nothing_is_paid_twice()
        machine.nobody_says_paid_of_what_stripe_does_not_have()
    finally:
        machine.stack.close()


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(bug: str) -> None:
    plant, walk = PLANTED[bug]
    walked(walk)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises((AssertionError, KeyError)):
            walked(walk)
