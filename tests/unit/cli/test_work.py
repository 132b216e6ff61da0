"""How a command that works is ended."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest

from refundry.cli.work import Work

pytestmark = pytest.mark.unit


class Left(Exception):  # noqa: N818  # no error
    """The process has left at once."""


def test_a_wish_to_end_that_comes_twice_in_one_moment_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_: int) -> None:
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    at = [100.0]
    desk: Any = SimpleNamespace(clock=SimpleNamespace(boot_seconds=lambda: at[0]))
    nobody: Any = None
    work = Work(desk, nobody, asyncio.Event(), nobody)
    work.interrupt()
    at[0] += 0.01
    work.interrupt()
    assert work.stop.is_set()
    at[0] += 0.6
    with pytest.raises(Left):
        work.interrupt()
