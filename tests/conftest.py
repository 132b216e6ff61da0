"""For all tests."""

from __future__ import annotations

from tests.support import logs

logs.set_back()
