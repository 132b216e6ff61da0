"""Whatever comes by is no signature of ours, and whatever is signed is read, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.gateways.stripe import webhooks
from refundry.gateways.stripe.mapping import Unreadable
from tests.support.events import NOW, SECRET, body_of, written

pytestmark = pytest.mark.property

BODY = written(body_of())


@given(
    st.text(max_size=300)
    | st.from_regex(r"(t=1700000000,?|t=[0-9]{0,14},?)?(v[01]=[0-9a-f]{0,66},?){0,3}", fullmatch=True)
)
def test_no_header_that_was_not_signed_is_right(header: str) -> None:
    assert webhooks.flaw((SECRET,), header, BODY, NOW) != ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
NAMES = st.sampled_from("id object type account livemode created data request api_version".split())


@given(
    st.dictionaries(NAMES, JSON, max_size=9),
    st.dictionaries(st.sampled_from("id object charge metadata amount status".split()), JSON),
)
def test_whatever_comes_is_read_or_refused(members: dict[str, Any], about: dict[str, Any]) -> None:
    for body in (members, body_of(**members), body_of(data={"object": about})):
        try:
            event = webhooks.event_of(body, b"")
        except Unreadable:
            continue
        texts = (
            event.id,
            event.type,
            event.account,
            event.object_id,
            event.charge,
            event.refund,
            event.status,
            event.idempotency_key,
        )
        # No database takes a text with a NUL in it, and none of ours an amount beyond 64 bits.
        assert all("\0" not in text for text in texts if text is not None)
        assert event.amount_minor is None or abs(event.amount_minor) < 2**63
