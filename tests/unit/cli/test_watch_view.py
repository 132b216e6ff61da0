"""How a batch that is watched looks: what is told at each moment, and that it fits a terminal of 80 columns and of 60."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from refundry.batches.model import Batch, BatchState, Standing, Totals
from refundry.batches.service import Outlook
from refundry.cli.progress import packed
from refundry.cli.watch_view import REASONS_MAX, Moment, drawn, line, told
from refundry.infra import pace
from refundry.infra.readings import Reading, Times

pytestmark = pytest.mark.unit
SEND, LOOK = "POST /v1/refunds", "GET /v1/charges/{charge}"


def times(count: int, seconds: float) -> Times:
    made = Times()
    for _ in range(count):
        made.took(seconds)
    return made


def totals(**counts: int) -> Totals:
    made = Totals(rows=sum(counts.values()))
    made.standings.update({Standing(name): count for name, count in counts.items()})
    return made


@pytest.fixture
def moment() -> Moment:
    counted = totals(paid=23_290, refused=102, failed=25, unknown=1, waiting=26_582)
    counted.requested, counted.paid = {"gbp": 36_800_000, "eur": 4_000}, {"gbp": 17_233_609, "eur": 1_200}
    counted.reasons = {
        "charge_disputed": 102,
        "lost_or_stolen_card": 25,
        "timeout": 1,
        "sibling": 82,
        "approved": 26_500,
    }
    counted.waits = {"sibling": 82, "approved": 26_500}
    counted.moving = 26_500
    batch = Batch("3f2a91bc-1", "acct_1|test", "recall.csv", "", BatchState.RUNNING, (), 50_000, 0.0)
    budgets = (
        pace.Standing("*", 22.5, 22.5),
        pace.Standing("GET /v1/charges", 22.5, 22.5),
        pace.Standing(SEND, 16.9, 22.5),
    )
    reading = Reading(
        {SEND: times(600, 0.24), LOOK: times(600, 0.09)},
        {"endpoint-rate": 10, "lock_timeout": 2},
        {SEND: 11.2, LOOK: 11.2},
    )
    return Moment(
        batch, "acct_1, test mode", counted, None, budgets, reading, 11.2, 3, 41.0, "", executing=True
    )  # fmt: skip


def screen(moment: Moment, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(drawn(moment, width))
    return [text.rstrip() for text in console.export_text().splitlines()]


def test_everything_that_one_wants_to_know_is_on_the_screen(moment: Moment) -> None:
    assert screen(moment, 80) == [
        "recall.csv                                                     3f2a91bc, running",
        "acct_1, test mode",
        "━━━━━━━━━━━━━━━━━━━━━━━━╸                             23,418 of 50,000 rows  46%",
        "",
        "rows       23,290 paid   102 refused   25 failed   1 unknown   26,582 waiting",
        "money paid 12.00 EUR of 40.00 EUR   172,336.09 GBP of 368,000.00 GBP",
        "speed      11.2 rows/s   39:26 left",
        "calls      refunds 11.2/s of 16.9/s (22.5/s before 429s)",
        "           all calls 22.4/s of 22.5/s",
        "latency    refunds 225 ms, p95 248 ms   looks 88 ms, p95 99 ms",
        "429s       12 in the last hour   10 endpoint-rate   2 lock_timeout",
        "not paid   102 charge_disputed   25 lost_or_stolen_card   1 timeout",
        "held       82 sibling",
        "in doubt   3 requests   next look in 0:41",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal_and_no_part_of_it_is_lost(moment: Moment, width: int) -> None:
    shown = screen(moment, width)
    assert max(len(text) for text in shown) <= width
    assert len(shown) <= 22
    whole = " ".join(shown)
    for part in (
        "26,582 waiting",
        "172,336.09 GBP of 368,000.00 GBP",
        "all calls 22.4/s of 22.5/s",
        "10 endpoint-rate",
        "3 requests",
    ):
        assert part in whole
    assert "…" not in whole


def test_a_part_that_is_longer_than_the_line_has_one_of_its_own() -> None:
    assert packed(["a part too long", "b"], 5) == ["a part too long", "b"]


def test_a_log_file_gets_one_line_with_all_of_it(moment: Moment) -> None:
    text = line(moment)
    assert text.startswith(
        "23,418 of 50,000 rows; running; rows 23,290 paid, 102 refused, 25 failed, 1 unknown, 26,582 waiting; "
    )
    for part in (
        "speed 11.2 rows/s, 39:26 left",
        "held 82 sibling",
        "429s 12 in the last hour",
        "latency refunds 225 ms, p95 248 ms",
    ):
        assert part in text
    assert "\n" not in text


def test_as_json_it_has_the_status_and_how_it_goes(moment: Moment) -> None:
    facts = json.loads(json.dumps(told(moment)))
    assert facts["paid"] == 23_290
    assert facts["over"] is False
    assert facts["holds"] == {"sibling": 82}
    assert facts["failures"] == {"charge_disputed": 102, "lost_or_stolen_card": 25, "timeout": 1}
    assert facts["rate_limited_by_reason"] == {"endpoint-rate": 10, "lock_timeout": 2}
    assert {"scope": SEND, "used": 11.2, "rate": 16.9, "rate_max": 22.5} in facts["limits"]
    assert {"scope": "*", "used": 22.4, "rate": 22.5, "rate_max": 22.5} in facts["limits"]
    assert facts["latency"][SEND] == {"calls": 600, "p50": 0.225, "p95": 0.2475}
    assert facts["seconds_left"] == pytest.approx(26_500 / 11.2, abs=0.01)


def test_without_limits_the_speed_of_the_calls_is_told_all_the_same(moment: Moment) -> None:
    shown = " ".join(screen(replace(moment, budgets=()), 80))
    assert "refunds 11.2/s, no limit" in shown


def test_where_no_calls_are_made_none_are_told(moment: Moment) -> None:
    quiet = replace(moment, reading=Reading({}, {}, {}), rows_per_second=None)
    labels = [text.split("  ")[0] for text in screen(quiet, 80)]
    assert not {"calls", "latency", "speed"} & set(labels)
    assert "429s       none in the last hour" in screen(quiet, 80)


def test_no_more_reasons_are_told_than_fit(moment: Moment) -> None:
    moment.totals.reasons = {f"reason_{at}": 1 for at in range(REASONS_MAX + 3)}
    moment.totals.waits = {}
    assert "and 3 more reasons" in " ".join(screen(moment, 80))


def test_a_schedule_tells_its_stage_and_what_it_waits_for_and_no_time_left(moment: Moment) -> None:
    waits = Outlook(
        "stages of 1, 50 rows",
        "stage",
        None,
        "stage 3 of 3: begins when stage 2 is over",
        "",
        "stage 2 of 3: 7 of 50 rows over",
    )
    shown = screen(replace(moment, outlook=waits), 80)
    assert "canary     stage 2 of 3: 7 of 50 rows over" in shown
    assert "speed      11.2 rows/s   stage 3 of 3: begins when stage 2 is over" in shown
    assert "schedule   stages of 1, 50 rows" in shown
    assert not any("left" in text for text in shown)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"executing": False}, "nobody executes"),
        ({"held": "Stripe refuses the key"}, "the account is held, and nothing is paid until its key works: Stripe refuses the key"),
        ({"state": BatchState.PAUSED}, "paused: `refundry batch resume 3f2a91bc` goes on"),
        ({"state": BatchState.PAUSED, "outlook": Outlook("stages of 1 row", halted="6 of 50 failed")}, "halted: 6 of 50 failed; `refundry"),
        ({"state": BatchState.PLANNED}, "planned: nothing is paid before its plan is applied"),
    ],
)  # fmt: skip
def test_what_stands_still_says_why_and_what_to_do(moment: Moment, changes: dict[str, object], note: str) -> None:
    state = changes.pop("state", BatchState.RUNNING)
    still = replace(moment, batch=replace(moment.batch, state=state), **changes)  # type: ignore[arg-type]
    assert note in " ".join(screen(still, 160))
    assert note in line(still)
    assert not still.over


@pytest.mark.parametrize(
    ("state", "waiting", "moving", "over"),
    [
        (BatchState.RUNNING, 5, 5, False), (BatchState.RUNNING, 5, 0, True), (BatchState.RUNNING, 0, 0, True),
        (BatchState.ACCEPTED, 5, 5, False), (BatchState.PAUSED, 5, 0, False), (BatchState.PAUSED, 0, 0, True),
        (BatchState.WITHDRAWN, 0, 0, True), (BatchState.WITHDRAWN, 1, 1, False), (BatchState.PLANNED, 5, 0, False),
    ],
)  # fmt: skip
def test_it_is_over_when_nothing_happens_to_it_by_itself_any_more(
    moment: Moment, state: BatchState, waiting: int, moving: int, over: bool  # noqa: FBT001  # a case
) -> None:  # fmt: skip
    counted = totals(paid=5, waiting=waiting)
    counted.moving = moving
    assert replace(moment, batch=replace(moment.batch, state=state), totals=counted).over is over
