"""`--account`: needed only where there are several, and then every command says which there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from refundry.cli import demo_run
from tests.integration.cli.conftest import Run, Told
from tests.support.server import Server
from tests.support.stripe_call import called

pytestmark = pytest.mark.integration

GOOD = "ticket_id,order_id,amount,currency\nT-1,o1,10.00,gbp\n"


@dataclass(frozen=True)
class Desk:
    """A platform with one connected account that has the same orders."""

    run: Run
    stripe: Server
    shop: str
    folder: Path

    @property
    def platform(self) -> str:
        return self.stripe.account

    def told(self, *arguments: str, **settings: str | None) -> Told:
        return self.run(*arguments, "--json", REFUNDRY_ACCOUNTS__SHOP__CONNECTED=self.shop, **settings)

    def file(self, text: str = GOOD) -> str:
        path = self.folder / "refunds.csv"
        path.write_text(text)
        return str(path)

    def paid(self) -> list[str]:
        """Tell on which accounts refunds were made."""
        return [
            account
            for account in (self.platform, self.shop)
            for _ in called(self.stripe, "GET /v1/refunds?limit=100", account)["data"]
        ]

    def destination_charge(self, fee: int = 0) -> str:
        more = {"application_fee_amount": str(fee)} if fee else {}
        params = {"amount": "5000", "currency": "gbp", "payment_method": "pm_card_visa", "confirm": "true"}
        to = {"transfer_data[destination]": self.shop}
        return str(called(self.stripe, "POST /v1/payment_intents", **params, **to, **more)["latest_charge"])

    def transfer(self, charge: str) -> Any:
        found = called(self.stripe, f"GET /v1/charges/{charge}")["transfer"]
        return called(self.stripe, f"GET /v1/transfers/{found}")


@pytest.fixture
def desk(refundry: Run, stripe: Server, tmp_path: Path) -> Desk:
    shop = called(stripe, "POST /v1/accounts", country="GB", type="custom")["id"]
    charges = [
        {"order_id": f"o{at}", "amount_minor": 10_000, "currency": "gbp", "created": 1_780_000_000} for at in range(3)
    ]
    stripe.control("POST /_sim/load", {"account": shop, "charges": charges})
    return Desk(refundry, stripe, shop, tmp_path)


ABOUT_ONE = (
    ("batch", "run", "FILE", "--yes"),
    ("batch", "plan", "FILE"),
    ("refund", "create", "--order", "o1", "--amount", "1.00", "--reason", "duplicate"),
    ("refund", "create", "--order", "o1", "--amount", "1.00", "--reason", "duplicate", "--dry-run"),
    ("batch", "list"),
    ("refund", "list"),
)


def test_with_several_accounts_a_command_says_which_there_are_and_does_nothing(desk: Desk) -> None:
    first = desk.told("refund", "create", "--order", "o0", "--full", "--reason", "duplicate", "--account", "shop")
    assert first.code == 0, first.err
    for command in ABOUT_ONE:
        told = desk.told(*(desk.file() if word == "FILE" else word for word in command))
        assert (told.code, told.error["code"]) == (2, "account_needed"), (command, told.err)
        assert f"{desk.platform}, {desk.shop} (shop)" in told.error["message"]
    assert desk.paid() == [desk.shop]


def test_a_charge_of_another_account_is_told_with_its_account(desk: Desk) -> None:
    asked = ("refund", "create", "--amount", "1.00", "--reason", "duplicate")
    known = desk.told(*asked, "--order", "o1", "--account", "shop")
    charge = known.json["charge"]
    told = desk.told(*asked, "--charge", charge, "--account", desk.platform)
    assert (told.code, told.error["code"]) == (2, "charge_of_other_account"), told.err
    assert f"with --account {desk.shop}" in told.error["message"]
    assert desk.paid() == [desk.shop]


def test_the_same_order_and_ticket_in_two_accounts_are_two_refunds(desk: Desk) -> None:
    for account in ("shop", desk.platform):
        told = desk.told("batch", "run", desk.file(), "--yes", "--account", account)
        assert (told.code, told.json["paid"]) == (0, 1), told.err
    assert desk.paid() == [desk.platform, desk.shop]
    # The beginning of an account is enough where it is no other's; what has an id of its own needs no account.
    for account in (desk.platform[:9], desk.shop[:9]):
        (batch,) = desk.told("batch", "list", "--account", account).json["batches"]
        assert desk.told("batch", "status", batch["batch_id"]).json["paid"] == 1
        assert desk.told("batch", "retry", batch["batch_id"]).code == 0
        (refund,) = desk.told("refund", "list", "--account", account).json["refunds"]
        # What `--json` calls an account can be handed in again; what is of the other mode is nobody here.
        assert desk.told("refund", "list", "--account", refund["account"]).json["refunds"] == [refund]
        live = desk.told("refund", "list", "--account", refund["account"].replace("|test", "|live"))
        assert (live.code, live.error["code"]) == (2, "account_not_here")
        assert refund["account"].startswith(account)
        assert desk.told("refund", "show", refund["request_id"]).code == 0
    assert desk.paid() == [desk.platform, desk.shop]


def test_a_plan_is_applied_to_its_own_account(desk: Desk) -> None:
    planned = desk.told("batch", "plan", desk.file(), "--account", "shop")
    assert planned.code == 0, planned.err
    told = desk.told("batch", "apply", planned.json["plan_id"], "--yes")
    assert told.code == 0, told.err
    assert desk.paid() == [desk.shop]


def test_an_account_that_is_not_there_is_refused(desk: Desk) -> None:
    told = desk.told("batch", "run", desk.file(), "--yes", "--account", "acct_nobodys")
    assert (told.code, told.error["code"]) == (2, "account_not_here"), told.err
    assert desk.platform in told.error["message"]
    assert desk.paid() == []


def test_a_name_that_only_stripe_could_resolve_is_not_guessed(desk: Desk) -> None:
    desk.stripe.control("POST /_sim/keys", {"secret": "sk_test_shop", "account": desk.shop})
    own = {"REFUNDRY_ACCOUNTS__SHOP__CONNECTED": None, "REFUNDRY_ACCOUNTS__SHOP__SECRET_KEY": "sk_test_shop"}
    assert desk.run("batch", "run", desk.file(), "--yes", "--json", "--account", "shop", **own).code == 0
    told = desk.run("batch", "list", "--json", "--account", "shop", **own)
    assert (told.code, told.error["code"]) == (2, "account_not_here")
    assert "REFUNDRY_ACCOUNTS__SHOP__ACCOUNT" in told.error["message"]
    own["REFUNDRY_ACCOUNTS__SHOP__ACCOUNT"] = desk.shop
    assert len(desk.run("batch", "list", "--json", "--account", "shop", **own).json["batches"]) == 1


def test_a_key_that_fails_is_told_and_the_other_accounts_are_paid(desk: Desk) -> None:
    settings: dict[str, str | None] = {"REFUNDRY_ACCOUNTS__OLD__SECRET_KEY": "sk_test_nobodys"}
    told = desk.told("batch", "run", desk.file(), "--yes", "--account", "shop", **settings)
    assert told.code == 0, told.err
    assert "REFUNDRY_ACCOUNTS__OLD__SECRET_KEY does not open its account" in told.err
    assert "sk_test_nobodys" not in told.err
    refused = desk.told("batch", "run", desk.file(), "--yes", "--account", "old", **settings)
    assert (refused.code, refused.error["code"]) == (1, "stripe_key_refused")
    assert desk.paid() == [desk.shop]


# Destination charges


@pytest.mark.parametrize(
    ("flag", "reversed_minor"), [("--reverse-transfer", 1000), ("--keep-transfer", 0)], ids=["reversed", "kept"]
)
def test_one_refund_of_a_destination_charge_needs_a_word_about_its_transfer(
    desk: Desk, flag: str, reversed_minor: int
) -> None:
    charge = desk.destination_charge()
    ask = (
        "refund",
        "create",
        "--charge",
        charge,
        "--amount",
        "10.00",
        "--reason",
        "duplicate",
        "--account",
        desk.platform,
    )
    told = desk.told(*ask)
    assert (told.code, told.error["code"]) == (2, "connect_undecided"), told.err
    assert desk.paid() == []
    assert desk.told(*ask, flag).code == 0
    assert desk.transfer(charge)["amount_reversed"] == reversed_minor


def test_rows_of_destination_charges_are_refused_until_the_account_decides(
    desk: Desk, refunds_of: Callable[[], int]
) -> None:
    charge = desk.destination_charge(fee=500)
    file = desk.file(f"ticket_id,charge_id,amount,reverse_transfer\nT-1,{charge},10.00,\nT-2,{charge},5.00,true\n")
    here = ("--account", desk.platform)
    told = desk.told("batch", "run", file, "--yes", *here)
    assert (told.code, told.json["reasons"]) == (3, {"connect_undecided": 2}), told.err
    assert refunds_of() == 0
    decided = {
        "REFUNDRY_STRIPE__REVERSE_TRANSFER": "true",
        "REFUNDRY_STRIPE__REFUND_APPLICATION_FEE": "true",
    }
    told = desk.told("batch", "retry", told.json["batch_id"], **decided)
    assert (told.code, told.json["paid"]) == (0, 2), told.err
    assert desk.transfer(charge)["amount_reversed"] == 1500
    (fee,) = called(desk.stripe, "GET /v1/application_fees")["data"]
    assert fee["amount_refunded"] == 150


# The doctor, and the demo


def test_the_doctor_looks_at_every_account_or_at_one(desk: Desk) -> None:
    settings: dict[str, str | None] = {"REFUNDRY_ACCOUNTS__OLD__SECRET_KEY": "sk_test_nobodys"}
    told = desk.told("doctor", **settings)
    assert told.code == 1, told.err
    said = [finding["said"] for finding in told.json["findings"] if finding["what"] == "key"]
    assert any(text.startswith(f"{desk.platform}: opens") for text in said)
    assert any(text.startswith(f"{desk.shop}: opens") for text in said)
    assert any(text.startswith("REFUNDRY_ACCOUNTS__OLD__SECRET_KEY: ") for text in said)
    advice = [finding["do"] for finding in told.json["findings"] if finding["code"] == "stripe_key_refused"]
    assert advice == ["set REFUNDRY_ACCOUNTS__OLD__SECRET_KEY to a valid key of this account"]
    one = desk.told("doctor", "--account", "shop", **settings)
    assert one.code == 0, one.out
    keys = [finding["said"] for finding in one.json["findings"] if finding["what"] == "key"]
    assert all(text.startswith(f"opens {desk.shop}") for text in keys)
    assert desk.told("doctor", "--account", "acct_nobodys").error["code"] == "account_not_here"
    # It could be the one that the dead key opened.
    unsure = desk.told("doctor", "--account", "acct_nobodys", **settings)
    assert [f["what"] for f in unsure.json["findings"]] == [f["what"] for f in told.json["findings"]]


def test_the_doctor_sees_what_keeps_the_accounts_from_being_opened_together(desk: Desk) -> None:
    def wrong(**settings: str | None) -> list[tuple[str, str]]:
        started = desk.run("batch", "plan", desk.file(), "--account", desk.platform, "--json", **settings)
        told = desk.run("doctor", "--json", **settings)
        assert told.code == (0 if started.code == 0 else 2), (started.err, told.out)
        found = [(one["code"], one["said"]) for one in told.json["findings"] if one["level"] == "wrong"]
        assert [code for code, _ in found] == ([] if started.code == 0 else [started.error["code"]])
        return found

    for secret, account in (("sk_test_shop", desk.shop), ("sk_test_again", desk.stripe.account)):
        desk.stripe.control("POST /_sim/keys", {"secret": secret, "account": account})
    other = called(desk.stripe, "POST /v1/accounts", country="GB", type="custom")["id"]
    desk.stripe.control("POST /_sim/keys", {"secret": "sk_test_other", "account": other})
    assert wrong(REFUNDRY_ACCOUNTS__SHOP__SECRET_KEY="sk_test_shop") == []
    # A key that opens what another one opens already, and one that was swapped for that of another account.
    ((_, twice),) = wrong(REFUNDRY_ACCOUNTS__SHOP__SECRET_KEY="sk_test_again")
    assert "STRIPE_SECRET_KEY and REFUNDRY_ACCOUNTS__SHOP__SECRET_KEY both open" in twice
    ((_, swapped),) = wrong(REFUNDRY_ACCOUNTS__SHOP__SECRET_KEY="sk_test_other")
    assert f"the key opens {other}" in swapped
    assert wrong(REFUNDRY_ACCOUNTS__SHOP__SECRET_KEY="sk_test_other", REFUNDRY_ACCOUNTS__SHOP__ACCOUNT=other) == []


def test_the_doctor_tells_the_pace_of_each_account_and_which_setting_it_is_by(desk: Desk) -> None:
    settings: dict[str, str | None] = {
        "REFUNDRY_STRIPE__LIMITS": None,
        "REFUNDRY_ACCOUNTS__SHOP__LIMITS": "global=10,endpoint=10",
        "REFUNDRY_ACCOUNTS__SHOP__HEADROOM": "0",
    }

    def limits(*arguments: str) -> dict[str, str]:
        found = desk.told("doctor", *arguments, **settings).json["findings"]
        return {finding["said"]: finding["do"] for finding in found if finding["what"] == "limits"}

    platform, shop, bare = limits().items()
    assert platform[0].startswith(f"{desk.platform}: 11.2 refunds a second")
    assert "the default in test mode, 10% left" in platform[0]
    assert shop[0].startswith(f"{desk.shop}: 5.0 refunds a second")
    assert "by REFUNDRY_ACCOUNTS__SHOP__LIMITS=global=10,endpoint=10, 0% left" in shop[0]
    assert bare == (f"{desk.shop}: nothing is left to your other programs", "unset REFUNDRY_ACCOUNTS__SHOP__HEADROOM")
    assert [said[:3] for said in limits("--account", "shop")] == ["5.0", "not"]
    # Looks have a budget of their own, and may be what is slow.
    settings["REFUNDRY_ACCOUNTS__SHOP__LIMITS"] = "global=100,endpoint=25,GET /v1/charges/{charge}=3"
    (said, *_) = limits("--account", "shop")
    assert said.startswith(
        "3.0 refunds a second (10,800 an hour) when each charge is looked at first, 25.0 refunds a second"
    )
    settings["REFUNDRY_ACCOUNTS__SHOP__LIMITS"], settings["REFUNDRY_STRIPE__LIMITS"] = None, "global=20,endpoint=20"
    # What an account leaves out is the primary one's, and is set there.
    assert any(
        "by REFUNDRY_STRIPE__LIMITS=global=20,endpoint=20, 0% left" in said for said in limits("--account", "shop")
    )


def test_the_demo_never_meets_a_key_of_a_further_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFUNDRY_ACCOUNTS__EU__SECRET_KEY", "sk_test_real")
    simulator = demo_run.Simulator()
    simulator.address = "http://127.0.0.1:1"
    wanted = demo_run.Wanted(once=True, rows=None, seed=1, limits="none", port=0)
    (only,) = demo_run._settings(tmp_path, simulator, wanted).accesses
    assert only.key == demo_run.KEY
