"""What is installed: the wheel has the data that the simulator reads, and the licences of what others made."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.architecture import house

pytestmark = pytest.mark.architecture


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(house.ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as opened:
        yield opened


def test_everything_of_both_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    there = {
        str(path.relative_to(house.ROOT / "src"))
        for package in ("refundry", "stripesim")
        for path in (house.ROOT / "src" / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - names == set()
    assert "stripesim/shapes.json" in names
    assert not any(name.endswith(".pyc") for name in names)


def test_the_scenario_is_in_the_wheel_with_where_it_comes_from_and_its_licence(wheel: zipfile.ZipFile) -> None:
    folder = "stripesim/scenarios/online_retail/"
    assert wheel.getinfo(folder + "charges.csv").file_size > 100_000
    assert "CC BY 4.0" in wheel.read(folder + "README.md").decode()


@pytest.mark.parametrize("path", ["LICENSE", "src/stripesim/LICENSE.stripe-openapi"])
def test_every_licence_is_in_the_wheel_and_in_its_metadata(wheel: zipfile.ZipFile, path: str) -> None:
    info = next(Path(name).parts[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert wheel.read(f"{info}/licenses/{path}") == (house.ROOT / path).read_bytes()
    assert f"License-File: {path}" in wheel.read(f"{info}/METADATA").decode().splitlines()
