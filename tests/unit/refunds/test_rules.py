"""What is done about an attempt in doubt: never the same key too late, never a new key without proof."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.kernel.outcome import Answer, NotTakenWhy
from refundry.refunds import rules
from refundry.refunds.model import Attempt, Send
from refundry.refunds.rules import HOUR, Clocks, Patience, Plan, Step, ages, agree, back_off, plan
from tests.support.builders import attempt, refund_request, sent
from tests.support.clock import START

pytestmark = pytest.mark.unit

WAIT, GAP = 600.0, 60.0
PATIENCE = Patience(WAIT, GAP)
RIPE = WAIT + rules.SEND_WITHIN
DAY = 24 * HOUR
# Just after the send, in the middle, just before a key grows too old, after that, and once Stripe has surely forgotten it.
AGES = (0.0, 60.0, RIPE, HOUR, 22.9 * HOUR, 23 * HOUR, 24 * HOUR, 25 * HOUR, 100 * HOUR)


def clocks(age: float, *, ours: float = 0.0, database: float = 0.0, stripe: float | None = 0.0) -> Clocks:
    """Make the present: so long after the send, by clocks that are wrong by so much."""
    now = START + age
    return Clocks(now + ours, now + database, None if stripe is None else now + stripe)


def planned(
    doubtful: Attempt, age: float, *, explained: bool = True, looked: float | None = None, patience: Patience = PATIENCE
) -> Plan:
    """Decide after a look that began just now, or `looked` seconds after the send."""
    looked_at = START + (age if looked is None else looked)
    return plan(doubtful, clocks(age), looked_at=looked_at, explained=explained, patience=patience)


def doubtful(*sends: Send) -> Attempt:
    return attempt(refund_request(amount_minor=1000), *sends)


STORED = sent("unknown", answer=Answer(status=500, replayed=True))
NO = sent("declined", code="charge_disputed")
EMPTY = sent("not_taken", code=NotTakenWhy.LOW_BALANCE)


# The same key again


@pytest.mark.parametrize("outcome", ["unknown", None])
@pytest.mark.parametrize("age", [age for age in AGES if age < rules.RESEND_WITHIN])
def test_the_same_key_is_sent_again_while_it_is_young(age: float, outcome: str | None) -> None:
    told = planned(doubtful(sent(outcome)), age)
    assert (told.step, told.attempt.absent) == (Step.RESEND, False)


@pytest.mark.parametrize("why", [NotTakenWhy.RATE_LIMITED, NotTakenWhy.UNSENT])
def test_what_was_never_taken_makes_no_key_old(why: NotTakenWhy) -> None:
    """Stripe keeps no key for what its limits turn away, nor for what never left; days later the key is as good as new."""
    turned_away, cut_off = sent("not_taken", code=why), sent(None, at=START + 2 * DAY)
    assert planned(doubtful(turned_away, cut_off), 2 * DAY + 200).step is Step.RESEND
    assert planned(doubtful(turned_away, cut_off), 3 * DAY).step is Step.WAIT
    assert planned(doubtful(sent("unknown"), turned_away, cut_off), 2 * DAY + 200).step is Step.WAIT


@pytest.mark.parametrize("age", [age for age in AGES if age >= rules.RESEND_WITHIN])
def test_an_old_key_is_never_sent_again(age: float) -> None:
    assert planned(doubtful(sent("unknown")), age).step is not Step.RESEND


def test_the_first_send_counts_however_young_the_last_is() -> None:
    old = doubtful(sent("unknown"), sent("unknown", START + 22 * HOUR))
    told = planned(old, 23.5 * HOUR)
    assert told.step is Step.WAIT
    # From the last send it takes 25 h.
    assert 0 < told.wait_seconds <= HOUR


@pytest.mark.parametrize("which", ["ours", "database", "stripe"])
@pytest.mark.parametrize("wrong", [-30 * HOUR, -6 * HOUR, -301.0, 301.0, HOUR, 25 * HOUR])
def test_a_key_is_not_sent_again_while_the_clocks_disagree(which: str, wrong: float) -> None:
    now = clocks(HOUR, **{which: wrong})
    told = plan(doubtful(sent("unknown")), now, looked_at=START + HOUR, explained=True, patience=PATIENCE)
    assert told.step is Step.WAIT
    assert not told.attempt.absent


@pytest.mark.parametrize("which", ["ours", "database", "stripe"])
@pytest.mark.parametrize("wrong", [-299.0, 0.0, 299.0])
def test_clocks_that_are_a_little_apart_are_believed(which: str, wrong: float) -> None:
    now = clocks(HOUR, **{which: wrong})
    told = plan(doubtful(sent("unknown")), now, looked_at=START + HOUR, explained=True, patience=PATIENCE)
    assert told.step is Step.RESEND


@pytest.mark.parametrize("which", ["ours", "database", "stripe"])
def test_the_oldest_age_counts_for_sending_again(which: str) -> None:
    now = clocks(23 * HOUR - 100, **{which: 200.0})
    told = plan(doubtful(sent("unknown")), now, looked_at=START, explained=True, patience=PATIENCE)
    assert told.step is Step.WAIT


def test_a_send_from_the_future_is_not_believed() -> None:
    assert planned(doubtful(sent("unknown", START + HOUR)), 0).step is Step.WAIT


def test_without_stripes_time_the_two_others_decide() -> None:
    silent = doubtful(sent("unknown", stripe_at=None))
    assert planned(silent, HOUR).step is Step.RESEND
    assert planned(silent, 23.5 * HOUR).step is Step.WAIT
    now = clocks(HOUR, stripe=None)
    told = plan(doubtful(sent("unknown")), now, looked_at=START, explained=True, patience=PATIENCE)
    assert told.step is Step.RESEND


def test_ages_are_told_by_each_clock_that_knows() -> None:
    send = sent(None, START, database_at=START - 5, stripe_at=START + 3)
    assert ages(send, Clocks(START + 10, START + 10, START + 10)) == [10, 15, 7]
    assert ages(send, Clocks(START + 10, START + 10, None)) == [10, 15]
    assert ages(replace(send, stripe_at=None), Clocks(START + 10, START + 10, START + 10)) == [10, 15]


@pytest.mark.parametrize(
    ("told", "believed"),
    [([0, 300], True), ([0, 301], False), ([-299, 0], True), ([-300, -300], False), ([90_000, 90_000], True)],
)
def test_clocks_are_believed_within_five_minutes(told: list[float], believed: bool) -> None:  # noqa: FBT001
    assert agree(told) is believed


def test_the_back_off_doubles_up_to_five_minutes() -> None:
    tried = [attempt(refund_request(), *[sent("unknown")] * n, sent()) for n in (0, 1, 2, 8, 9, 999)]
    assert [back_off(one) for one in tried] == [1, 2, 4, 256, 300, 300]


def test_the_back_off_does_not_grow_by_sends_that_were_cut_off_with_their_process() -> None:
    assert back_off(attempt(refund_request(), *[sent()] * 8)) == 1
    assert back_off(attempt(refund_request(), sent(), sent("unknown"), sent("not_taken"), sent())) == 2


# The next attempt, or the end

PROVABLE = {
    "a stored error": doubtful(sent("unknown"), STORED),
    "a refusal after an unknown send": doubtful(sent("unknown"), NO),
    "an empty balance after an unknown send": doubtful(sent("unknown"), EMPTY),
}
AFTERWARDS = {
    "a stored error": Step.NEXT_ATTEMPT,
    "a refusal after an unknown send": Step.CLOSE,
    "an empty balance after an unknown send": Step.NEXT_ATTEMPT,
}


@pytest.mark.parametrize("case", PROVABLE)
def test_two_looks_a_while_apart_and_a_while_after_the_send_prove_absence(case: str) -> None:
    first = planned(PROVABLE[case], RIPE)
    assert (first.step, first.attempt.looks, first.wait_seconds) == (Step.WAIT, (START + RIPE,), GAP)
    second = planned(first.attempt, RIPE + GAP)
    assert (second.step, second.attempt.absent) == (AFTERWARDS[case], True)


@pytest.mark.parametrize("case", PROVABLE)
def test_one_look_proves_nothing_however_late_it_is(case: str) -> None:
    told = planned(PROVABLE[case], 20 * HOUR)
    assert (told.step, told.attempt.absent) == (Step.WAIT, False)


@pytest.mark.parametrize("case", PROVABLE)
def test_looks_too_close_together_prove_nothing(case: str) -> None:
    told = planned(PROVABLE[case], RIPE)
    for after in (0.0, 1.0, GAP / 2, GAP - 1):
        told = planned(told.attempt, RIPE + after)
        assert (told.step, told.attempt.absent) == (Step.WAIT, False)
        assert 0 < told.wait_seconds <= GAP
    assert planned(told.attempt, RIPE + GAP).attempt.absent


@pytest.mark.parametrize("case", PROVABLE)
def test_a_look_too_soon_after_the_send_does_not_count(case: str) -> None:
    told = planned(PROVABLE[case], RIPE - 1)
    assert (told.step, told.attempt.looks, told.wait_seconds) == (Step.WAIT, (), 1.0)


@pytest.mark.parametrize("case", PROVABLE)
def test_a_look_that_began_too_soon_does_not_count_though_it_ended_late(case: str) -> None:
    told = planned(PROVABLE[case], RIPE + 30, looked=RIPE - 1)
    assert (told.step, told.attempt.looks) == (Step.WAIT, ())


@pytest.mark.parametrize("case", PROVABLE)
def test_a_look_whose_refunds_do_not_add_up_does_not_count(case: str) -> None:
    told = planned(PROVABLE[case], RIPE + GAP, explained=False)
    assert (told.step, told.attempt.looks) == (Step.WAIT, ())
    once = planned(PROVABLE[case], RIPE)
    again = planned(once.attempt, RIPE + GAP, explained=False)
    assert (again.step, again.attempt.absent) == (Step.WAIT, False)


@pytest.mark.parametrize("which", ["ours", "database", "stripe"])
@pytest.mark.parametrize("case", PROVABLE)
def test_the_youngest_age_counts_for_proof(case: str, which: str) -> None:
    now = clocks(2 * RIPE, **{which: -1.5 * RIPE})
    told = plan(PROVABLE[case], now, looked_at=START + 2 * RIPE, explained=True, patience=PATIENCE)
    assert (told.step, told.attempt.looks) == (Step.WAIT, ())


@pytest.mark.parametrize("age", [0, 1, RIPE, HOUR, 22 * HOUR, 23 * HOUR, 24.9 * HOUR])
def test_without_stripes_word_there_is_no_proof_before_25_hours(age: float) -> None:
    told = planned(doubtful(sent("unknown")), age)
    for later in (GAP, 10 * GAP):
        if age + later >= 25 * HOUR:
            break
        told = planned(told.attempt, age + later)
        assert told.step in {Step.RESEND, Step.WAIT}
        assert not told.attempt.absent
        assert told.attempt.looks == ()


def test_after_25_hours_two_looks_prove_absence() -> None:
    first = planned(doubtful(sent("unknown")), 25 * HOUR)
    assert (first.step, len(first.attempt.looks)) == (Step.WAIT, 1)
    second = planned(first.attempt, 25 * HOUR + GAP)
    assert (second.step, second.attempt.absent) == (Step.NEXT_ATTEMPT, True)


def test_25_hours_count_from_the_last_send() -> None:
    tried_again = doubtful(sent("unknown"), sent("unknown", START + 20 * HOUR))
    told = planned(tried_again, 30 * HOUR)
    assert (told.step, told.attempt.looks) == (Step.WAIT, ())


@pytest.mark.parametrize("wrong", [25 * HOUR, 100 * HOUR])
@pytest.mark.parametrize("which", ["ours", "database", "stripe"])
def test_a_clock_that_jumped_ahead_proves_nothing(which: str, wrong: float) -> None:
    told = plan(
        doubtful(sent("unknown")), clocks(HOUR, **{which: wrong}), looked_at=START + HOUR, explained=True,
        patience=PATIENCE,
    )  # fmt: skip
    assert (told.step, told.attempt.looks) == (Step.WAIT, ())


def test_stripes_own_error_that_was_not_replayed_is_no_proof() -> None:
    fresh = doubtful(sent("unknown", answer=Answer(status=500)))
    assert planned(fresh, HOUR).step is Step.RESEND


# A refusal


def test_a_plain_refusal_is_closed_after_one_complete_look() -> None:
    told = planned(doubtful(NO), 0)
    assert (told.step, told.attempt.absent) == (Step.CLOSE, True)


def test_a_plain_refusal_waits_while_the_refunds_do_not_add_up() -> None:
    told = planned(doubtful(NO), 0, explained=False)
    assert (told.step, told.attempt.absent) == (Step.WAIT, False)


def test_a_refusal_after_an_unknown_send_is_not_believed_at_once() -> None:
    told = planned(doubtful(sent("unknown"), NO), 1)
    assert (told.step, told.attempt.absent) == (Step.WAIT, False)


# A person


@pytest.mark.parametrize("age", AGES)
def test_a_key_that_stripe_knows_with_other_parameters_goes_to_a_person(age: float) -> None:
    told = planned(doubtful(sent("unknown", code="idempotency_mismatch")), age)
    assert told.step is Step.GIVE_UP
    assert told.text


@pytest.mark.parametrize("case", PROVABLE)
def test_refunds_that_never_add_up_go_to_a_person_in_the_end(case: str) -> None:
    assert planned(PROVABLE[case], 29 * HOUR, explained=False).step is Step.WAIT
    assert planned(PROVABLE[case], 30 * HOUR, explained=False).step is Step.GIVE_UP


# Patience


def test_a_test_without_patience_still_needs_two_looks() -> None:
    none = Patience(0.0, 0.0)
    first = planned(PROVABLE["a stored error"], 0, patience=none)
    assert (first.step, len(first.attempt.looks)) == (Step.WAIT, 1)
    assert first.wait_seconds > 0
    assert planned(first.attempt, 0.1, patience=none).step is Step.NEXT_ATTEMPT


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("case", [*PROVABLE, "unknown", "refused"])
def test_who_waits_is_told_for_how_long_and_why(case: str, age: float) -> None:
    cases = PROVABLE | {"unknown": doubtful(sent("unknown")), "refused": doubtful(NO)}
    told = planned(cases[case], age, explained=False)
    if told.step is Step.WAIT:
        assert 0 < told.wait_seconds <= HOUR
        assert told.text
