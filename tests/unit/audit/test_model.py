"""An audit entry's one canonical form, and the hash that hangs it onto the one before."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from refundry.audit.model import ROOT, Entry, chained
from tests.support.clock import START

pytestmark = pytest.mark.unit

ENTRY = Entry(START, "person:ada", "refund_request.approved", "r-1", {"to": "approved", "amount_minor": 5})


def test_an_entry_is_written_in_one_form_only() -> None:
    assert ENTRY.line(7, ROOT) == (
        f'[7,"{ROOT}",1790000000.0,"person:ada","refund_request.approved","r-1",{{"amount_minor":5,"to":"approved"}}]'
    )
    reordered = replace(ENTRY, facts={"amount_minor": 5, "to": "approved"})
    assert reordered.line(7, ROOT) == ENTRY.line(7, ROOT)


@pytest.mark.parametrize(
    "other",
    [
        replace(ENTRY, at=START + 1e-6), replace(ENTRY, actor="person:bob"), replace(ENTRY, event="refund_request.x"),
        replace(ENTRY, subject="r-2"), replace(ENTRY, facts={}), replace(ENTRY, facts={"to": "approved", "amount_minor": 6}),
        replace(ENTRY, facts={"to": "approved", "amount_minor": "5"}),
    ],
)  # fmt: skip
def test_whatever_is_changed_changes_the_hash(other: Entry) -> None:
    assert chained(other.line(7, ROOT)) != chained(ENTRY.line(7, ROOT))


def test_place_and_predecessor_are_part_of_the_hash() -> None:
    lines = {ENTRY.line(7, ROOT), ENTRY.line(8, ROOT), ENTRY.line(7, "1" * 64)}
    assert len({chained(line) for line in lines}) == 3


def test_no_field_can_pretend_to_be_another() -> None:
    one = replace(ENTRY, actor="a", event='b","c')
    two = replace(ENTRY, actor='a","b', event="c")
    assert one.line(1, ROOT) != two.line(1, ROOT)


def test_the_hash_is_sha256_of_the_line_in_utf8() -> None:
    line = replace(ENTRY, subject="für 5 €").line(1, ROOT)
    assert chained(line) == hashlib.sha256(line.encode("utf-8")).hexdigest()
    assert "€" in line
