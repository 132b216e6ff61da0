"""Random sequences of calls, faults, clock moves and restarts never break the simulator's own audit."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.stripesim.machine import Machine

pytestmark = pytest.mark.property


def test_no_sequence_of_calls_faults_moves_and_restarts_breaks_the_books() -> None:
    budget = settings(
        max_examples=15,
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=budget)
