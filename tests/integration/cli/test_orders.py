"""Orders lead to the charges whose metadata name them at Stripe now, under the key that is set now."""

from __future__ import annotations

import json
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration

Marked = Callable[..., str]


@pytest.fixture
def stripes(stripe: Server) -> Callable[..., Any]:
    """Call Stripe past the product, as a shop does."""

    def call(path: str, **params: str) -> Any:
        body = urllib.parse.urlencode(params).encode() if params else None
        headers = {"Authorization": "Bearer sk_test_sim"}
        asked = urllib.request.Request(stripe.url + path, body, headers)  # noqa: S310  # loopback
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310  # loopback
            return json.load(answer)

    return call


@pytest.fixture
def marked(stripes: Callable[..., Any]) -> Marked:
    """Write metadata onto the charge that an order had in the beginning; tells its id."""
    listed = stripes("/v1/charges?limit=100")["data"]
    of = {one["metadata"]["order_id"]: one["id"] for one in listed}

    def mark(order: str, **metadata: str) -> str:
        stripes(f"/v1/charges/{of[order]}", **{f"metadata[{key}]": value for key, value in metadata.items()})
        return str(of[order])

    return mark


def written(path: Path, *orders: str) -> str:
    rows = "".join(f"T-{path.stem}-{at},{order},5.00,gbp\n" for at, order in enumerate(orders))
    path.write_text("ticket_id,order_id,amount,currency\n" + rows)
    return str(path)


def paid_on(stripes: Callable[..., Any]) -> list[str]:
    return [one["charge"] for one in stripes("/v1/refunds?limit=100")["data"]]


@pytest.fixture
def listed(refundry: Run, stripes: Callable[..., Any], tmp_path: Path) -> list[str]:
    """Pay a file, whose orders were found by a list of all charges; tells what was paid on."""
    assert refundry("batch", "run", written(tmp_path / "first.csv", "o5"), "--yes").code == 0
    return paid_on(stripes)


@pytest.mark.parametrize("planned", [False, True])
def test_a_batch_with_another_order_key_pays_what_that_key_names(
    refundry: Run, stripes: Callable[..., Any], marked: Marked, listed: list[str], tmp_path: Path, *, planned: bool
) -> None:
    meant, shop = marked("o2", shop="o1"), {"REFUNDRY_STRIPE__ORDER_KEY": "shop"}
    file, run = written(tmp_path / "b.csv", "o1"), ("--yes", "--json")
    if planned:
        plan = refundry("batch", "plan", file, "--json", **shop)
        assert plan.json["payable"] == 1
        told = refundry("batch", "apply", plan.json["plan_id"], *run, **shop)
    else:
        told = refundry("batch", "run", file, *run, **shop)
    assert (told.code, told.json["paid"]) == (0, 1)
    assert [one for one in paid_on(stripes) if one not in listed] == [meant]


def test_an_order_that_two_charges_have_by_now_is_ambiguous_under_another_key(
    refundry: Run, stripes: Callable[..., Any], marked: Marked, listed: list[str], tmp_path: Path
) -> None:
    """What was listed under the key before does not say which charges an order has under this one."""
    marked("o3", shop="o9")
    marked("o9", shop="o9")
    shop = {"REFUNDRY_STRIPE__ORDER_KEY": "shop"}
    told = refundry("batch", "run", written(tmp_path / "b.csv", "o9"), "--yes", "--json", **shop)
    assert told.json["reasons"] == {"ambiguous_order": 1}
    assert paid_on(stripes) == listed


def test_an_order_that_a_charge_has_no_more_is_not_refunded_from_it(
    refundry: Run, stripes: Callable[..., Any], marked: Marked, listed: list[str]
) -> None:
    marked("o3", order_id="another")
    one = ("--amount", "5.00", "--currency", "gbp", "--reason", "duplicate", "--json")
    told = refundry("refund", "create", "--order", "o3", *one)
    assert (told.code, told.error["code"]) == (2, "order_unknown")
    assert paid_on(stripes) == listed


def test_a_batch_does_not_pay_an_order_from_a_charge_that_has_another_by_now(
    refundry: Run, stripes: Callable[..., Any], marked: Marked, listed: list[str], tmp_path: Path
) -> None:
    marked("o3", order_id="o4b")
    meant = marked("o6", order_id="o3")
    told = refundry(
        "batch", "run", written(tmp_path / "b.csv", "o3", "o6"), "--yes", "--json", REFUNDRY_PAY__LOOK_MAX_AGE="0"
    )
    assert (told.json["paid"], told.json["reasons"]) == (1, {"order_unknown": 1})
    assert [one for one in paid_on(stripes) if one not in listed] == [meant]


def test_a_clock_that_was_ahead_hides_no_second_charge_of_an_order(
    refundry: Run, stripe: Server, stripes: Callable[..., Any], listed: list[str], tmp_path: Path
) -> None:
    """The list was read up to a time that has not come yet: what is created before it is listed all the same."""
    with closing(sqlite3.connect(tmp_path / "state" / "refundry.db")) as database:
        assert database.execute("UPDATE charge_windows SET until = until + 86400").rowcount == 1
        database.commit()
    stripe.control("POST /_sim/load", {"charges": [{"order_id": "o7", "amount_minor": 10_000, "currency": "gbp"}]})
    told = refundry("batch", "run", written(tmp_path / "b.csv", "o7"), "--yes", "--json")
    assert told.json["reasons"] == {"ambiguous_order": 1}
    assert paid_on(stripes) == listed


def test_a_clock_that_is_ahead_of_stripes_hides_no_second_charge_of_an_order(refundry: Run, tmp_path: Path) -> None:
    with Server(start=1_700_000_000) as behind:
        behind.control("POST /_sim/settings", {"opening_balance": 10**12})
        at = {"REFUNDRY_STRIPE__API_BASE": behind.url}
        of = {"amount_minor": 10_000, "currency": "gbp"}
        behind.control("POST /_sim/load", {"charges": [{"order_id": "o1", **of}, {"order_id": "o2", **of}]})
        first = refundry("batch", "run", written(tmp_path / "a.csv", "o1"), "--yes", "--json", **at)
        assert first.json["paid"] == 1
        behind.move(3600)
        behind.control("POST /_sim/load", {"charges": [{"order_id": "o2", **of}]})
        told = refundry("batch", "run", written(tmp_path / "b.csv", "o2"), "--yes", "--json", **at)
    assert told.json["reasons"] == {"ambiguous_order": 1}


@pytest.mark.parametrize("reason", ["ambiguous_order", "references_disagree"])
def test_a_retry_looks_again_at_the_charges_that_were_not_clear(
    refundry: Run, stripes: Callable[..., Any], marked: Marked, tmp_path: Path, reason: str
) -> None:
    """Whoever has mended their metadata does not wait until the looks of before are too old."""
    ambiguous = reason == "ambiguous_order"
    marked("o3", order_id="o4")
    meant = marked("o4", order_id="o4" if ambiguous else "another")
    file = tmp_path / "b.csv"
    file.write_text(f"ticket_id,charge_id,order_id,amount,currency\nT1,{'' if ambiguous else meant},o4,5.00,gbp\n")
    told = refundry("batch", "run", str(file), "--yes", "--json")
    assert told.json["reasons"] == {reason: 1}
    marked("o3", order_id="o3")
    marked("o4", order_id="o4")
    again = refundry("batch", "retry", told.json["batch_id"], "--json")
    assert (again.code, again.json["paid"], paid_on(stripes)) == (0, 1, [meant])
