"""The simulation finds what it is there for: each planted bug is found by a seed, and an unchanged product passes that seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation import test_seeds
from tests.simulation.planted import BUGS, planted
from tests.simulation.scenario import Scenario, drawn
from tests.simulation.world_run import Result
from tests.support import virtual_time

pytestmark = pytest.mark.simulation
# The seed that finds it first; when the drawing changes, `python -m tests.simulation --plant NAME --seeds 200` finds another.
SEEDS = {
    "intent_after_the_call": 1,
    "no_look_before_paying": 6,
    "only_the_first_page": 23,
    "key_without_attempt_number": 8,
    "lease_ignored": 17,
    "declined_after_an_unknown": 8,
    "next_attempt_after_one_look": 289,
    "next_attempt_at_once": 289,
    "reservation_counted_twice": 1,
    "reservation_not_counted": 508,
    "request_key_with_file_hash": 2,
    "acknowledged_before_it_is_stored": 4,
    "event_believed": 45,
    "ours_as_external": 4,
    "sent_before_it_is_answered": 4,
    "version_ignored": 22,
    "one_lease_for_a_lane": 220,
    "next_attempt_decided_before_its_wait": 277,
    "hand_unheard_in_doubt": 184,
    "next_attempt_not_held_back": 32,
    "next_attempt_after_hours": 73,
    "not_paid_without_a_look": 62,
    "not_paid_too_early": 10,
    "not_paid_without_stripes_clock": 10,
    "one_person_is_enough": 57,
    "not_paid_tried_again_by_its_batch": 10,
    "any_refund_named": 10,
    "messages_out_of_order": 4,
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(play: Callable[[Scenario], Result], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # A bug that goes round in a circle is to be found soon.
    monkeypatch.setattr(virtual_time, "TURNS_MAX", 3_000)
    with planted(name):
        assert play(drawn(SEEDS[name])).faults, f"{name} was not found by seed {SEEDS[name]}"


# The first seeds are played without any bug by `test_seeds`, in the same way.
@pytest.mark.parametrize("seed", sorted({seed for seed in SEEDS.values() if seed > test_seeds.SEEDS}))
def test_without_it_the_same_seed_finds_nothing(judged: Callable[[Scenario], None], seed: int) -> None:
    judged(drawn(seed))
