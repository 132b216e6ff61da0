"""Whoever interrupts a command before it has begun sees no traceback: its code is still being read then."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture import house

pytestmark = pytest.mark.integration
# Signals the process in the middle of an import, as a Ctrl-C in that moment does.
SIGNALED = """
import os, signal, sys
def signaled(event, told):
    if event == "import" and told[0] == {module!r}:
        os.kill(os.getpid(), signal.{name})
sys.addaudithook(signaled)
sys.argv = ["refundry", "--help"]
{start}
"""
AS_MODULE = 'import runpy; runpy.run_module("{package}", run_name="__main__", alter_sys=True)'

# Does the same in the middle of a class that is made once the command has begun.
IN_A_CLASS = """
import functools, os, signal, sys
begun = []
sys.addaudithook(lambda event, told: begun.append(told) if event == "import" and told[0] == "sqlalchemy" else None)
set_name = functools.cached_property.__set_name__
def signaled(*told):
    if begun:
        os.kill(os.getpid(), signal.SIGINT)
    set_name(*told)
functools.cached_property.__set_name__ = signaled
sys.argv = ["refundry", "refund", "list"]
{start}
"""


def script() -> str:
    """Write what the installed command does."""
    told = tomllib.loads((house.ROOT / "pyproject.toml").read_text())["project"]["scripts"]["refundry"]
    module, _, function = told.partition(":")
    return f"from {module} import {function}; sys.exit({function}())"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("start", "module"),
    [
        (script(), "typer"),
        (AS_MODULE.format(package="refundry"), "typer"),
        (AS_MODULE.format(package="stripesim"), "stripesim.world"),
    ],
    ids=["command", "module", "simulator"],
)
def test_an_interruption_while_the_code_is_read_ends_quietly(start: str, module: str, name: str) -> None:
    code = SIGNALED.format(start=start, module=module, name=name)
    done = subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interruption_while_a_class_is_made_is_one(tmp_path: Path) -> None:
    settings = {"STRIPE_SECRET_KEY": "sk_test_sim", "REFUNDRY_STATE_DIR": str(tmp_path)}
    done = subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-c", IN_A_CLASS.format(start=script())],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=settings,
    )
    told = "interrupted: what was accepted is kept, and the same command goes on\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told)
