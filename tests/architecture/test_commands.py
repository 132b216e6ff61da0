"""The commands of the house: every target of the Makefile explains itself, and requirements are pinned by hash."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture import house

pytestmark = pytest.mark.architecture

MAKEFILE = (house.ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)
PINNED = re.compile(r"[A-Za-z0-9][\w.\-]*(\[[\w,\-]+\])?==[\w.+!]+( ; .*?)?( --hash=sha256:[0-9a-f]{64})+")
LOCKED = sorted((house.ROOT / "requirements").glob("*.txt"))


def requirements(text: str) -> list[str]:
    """Join the lines of each requirement; comments are left out."""
    joined = re.sub(r"\\\n", " ", text)
    return [
        re.sub(r" +", " ", line).strip()
        for line in joined.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def unpinned(text: str) -> list[str]:
    return [line for line in requirements(text) if PINNED.fullmatch(line) is None]


def test_every_target_is_in_make_help() -> None:
    make = shutil.which("make")
    assert make is not None, "the house is run by make"
    command = [make, "--no-print-directory", "help"]
    told = subprocess.run(command, cwd=house.ROOT, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603  # our own Makefile
    assert TARGETS
    assert [line.split()[1] for line in told.splitlines()] == TARGETS
    assert [line for line in told.splitlines() if len(line.split()) < 3] == []


def test_every_target_is_phony() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert sorted(phony[1].split()) == sorted(TARGETS)


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: str(path.name))
def test_every_requirement_is_pinned_by_hash(path: Path) -> None:
    assert len(requirements(path.read_text())) > 3
    assert unpinned(path.read_text()) == []


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: str(path.name))
def test_no_requirement_names_an_address(path: Path) -> None:
    assert re.findall(r".*(?:://|^-).*", path.read_text(), re.MULTILINE) == []


def test_every_list_of_requirements_is_compiled() -> None:
    folder = house.ROOT / "requirements"
    assert sorted(path.stem for path in folder.glob("*.in")) == sorted(path.stem for path in LOCKED)


HASH = "--hash=sha256:" + "0" * 64


@pytest.mark.parametrize(
    "line", ["a==1", f"a>=1 {HASH}", f"a @ x {HASH}", "a==1 --hash=md5:0", f"a==1 {HASH}0", f"-e . {HASH}"]
)
def test_a_requirement_that_is_not_pinned_is_found(line: str) -> None:
    assert unpinned(f"good==1.0 \\\n    {HASH} \\\n    {HASH}\n    # via x\n{line}\n") == [line]
