"""The docs are complete and say nothing that is not there: the code's own registries are held against the pages."""

import ast
import re
from dataclasses import fields

import pytest

from stripesim import cards, control, faults, limits, registry, scenarios, webhooks
from stripesim.command import build_parser
from stripesim.resources import refunds
from stripesim.world import Settings
from tests.architecture import house
from tests.architecture.examples import calls

pytestmark = pytest.mark.architecture

PAGE = (house.ROOT / "docs/design/simulator.md").read_text()
FACTS = (house.ROOT / "docs/reference/stripe-facts.md").read_text()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"stripe-facts (\d+(?:\.\d+)?)")


def test_every_route_is_told() -> None:
    assert sorted(house.named(house.section(PAGE, "Routes"))) == sorted(registry.ROUTES)


def test_every_permission_heads_its_routes() -> None:
    told = set(re.findall(r"^\*\*[\w ]+\*\* \(`(\w+)`\)$", house.section(PAGE, "Routes"), re.MULTILINE))
    assert told == {route.permission.rsplit("_", 1)[0] for route in registry.ROUTES.values()}


def test_every_version_is_told() -> None:
    routes = house.section(PAGE, "Routes")
    assert [version for version in registry.VERSIONS if f"`{version}`" not in routes] == []


@pytest.mark.parametrize("operation", sorted(control.VERBS))
def test_every_control_call_has_an_example(operation: str) -> None:
    pattern = re.compile(re.sub(r"\{\w+\}", "[^/ ]+", re.escape(operation).replace(r"\{", "{").replace(r"\}", "}")))
    shown = {f"{call.method} {call.path}" for call in calls(house.section(PAGE, "The control API"))}
    assert any(pattern.fullmatch(call) for call in shown), f"{operation} has no example in docs/design/simulator.md"


def test_every_fault_kind_is_told_with_its_fields() -> None:
    told = {row[0].strip("`"): set(re.findall(r"`([a-z_]+)`", row[2])) for row in house.rows(_part("Faults"))}
    assert told.keys() == faults.KINDS
    assert [kind for kind, own in faults.OWN.items() if not own <= told[kind]] == []
    shared = {"kind", "operation", "account", "at", *faults.COUNTS, "probability"}
    assert [name for name in sorted(shared) if f"`{name}`" not in _part("Faults")] == []
    assert [reason for reason in faults.REASONS if f"`{reason}`" not in _part("Faults")] == []


def test_every_kind_of_bad_delivery_is_told() -> None:
    assert house.named(_part("Events and webhooks")) == list(webhooks.KINDS)


def test_every_setting_is_told_with_its_default() -> None:
    told = {row[0].strip("`"): row[1] for row in house.rows(_part("Settings"))}
    assert told == {setting.name: _written(setting.default) for setting in fields(Settings)}


def test_every_setting_that_is_a_choice_of_ours_is_named_by_a_doubt() -> None:
    doubts = " ".join(cell for row in house.rows(_part("What it takes for granted")) for cell in row)
    unverified = [row[0] for row in house.rows(_part("Settings")) if "Not verified" in row[2]]
    assert unverified, "the settings say which of them stand for what is not verified"
    assert [name for name in unverified if name not in doubts] == []


def test_every_problem_of_the_audit_is_told() -> None:
    source = (house.ROOT / "src/stripesim/invariants.py").read_text()
    codes = set(re.findall(r"blame\(\s*\"(\w+)\"", source))
    assert len(codes) > 5
    assert set(house.named(_part("The audit"))) == codes


def test_every_flag_is_told_with_its_default() -> None:
    told = {row[0].strip("`"): row[1] for row in house.rows(_part("Start"))}
    flags = {action.option_strings[-1]: action.default for action in build_parser()._actions if action.dest != "help"}
    assert told == {flag: "off" if value is False else str(value or "") for flag, value in flags.items()}


def test_every_test_card_is_told_with_its_name() -> None:
    table = {row[0].strip("`"): row[1].strip("` *") for row in house.rows(_part("Cards and methods"))}
    assert {number: table.get(number) for number in cards.CARDS} == {n: c.name for n, c in cards.CARDS.items()}
    assert set(table) == {*cards.CARDS, *cards.OTHERS, *cards.WAYS, *refunds.CLOSED}


