"""What a dispute means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.disputes.model import Dispute, Loss, Phase
from refundry.disputes.rules import PHASES, loss, phase_of, standing, told
from refundry.gateways.base import SeenDispute
from refundry.tasks.rules import double_loss
from tests.support.builders import ACCOUNT, CHARGE, charge, seen_refund
from tests.support.clock import START

pytestmark = pytest.mark.unit


def dispute(phase: Phase, amount: int = 10_000, dispute_id: str = "du_1") -> Dispute:
    return Dispute(
        dispute_id, ACCOUNT, CHARGE, "needs_response", phase, amount, "gbp", "fraudulent", START, None, START
    )


@pytest.mark.parametrize("status", sorted(PHASES))
def test_every_status_has_its_phase(status: str) -> None:
    assert phase_of(SeenDispute("du_1", status, 1, refundable=False)) is PHASES[status]


@pytest.mark.parametrize(("refundable", "phase"), [(True, Phase.INQUIRY), (False, Phase.CHARGEBACK)])
def test_a_status_that_nobody_knows_is_never_over(refundable: bool, phase: Phase) -> None:  # noqa: FBT001
    assert phase_of(SeenDispute("du_1", "something_new", 1, refundable=refundable)) is phase


@pytest.mark.parametrize(
    ("phases", "worst"),
    [
        ((), Phase.CLOSED),
        ((Phase.WON, Phase.CLOSED), Phase.WON),
        ((Phase.WON, Phase.INQUIRY), Phase.INQUIRY),
        ((Phase.CHARGEBACK, Phase.INQUIRY), Phase.CHARGEBACK),
        ((Phase.WON, Phase.LOST, Phase.CHARGEBACK), Phase.LOST),
    ],
)
def test_the_worst_of_several_counts(phases: tuple[Phase, ...], worst: Phase) -> None:
    assert standing(dispute(phase) for phase in phases) is worst


@pytest.mark.parametrize(
    ("refunded", "disputes", "lost"),
    [
        (2000, [dispute(Phase.CHARGEBACK)], 2000),
        (2000, [dispute(Phase.LOST)], 2000),
        (2000, [dispute(Phase.INQUIRY)], 0),
        (2000, [dispute(Phase.WON)], 0),
        (2000, [dispute(Phase.CHARGEBACK, 8000)], 0),
        (2000, [dispute(Phase.CHARGEBACK, 9000)], 1000),
        (0, [dispute(Phase.CHARGEBACK, 12_000)], 0),
        (2000, [dispute(Phase.CHARGEBACK, 12_000)], 2000),
        (2000, [], 0),
    ],
)
def test_the_measured_case_and_its_neighbours(refunded: int, disputes: list[Dispute], lost: int) -> None:
    mirror = charge(refunds=(seen_refund(amount_minor=refunded),) if refunded else ())
    assert loss(mirror, disputes).amount_minor == lost


def test_a_dispute_in_another_currency_counts_as_all_that_was_paid() -> None:
    mirror = charge(refunds=(seen_refund(amount_minor=2000),))
    yen = replace(dispute(Phase.CHARGEBACK, 1_900_000), currency="jpy")
    assert loss(mirror, [yen]) == Loss(2000, 2000, mirror.captured_minor)
    assert loss(mirror, [replace(yen, amount_minor=100)]).amount_minor == 2000
    text = double_loss(ACCOUNT, CHARGE, loss(mirror, [yen]), mirror.currency, [yen, dispute(Phase.WON)], START).text
    assert "(du_1 over 1900000 JPY, counted as all that was paid, du_1)" in text


def test_a_refund_that_came_back_is_not_lost() -> None:
    mirror = charge(refunds=(seen_refund(amount_minor=2000, status="failed"),))
    assert loss(mirror, [dispute(Phase.CHARGEBACK)]).amount_minor == 0


@pytest.mark.parametrize(("phase", "word"), [(Phase.INQUIRY, "--allow-inquiry"), (Phase.CHARGEBACK, "twice")])
def test_a_held_request_says_what_can_be_done(phase: Phase, word: str) -> None:
    assert word in told(CHARGE, dispute(phase))
    assert "100.00 GBP" in told(CHARGE, dispute(phase))
