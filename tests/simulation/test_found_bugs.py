"""Bugs that the simulation found: the seed as it was drawn then, and a plain run made by hand for newcomers.

The drawing may change, and then a seed draws something else; the runs made by hand stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation import test_seeds
from tests.simulation.scenario import FileRow, Happening, Scenario, ShopCharge, drawn
from tests.simulation.world_run import Result

pytestmark = pytest.mark.simulation
SEEDS = {
    # A clock that was set back: looks were older than what they were held against, so none counted, and the same look was made
    # without end, at full pace.
    45: {"jumps"},
    # `full` was decided, its attempt proven absent, and meanwhile a sibling's refund appeared late: less was left, and the request
    # was declined instead of being paid what is left.
    36: {"late", "deleted"},
    # An answer to an earlier send came while the attempt was being looked after: it was sent again by what was read before.
    135: {"zombies"},
    # `full` was refused as too much, since another installation had refunded between look and send: what was left is paid.
    582: {"second_installation"},
    # A clock was set back by a day before a restart: a day later a look of the day before passed for a fresh one, and what
    # another installation had paid meanwhile was paid again, its key forgotten by then.
    877: {"jumps", "second_installation"},
    # A refund failed after another had come since the last look: its order was told the sum of that look for ever.
    28: {"fails", "followed"},
    # The event of a dispute came while Stripe's lists did not show it yet, and counted as applied: nobody ever heard of it.
    150078: {"disputes", "followed", "stale"},
}


# The first seeds are played by `test_seeds`, in the same way.
@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed > test_seeds.SEEDS])
def test_a_seed_that_found_a_bug_finds_none(judged: Callable[[Scenario], None], seed: int) -> None:
    judged(drawn(seed))


def one_charge(*rows: FileRow) -> Scenario:
    """Make a shop with a charge of 100.00 GBP, a process, and a file."""
    scenario = Scenario(0, [ShopCharge("order-0", 10_000, "gbp")], [list(rows)])
    scenario.happenings = [
        Happening(0.1, "start", {"installation": 0}),
        Happening(0.2, "accept", {"installation": 0, "file": 0}),
    ]
    scenario.calm_at = 20.0
    return scenario


def refunds_of(result: Result) -> list[str]:
    """Tell the sends of refunds, without their times."""
    return [
        line.partition(" POST /v1/refunds ")[2].rpartition(".")[2]
        for line in result.lines
        if "POST /v1/refunds" in line
    ]


def test_a_clock_that_is_set_back_holds_up_no_refund(play: Callable[[Scenario], Result]) -> None:
    scenario = one_charge(
        FileRow(0, "charge_id", 4_000, "T-1"),
        FileRow(0, "charge_id", 3_000, "T-2"),
        FileRow(0, "charge_id", 2_000, "T-3"),
    )
    # Set back right after the first refund, which has marked the charge as changed.
    scenario.happenings.append(Happening(1.25, "jump", {"installation": 0, "seconds": -3_600.0}))
    scenario.traits = {"jumps"}
    result = play(scenario)
    assert result.faults == []
    assert refunds_of(result) == ["1 -> 200"] * 3
    looks = [line for line in result.lines if "GET /v1/charges/ch_" in line]
    assert len(looks) <= 8, "\n".join(result.lines)


def test_full_is_paid_what_is_left_when_its_first_attempt_is_proven_absent(play: Callable[[Scenario], Result]) -> None:
    scenario = one_charge(FileRow(0, "charge_id", None, "T-1"))
    scenario.happenings += [
        Happening(0.05, "faults", {"rules": [{"kind": "error_stored", "operation": "POST /v1/refunds", "times": 1}]}),
        Happening(30.0, "hand", {"charge": 0, "share": 0.25}),
    ]
    result = play(scenario)
    assert result.faults == []
    assert refunds_of(result)[-1] == "2 -> 200"


def test_a_look_from_before_the_clock_was_set_back_is_not_fresh_a_day_later(play: Callable[[Scenario], Result]) -> None:
    scenario = one_charge(FileRow(0, "charge_id", 4_000, "T-1"))
    scenario.files.append(list(scenario.files[0]))
    limited = {"kind": "rate_limit", "operation": "POST /v1/refunds", "reason": "endpoint-rate"}
    scenario.happenings += [
        # Sent away at first, and to be sent again half a second later: which takes a day, since the clock is set back meanwhile.
        Happening(0.05, "faults", {"rules": [limited]}),
        Happening(1.5, "jump", {"installation": 0, "seconds": -25 * 3_600.0}),
        Happening(1.6, "faults", {"rules": []}),
        # Another installation pays it, and Stripe has forgotten that key a day later.
        Happening(3.0, "start", {"installation": 1}),
        Happening(3.1, "accept", {"installation": 1, "file": 1}),
    ]
    scenario.happenings.sort(key=lambda happening: happening.at)
    scenario.traits = {"jumps", "second_installation"}
    result = play(scenario)
    assert result.faults == [], result.log
