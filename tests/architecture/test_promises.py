"""The page of promises names tests that exist, and every promise has some."""

import re

import pytest

from tests.architecture import house

pytestmark = pytest.mark.architecture
PAGE = house.ROOT / "docs" / "design" / "money-safety.md"
DEFINED = re.compile(r"def (test_\w+)\(")


def defined() -> set[str]:
    return {name for path in (house.ROOT / "tests").rglob("test_*.py") for name in DEFINED.findall(path.read_text())}


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert named - defined() == set()


def test_every_promise_names_a_test() -> None:
    rows = re.findall(r"^\| (\d) \|.*$", PAGE.read_text(), re.MULTILINE)
    assert rows == list("1234567")
    assert all("`test_" in line for line in PAGE.read_text().splitlines() if re.match(r"\| \d \|", line))
