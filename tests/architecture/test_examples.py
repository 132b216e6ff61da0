"""The examples in the docs are run, so that what a reader copies works and answers what the page shows."""

import re
import shlex
from pathlib import Path

import pytest

from stripesim import control
from stripesim.clock import Clock
from stripesim.command import build_parser
from stripesim.limits import parsed
from stripesim.scenarios import load
from tests.architecture import house
from tests.architecture.examples import LOST, Example, Reader, examples, read
from tests.support.sim import START, Sim

pytestmark = pytest.mark.architecture

PAGES = {"docs/design/simulator.md": "The control API", "docs/tutorial/simulator.md": "Five minutes with the simulator"}


def started(text: str) -> Sim:
    """Start what the page says to start, by the flags in its first block."""
    flags = re.search(r"^(?:\.venv/bin/)?python -m stripesim (.*)$", text, re.MULTILINE)
    assert flags is not None, "the page does not say what to start"
    options = build_parser().parse_args(shlex.split(flags[1]))
    start = START if options.start is None else options.start
    sim = Sim(seed=options.seed, limits=parsed(options.limits), clock=Clock(start))
    if options.load:
        with sim.world.store.transaction():
            load(sim.world, sim.world.scopes[sim.world.platform, False], options.load)
    return sim


@pytest.mark.parametrize("page", sorted(PAGES))
async def test_examples_answer_what_the_page_shows(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = house.section((house.ROOT / page).read_text(), PAGES[page])
    found = list(examples(text))
    assert len(found) > 5
    died: list[bool] = []
    monkeypatch.setattr(control, "die", lambda: died.append(True))
    sim, reader = started(text), Reader()
    if re.search(r"--start", text) is None:
        # Without a start of its own the page's clock runs; here it stands, and says that it does not.
        sim.clock.freeze(frozen=False)
    try:
        for example in found:
            request = read(reader.translated(example.command)).request()
            answer = await sim.simulator.answer(request)
            reader.hold(example, answer, lost=bool(answer.cut or died))
    finally:
        sim.simulator.close()


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ('{"a": 1}', b'{"a": 2}'),
        ('{"a": 1}', b"{}"),
        ('{"a": []}', b'{"a": [1]}'),
        ('{"a": [1, 2]}', b'{"a": [1]}'),
        ('{"a": "re_123456789abcd"}', b'{"a": "ch_123456789abcd"}'),
        ('{"a": "re_123456789abcd", "b": "re_123456789abcd"}', b'{"a": "re_123456789abcd", "b": "re_other56789abc"}'),
        (LOST, b"{}"),
    ],
)
def test_an_answer_that_differs_from_the_page_is_found(shown: str, real: bytes) -> None:
    answer = control.Answer(200, real, {})
    with pytest.raises(AssertionError):
        Reader().hold(Example("curl", shown), answer, lost=False)


def test_members_that_the_page_leaves_out_are_no_difference() -> None:
    reader = Reader()
    real = b'{"id": "re_real5678abcdef", "b": [1, 2], "c": 3}'
    reader.hold(Example("curl", '{"id": "re_shown678abcdef", "b": [1]}'), control.Answer(200, real, {}), lost=False)
    assert reader.translated("curl /v1/refunds/re_shown678abcdef") == "curl /v1/refunds/re_real5678abcdef"


@pytest.mark.parametrize("command", ["wget x", "curl -k localhost:12111/x", "curl example.com/x"])
def test_a_command_that_is_not_understood_is_not_passed_over(command: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(command)


def test_every_block_of_commands_is_among_those_that_are_run() -> None:
    for path in house.pages():
        name = str(Path(path).relative_to(house.ROOT))
        text = path.read_text()
        run = house.section(text, PAGES[name]) if name in PAGES else ""
        assert len(list(examples(text))) == len(list(examples(run))), f"{name} has examples that no test runs"
