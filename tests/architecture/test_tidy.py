"""The house is tidy: what we agreed not to write is not written. It prints the longest files and functions."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.architecture import house

pytestmark = pytest.mark.architecture

# Taken apart, so that this file does not find itself.
REMINDERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
PLACES = re.compile(
    r"/(?:" + "|".join(("wor" + "k", "hom" + "e", "roo" + "t", "User" + "s")) + r")/\w|\.\./" + "shared"
)
HOSTS = re.compile("py" + r"pi\.org|pythonhos" + r"ted|registry\.n" + r"pmjs|(?<!emit)-index" + "-url")
NOUNS_MISSING = {"utils.py", "util.py", "common.py", "helpers.py", "manager.py", "misc.py"}
# Where the simulator awaits the network, or one call waits for another.
AWAITING = {"api", "app", "server", "webhooks"}
AWAITING_CLASS = ("limits", "Locks")
LONGEST = 10


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(house.ROOT)}:{getattr(node, 'lineno', 1)}"


def bare_excepts(path: Path) -> list[str]:
    return [_at(path, n) for n in ast.walk(_tree(path)) if isinstance(n, ast.ExceptHandler) and n.type is None]


def prints(path: Path) -> list[str]:
    return [
        _at(path, node)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "pprint"}
    ]


def asyncs(path: Path) -> list[str]:
    """Find `async def` where nothing is awaited by right."""
    module = path.stem
    if path.parent.name == "stripesim" and module in AWAITING:
        return []
    allowed: set[ast.AST] = set()
    for node in ast.walk(_tree_of := _tree(path)):
        if isinstance(node, ast.ClassDef) and (module, node.name) == AWAITING_CLASS:
            allowed |= set(ast.walk(node))
    return [_at(path, n) for n in ast.walk(_tree_of) if isinstance(n, ast.AsyncFunctionDef) and n not in allowed]


def matches(path: Path, pattern: re.Pattern[str]) -> list[str]:
    lines = path.read_text().splitlines()
    return [f"{path.relative_to(house.ROOT)}:{at}: {line}" for at, line in enumerate(lines, 1) if pattern.search(line)]


def test_no_bare_except() -> None:
    assert [place for path in house.modules(*house.CODE) for place in bare_excepts(path)] == []


def test_no_print_in_the_packages() -> None:
    assert [place for path in house.modules("src") for place in prints(path)] == []


def test_the_simulator_awaits_only_at_its_edges() -> None:
    assert [place for path in house.modules("src/stripesim") for place in asyncs(path)] == []


def test_every_file_has_a_noun() -> None:
    assert [path for path in house.modules(*house.CODE) if path.name in NOUNS_MISSING] == []


def test_every_package_and_module_says_what_it_is() -> None:
    said = [path for path in house.modules("src", "bench") if not ast.get_docstring(_tree(path))]
    assert said == []


def test_no_reminders() -> None:
    assert [place for path in house.texts() for place in matches(path, REMINDERS)] == []


def test_no_place_of_one_machine() -> None:
    assert [place for path in house.texts() for place in matches(path, PLACES)] == []


def test_no_host_of_a_registry() -> None:
    assert [place for path in house.texts() for place in matches(path, HOSTS)] == []


BAD = {
    bare_excepts: "try:\n    pass\nexcept:\n    pass\n",
    prints: "print(1)\n",
    asyncs: "class Other:\n    async def wait(self):\n        pass\n",
}


@pytest.mark.parametrize("check", BAD, ids=lambda check: str(check.__name__))
def test_what_is_not_tidy_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: object) -> None:
    assert callable(check)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    path = tmp_path / "limits.py"
    path.write_text(BAD[check])  # type: ignore[index]
    assert len(check(path)) == 1


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (REMINDERS, "# " + "TO" + "DO: later"),
        (REMINDERS, "# " + "FIX" + "ME"),
        (PLACES, 'open("/ho' + 'me/me/x")'),
        (PLACES, "see /wo" + "rk/x"),
        (HOSTS, "https://py" + "pi.org/simple"),
        (HOSTS, "--extra-index" + "-url x"),
    ],
)
def test_what_should_not_be_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: re.Pattern[str], text: str
) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(f"first line\n{text}\n")
    assert matches(path, pattern) == [f"page.md:2: {text}"]


def test_the_longest_files_and_functions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    files: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    for path in house.modules("src"):
        files.append((len(path.read_text().splitlines()), str(path.relative_to(house.ROOT))))
        functions += [
            ((node.end_lineno or 0) - node.lineno + 1, f"{_at(path, node)} {node.name}")
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    assert files
    assert functions
    lines = ["", "longest files and functions, in lines (they count, they do not judge):"]
    lines += [
        f"{size:6} {name}" for group in (files, functions) for size, name in sorted(group, reverse=True)[:LONGEST]
    ]
    with capsys.disabled():
        print("\n".join(lines))  # noqa: T201  # it is what this test is for
