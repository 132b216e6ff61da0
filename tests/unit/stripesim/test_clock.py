"""The clock: it follows the machine or stands, moves both ways, and plays past moments."""

import pytest

from stripesim.clock import Clock, midnight_after

pytestmark = pytest.mark.unit


class Machine:
    """The machine's time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_follows_the_machine_by_an_offset() -> None:
    machine = Machine()
    clock = Clock(machine=machine)
    clock.move(by=50)
    machine.now += 5
    assert clock.now() == 1055
    clock.move(to=20.75)
    machine.now += 1
    assert (clock.now(), clock.seconds()) == (21.75, 21)


def test_it_stands_and_runs_on_from_there() -> None:
    machine = Machine()
    clock = Clock(machine=machine)
    clock.move(by=-100)
    clock.freeze(frozen=True)
    machine.now += 7
    assert (clock.now(), clock.frozen) == (900, True)
    clock.freeze(frozen=False)
    machine.now += 7
    assert (clock.now(), clock.frozen) == (907, False)


def test_while_a_past_moment_is_played_it_tells_that_moment() -> None:
    clock = Clock(500)
    clock.hold(400.5)
    assert clock.now() == 400.5
    clock.hold(None)
    assert clock.now() == 500


def test_a_restart_goes_on_with_the_same_clock() -> None:
    machine = Machine()
    for frozen in (True, False):
        before, after = Clock(machine=machine), Clock(machine=machine)
        before.move(by=33)
        before.freeze(frozen=frozen)
        after.restore(before.state())
        machine.now += 10
        assert (after.now(), after.frozen) == (before.now(), frozen)


@pytest.mark.parametrize(("moment", "days", "end"), [(0, 0, 86_400), (86_399, 0, 86_400), (86_400, 2, 4 * 86_400)])
def test_waiting_days_end_at_a_midnight(moment: int, days: int, end: int) -> None:
    assert midnight_after(moment, days) == end
