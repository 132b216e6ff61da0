"""Whoever interrupts a command before it has begun sees no traceback: its code is still being read then."""

from __future__ import annotations

import subprocess
import sys
import tomllib

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
