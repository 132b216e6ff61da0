"""Whatever is done with a file, its refunds are paid once: by the simulator's audit, never by the product's own word."""

from pathlib import Path

import pytest

from tests.support.command import Installation, Shop, ended

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_file_again_renamed_sorted_edited_and_elsewhere_pays_nothing_twice(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    refunds = shop.file(tmp_path / "refunds.csv")
    first = installed.run("batch", "run", str(refunds), "--yes", "--json")
    assert first.code == 0, first.err
    assert (first.json["rows"], first.json["paid"]) == (60, 60)
    shop.judge()

    renamed = shop.file(tmp_path / "again.csv")
    again = installed.run("batch", "run", str(renamed), "--yes", "--json")
    assert again.code == 0, again.err
    assert again.json["batch_id"] == first.json["batch_id"]

    edited = shop.file(tmp_path / "edited.csv", list(reversed(range(60))), o7="55.55")
    other = installed.run("batch", "run", str(edited), "--yes", "--json")
    assert other.code == 3, other.err
    assert other.json["refused"] == 60
    assert other.json["reasons"] == {"repeated_row": 59, "same_key_other_content": 1}
    shop.judge()

    elsewhere = Installation(tmp_path / "elsewhere", shop.server.url)
    sorted_ = shop.file(tmp_path / "sorted.csv", list(reversed(range(60))))
    adopted = elsewhere.run("batch", "run", str(sorted_), "--yes", "--json")
    assert adopted.code == 0, adopted.err
    assert adopted.json["paid"] == 60
    shop.judge()


def test_two_processes_at_once_pay_once_and_both_tell_it(shop: Shop, installed: Installation, tmp_path: Path) -> None:
    refunds = str(shop.file(tmp_path / "refunds.csv"))
    one, two = (installed.start("batch", "run", refunds, "--yes", "--json") for _ in range(2))
    for done in (ended(one), ended(two)):
        assert done.code == 0, done.err
        assert done.json["paid"] == 60
    shop.judge()


def test_one_refund_is_paid_once_however_often_it_is_asked_for(shop: Shop, installed: Installation) -> None:
    refund = (
        "refund",
        "create",
        "--order",
        "o1",
        "--amount",
        "12.34",
        "--reason",
        "duplicate",
        "--ticket",
        "T-9",
        "--json",
    )
    first, second = installed.run(*refund), installed.run(*refund)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.json["state"] == "settled"
    assert first.json["request_id"] == second.json["request_id"]
    assert first.json["refund"] == second.json["refund"]
    assert shop.refunds() == 1


def test_a_ticket_that_names_its_charge_in_another_way_elsewhere_is_not_paid_again(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    asked = ("--amount", "12.34", "--reason", "duplicate", "--ticket", "T-9", "--json")
    first = installed.run("refund", "create", "--order", "o1", *asked)
    assert first.code == 0, first.err
    elsewhere = Installation(tmp_path / "elsewhere", shop.server.url)
    second = elsewhere.run("refund", "create", "--charge", first.json["charge"], *asked)
    assert (second.code, second.json["held"]) == (3, "possible_repeat"), second.out
    assert first.json["refund"] in second.json["why"]
    assert shop.refunds() == 1
