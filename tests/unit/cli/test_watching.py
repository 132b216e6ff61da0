"""How often a command looks at the batch that it watches."""

from __future__ import annotations

import pytest

from refundry.cli.batch_run import LOOK_SECONDS, rest_after
from refundry.cli.progress import LOOKING_SHARE, REST_SECONDS_MAX

pytestmark = pytest.mark.unit


def test_a_quick_look_is_made_again_soon_and_a_slow_one_takes_a_small_share_of_the_time() -> None:
    assert rest_after(0.001) == LOOK_SECONDS
    assert rest_after(0.1) == pytest.approx(0.1 / LOOKING_SHARE)


def test_a_stop_or_a_lost_database_during_a_look_is_not_taken_for_a_slow_look() -> None:
    # A process that was stopped for a minute while it looked would have watched nothing for ten.
    assert rest_after(60.0) == rest_after(3600.0) == REST_SECONDS_MAX
