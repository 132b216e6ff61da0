"""A run can be interrupted, paused from elsewhere, and gone on with; nothing is lost and nothing is paid twice."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Installation, Shop, ended, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RATE = 10
# So many are paid at most until a run is stopped: a command that stops it may take longer to start than the run to pay the rest.
IN_THE_MIDDLE = 10


@pytest.fixture
def slow(installed: Installation) -> Installation:
    """At ten refunds a second, what is still sent after a pause can be told from a run that goes on."""
    installed.more["REFUNDRY_STRIPE__LIMITS"] = f"global=1000,endpoint=1000,POST /v1/refunds={RATE}"
    installed.more["REFUNDRY_STRIPE__HEADROOM"] = "0"
    return installed


def begun(shop: Shop, process: subprocess.Popen[str], count: int) -> None:
    wait_for(f"refund {count}", lambda: shop.refunds() >= count or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def test_interrupted_then_paused_then_resumed_it_is_all_paid_once(
    shop: Shop, slow: Installation, tmp_path: Path
) -> None:
    refunds = str(shop.file(tmp_path / "refunds.csv"))
    with shop.server.turning_away(after=IN_THE_MIDDLE):
        run = slow.start("batch", "run", refunds, "--yes", "--json")
        begun(shop, run, 3)
        run.send_signal(signal.SIGINT)
        stopped = ended(run)
    assert stopped.code == 130, stopped.err
    assert 3 <= stopped.json["paid"] < 60
    # What was on its way was awaited: nothing is left in doubt.
    assert stopped.json["paid"] == shop.refunds()

    batch = stopped.json["batch_id"]
    with shop.server.turning_away(after=IN_THE_MIDDLE):
        again = slow.start("batch", "run", refunds, "--yes", "--json")
        begun(shop, again, stopped.json["paid"] + 2)
        paused = slow.run("batch", "pause", batch[:8], "--json")
        assert paused.code == 0, paused.err
        at_pause = shop.refunds()
    over = ended(again)
    assert over.code == 3, over.err
    assert over.json["reasons"] == {"stopped": 60 - over.json["paid"]}
    assert over.json["state"] == "paused"
    # Within a second of the command: what was sent already may still arrive.
    assert shop.refunds() - at_pause <= RATE
    assert shop.refunds() < 60

    slow.more["REFUNDRY_STRIPE__LIMITS"] = "none"
    resumed = slow.run("batch", "resume", batch[:8], "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["paid"] == 60
    shop.judge()


def test_a_run_that_is_told_to_end_again_and_again_ends_with_the_exit_code_of_one_that_was_told_once(
    shop: Shop, slow: Installation, tmp_path: Path
) -> None:
    refunds = str(shop.file(tmp_path / "refunds.csv"))
    with shop.server.turning_away(after=IN_THE_MIDDLE):
        run = slow.start("batch", "run", refunds, "--yes", "--json")
        begun(shop, run, 3)
        # As long as it is there: while it finishes what is on its way, and closes, and after that.
        while run.poll() is None:
            run.send_signal(signal.SIGTERM)
        stopped = ended(run)
    assert (stopped.code, "Traceback" in stopped.err) == (130, False), stopped.err