def test_every_limit_is_told() -> None:
    part = _part("Limits")
    assert house.named(part) == ["live", "sandbox", "none"]
    assert sorted(limits.NAMED) == sorted(house.named(part))
    for name in ("live", "sandbox"):
        row = next(row for row in house.rows(part) if row[0] == f"`{name}`")
        of = limits.NAMED[name]
        numbers = [of.total, of.endpoint, of.search, of.total_flight, of.endpoint_flight]
        assert [cell.removesuffix("/s") for cell in row[1:]] == [str(number) for number in numbers]
    assert [word for word in limits.WORDS if f"{word}=" not in part] == []


def test_every_column_of_a_file_of_charges_is_told() -> None:
    part = _part("Charges to begin with")
    assert [name for name in (*scenarios.COLUMNS, "metadata.*") if f"`{name}`" not in part] == []
    assert [name for name in scenarios.NAMED if name not in part] == []


def test_every_event_that_is_sent_is_told() -> None:
    line = next(part for part in _part("Events and webhooks").split("\n\n") if part.startswith("Sent are:"))
    assert set(re.findall(r"`([a-z_.]+)`", line)) == _emitted()


def _emitted() -> set[str]:
    """Find the types of events in the code: the second argument of each `emit`, also where a loop gives it."""
    found: set[str] = set()
    for path in house.modules("src/stripesim"):
        tree = ast.parse(path.read_text())
        looped = {
            node.target.id: [c.value for c in node.iter.elts if isinstance(c, ast.Constant)]
            for node in ast.walk(tree)
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "emit":
                event = node.args[1]
                assert isinstance(event, ast.Constant | ast.Name), f"{path.name}: an event's type should be written out"
                found |= {str(event.value)} if isinstance(event, ast.Constant) else set(map(str, looped[event.id]))
    return found


def test_every_fact_that_is_cited_has_its_section() -> None:
    sections = {number.rstrip(".") for number in re.findall(r"^#+ (\d+(?:\.\d+)?\.?) ", FACTS, re.MULTILINE)}
    wrong = [
        f"{path.relative_to(house.ROOT)}: stripe-facts {number}"
        for path in house.texts()
        for number in CITED.findall(path.read_text())
        if number not in sections
    ]
    assert wrong == []
    doubts = house.rows(_part("What it takes for granted"))
    assert [row[0] for row in doubts if not set(re.findall(r"\((\d[\d.]*)\)$", row[0])) & sections] == []


def test_every_open_point_has_an_answer() -> None:
    points = re.findall(r"^- .*?\((\d+(?:\.\d+)?)[^)]*\)$", house.section(FACTS, "14. Open points"), re.MULTILINE)
    doubts = [row[0] for row in house.rows(_part("What it takes for granted"))]
    assert len(points) > 10
    for number in set(points):
        answered = sum(doubt.endswith(f"({number})") for doubt in doubts)
        assert answered >= points.count(number), f"an open point of stripe-facts {number} has no answer"


def test_every_make_target_is_told() -> None:
    told = (house.ROOT / "README.md").read_text() + (house.ROOT / "CONTRIBUTING.md").read_text()
    makefile = (house.ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    assert [target for target in targets if not re.search(rf"\bmake {target}\b", told)] == []
    assert [name for name in re.findall(r"`make (\w+)", told) if name not in targets] == []


@pytest.mark.parametrize("page", house.pages(), ids=lambda path: str(path.relative_to(house.ROOT)))
def test_links_lead_somewhere(page: house.Path) -> None:
    text = page.read_text()
    for target in LINK.findall(house.unfenced(text)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target} leads nowhere"
        assert there.is_relative_to(house.ROOT), f"{page.name}: {target} leads out of the house"
        if anchor:
            assert anchor in house.anchors(there.read_text()), f"{page.name}: {target} has no such heading"


def _part(title: str) -> str:
    return house.section(PAGE, title)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
