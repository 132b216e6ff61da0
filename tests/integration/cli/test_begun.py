"""What a command has just written down is begun by its own process at once: nobody who waits at the screen waits for a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refundry.kernel.lane import Lane
from refundry.worker import main
from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration
# They come once a second.
SWEEPS_MOST = 30
ROWS = "order_id,amount,reason,ticket_id\n" + "".join(
    f"o{number},1.00,duplicate,T-{number}\n" for number in range(1, 4)
)


@pytest.fixture(autouse=True)
def swept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let no sweep find anything, until a command has waited for so many that it would wait for ever."""
    due, sweeps = main.Worker._due, list[int]()  # what a sweep finds

    def late(worker: main.Worker) -> list[tuple[str, Lane]]:
        sweeps.append(1)
        return due(worker) if len(sweeps) > SWEEPS_MOST else []

    monkeypatch.setattr(main.Worker, "_due", late)
    yield sweeps
    assert len(sweeps) <= SWEEPS_MOST, "nobody began, and a sweep had to find it"


def test_a_refund_is_begun_at_once(refundry: Run, refunds_of: Callable[[], int]) -> None:
    for number in (1, 2):
        told = refundry("refund", "create", "--order", f"o{number}", "--full", "--reason", "duplicate", "--json")
        assert (told.code, told.json["outcome"]) == (0, "paid")
    assert refunds_of() == 2


def test_a_row_of_a_file_is_begun_at_once_as_a_persons_own_when_it_is_allowed_at_the_desk(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server, tmp_path: Path
) -> None:
    create = ("refund", "create", "--order", "o2", "--amount", "1.00", "--reason", "duplicate", "--ticket", "T-2")
    charge = refundry(*create, "--dry-run", "--json").json["charge"]
    stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 100})
    path = tmp_path / "refunds.csv"
    path.write_text(ROWS)
    told = refundry("batch", "run", str(path), "--yes", "--json")
    assert (told.code, told.json["paid"], told.json["waiting"]) == (3, 2, 1), told.err
    told = refundry(*create, "--allow-repeat", "--json")
    assert (told.code, told.json["outcome"]) == (0, "paid"), told.err
    assert "was asked for before" in told.err
    events = [one["event"] for one in refundry("refund", "show", told.json["request_id"], "--json").json["timeline"]]
    assert events.count("refund_request.expedited") == 1
    assert refunds_of() == 4


def test_a_file_is_begun_at_once(refundry: Run, refunds_of: Callable[[], int], tmp_path: Path) -> None:
    path = tmp_path / "refunds.csv"
    path.write_text(ROWS)
    told = refundry("batch", "run", str(path), "--yes", "--json")
    assert told.code == 0, told.err
    assert refunds_of() == 3
