"""Processes that die, sleep, or are wrong about the time pay nothing twice and leave nothing out. Large counts: `make soak`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support import crash_run
from tests.support.crash_run import TAKE_OVER_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
ROWS = 200
