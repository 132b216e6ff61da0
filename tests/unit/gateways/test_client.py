"""The names of the calls that are made: a limit may name each of them, and nothing else."""

from __future__ import annotations

import re

import pytest

from refundry.gateways.stripe import client

pytestmark = pytest.mark.unit


def test_every_call_that_is_made_is_among_those_that_a_limit_may_name() -> None:
    named = {name for name in vars(client).values() if isinstance(name, str) and re.match(r"[A-Z]+ /v1/", name)}
    assert named == client.OPERATIONS
