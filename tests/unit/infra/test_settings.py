"""Settings: each wrong one is named with its code, and no value of a secret is ever told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refundry.infra import settings
from refundry.infra.settings import Settings, SettingsError

pytestmark = pytest.mark.unit

TEST_KEY, LIVE_KEY = "sk_test_4eC39HqLyjWDarjt", "rk_live_4eC39HqLyjWDarjt"
SECRET = "4eC39HqLyjWDarjt"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without any of ours, whatever the machine has set."""
    for name in list(os.environ):  # noqa: TID251  # to clear it
        if name.startswith(("REFUNDRY_", "STRIPE_", "XDG_")):
            monkeypatch.delenv(name)


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return settings.read()


# The key


@pytest.mark.parametrize("key", [TEST_KEY, "rk_test_x", f"  {TEST_KEY}\n"])
def test_a_test_key_works_as_it_is(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    assert read(monkeypatch, STRIPE_SECRET_KEY=key).key == key.strip()


def test_our_own_name_of_the_key_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    told = read(monkeypatch, STRIPE_SECRET_KEY="sk_test_theirs", REFUNDRY_STRIPE__SECRET_KEY="sk_test_ours")
    assert told.key == "sk_test_ours"


@pytest.mark.parametrize("key", ["sk_live_1", LIVE_KEY])
def test_a_live_key_works_only_in_live_mode(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    assert read(monkeypatch, STRIPE_SECRET_KEY=key, REFUNDRY_MODE="live").key == key


@pytest.mark.parametrize("base", ["https://api.stripe.com", "https://api.stripe.com/"])
def test_a_live_key_may_be_sent_to_stripe_by_name(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    told = read(monkeypatch, STRIPE_SECRET_KEY=LIVE_KEY, REFUNDRY_MODE="live", REFUNDRY_STRIPE__API_BASE=base)
    assert told.key == LIVE_KEY


KEYS: dict[str, tuple[dict[str, str], str, str]] = {
    "none": ({}, "stripe_key_missing", "STRIPE_SECRET_KEY"),
    "empty": ({"STRIPE_SECRET_KEY": "  "}, "stripe_key_missing", "STRIPE_SECRET_KEY"),
    "publishable": ({"STRIPE_SECRET_KEY": f"pk_test_{SECRET}"}, "stripe_key_wrong", "STRIPE_SECRET_KEY"),
    "no key at all": ({"STRIPE_SECRET_KEY": f"hunter{SECRET}"}, "stripe_key_wrong", "STRIPE_SECRET_KEY"),
    "a webhook secret": ({"STRIPE_SECRET_KEY": f"whsec_{SECRET}"}, "stripe_key_wrong", "STRIPE_SECRET_KEY"),
    "only its beginning": ({"STRIPE_SECRET_KEY": "sk_test_"}, "stripe_key_wrong", "STRIPE_SECRET_KEY"),
    "live in test mode": ({"STRIPE_SECRET_KEY": LIVE_KEY}, "stripe_key_of_other_mode", "REFUNDRY_MODE"),
    "test in live mode": (
        {"STRIPE_SECRET_KEY": TEST_KEY, "REFUNDRY_MODE": "live"}, "stripe_key_of_other_mode", "REFUNDRY_MODE"),
    **{
        f"live to {base}": (
            {"STRIPE_SECRET_KEY": LIVE_KEY, "REFUNDRY_MODE": "live", "REFUNDRY_STRIPE__API_BASE": base},
            "live_key_to_other_base", "REFUNDRY_STRIPE__API_BASE")
        for base in (
            "http://127.0.0.1:1", "http://api.stripe.com", "https://api.stripe.com.evil.example", "https://api.stripe.com:8443",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_a_key_that_may_not_be_used_is_refused_by_its_code(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    variables, code, setting = KEYS[case]
    told = read(monkeypatch, **variables)
    with pytest.raises(SettingsError) as refused:
        _ = told.key
    assert (refused.value.code, refused.value.ids["setting"]) == (code, setting)
    assert setting in refused.value.message
    assert SECRET not in refused.value.message + repr(refused.value) + str(refused.value.told())


@pytest.mark.parametrize(
    "variables",
    [
        {"STRIPE_SECRET_KEY": TEST_KEY}, {"REFUNDRY_STRIPE__SECRET_KEY": TEST_KEY},
        {"REFUNDRY_DATABASE_URL": f"postgresql://ada:{SECRET}@host/db"},
    ],
)  # fmt: skip
def test_no_secret_shows_in_what_settings_say_of_themselves(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    told = read(monkeypatch, **variables)
    assert SECRET not in repr(told) + str(told) + repr(told.model_dump()) + told.model_dump_json()


# The others

WRONG: dict[str, tuple[dict[str, str], str]] = {
    "mode": ({"REFUNDRY_MODE": SECRET}, "REFUNDRY_MODE"),
    "base with a path": ({"REFUNDRY_STRIPE__API_BASE": "http://host/v1"}, "REFUNDRY_STRIPE__API_BASE"),
    "base with a password": ({"REFUNDRY_STRIPE__API_BASE": f"http://ada:{SECRET}@host"}, "REFUNDRY_STRIPE__API_BASE"),
    "base of another kind": ({"REFUNDRY_STRIPE__API_BASE": f"ftp://{SECRET}"}, "REFUNDRY_STRIPE__API_BASE"),
    "head-room": ({"REFUNDRY_STRIPE__HEADROOM": "1"}, "REFUNDRY_STRIPE__HEADROOM"),
    "order key": ({"REFUNDRY_STRIPE__ORDER_KEY": ""}, "REFUNDRY_STRIPE__ORDER_KEY"),
    "look_max_age": ({"REFUNDRY_PAY__LOOK_MAX_AGE": "3601"}, "REFUNDRY_PAY__LOOK_MAX_AGE"),
    "order key of blanks": ({"REFUNDRY_STRIPE__ORDER_KEY": "  "}, "REFUNDRY_STRIPE__ORDER_KEY"),
    **{
        f"{name} {value}": ({name: value}, name)
        for name in (
            "REFUNDRY_PAY__LOOK_MAX_AGE",
            "REFUNDRY_PAY__ABSENCE_WAIT",
            "REFUNDRY_PAY__ABSENCE_GAP",
            "REFUNDRY_STRIPE__HEADROOM",
            "REFUNDRY_ACCOUNTS__EU__HEADROOM",
            "REFUNDRY_FOLLOW__POLL_SECONDS",
            "REFUNDRY_ORDERS__TIMEOUT_SECONDS",
        )
        for value in ("inf", "nan", "1e999")
    },
    "no JSON": ({"REFUNDRY_STRIPE": f'{{"secret_key": "sk_live_{SECRET}"'}, "REFUNDRY_STRIPE"),
    "level": ({"REFUNDRY_LOG_LEVEL": SECRET}, "REFUNDRY_LOG_LEVEL"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_named_and_its_value_is_not_told(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    variables, name = WRONG[case]
    with pytest.raises(SettingsError) as refused:
        read(monkeypatch, **variables)
    assert (refused.value.code, refused.value.ids["setting"]) == ("setting_wrong", name)
    assert name in refused.value.message
    assert SECRET not in refused.value.message + repr(refused.value)
    assert refused.value.__suppress_context__, "a traceback would show what was set"


def test_an_order_key_has_no_blanks_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = read(
        monkeypatch,
        REFUNDRY_STRIPE__ORDER_KEY=" order no ",
        REFUNDRY_ACCOUNTS__EU__ORDER_KEY="number\n",
    )
    assert (told.stripe.order_key, told.accounts["eu"].order_key) == ("order no", "number")


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"REFUNDRY_MODE .*REFUNDRY_PAY__SLICE") as refused:
        read(monkeypatch, REFUNDRY_MODE="x", REFUNDRY_PAY__SLICE="0")
    assert refused.value.ids["setting"] == "REFUNDRY_MODE"


def test_an_override_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUNDRY_STRIPE__LIMITS", "live")
    monkeypatch.setenv("REFUNDRY_STRIPE__ORDER_KEY", "order_no")
    told = settings.read(stripe={"limits": "none"})
    assert (told.stripe.limits, told.stripe.order_key) == ("none", "order_no")


# The database


@pytest.mark.parametrize(
    ("set_to", "told"),
    [
        ("postgresql://a:b@h/d", "postgresql+psycopg://a:b@h/d"), ("postgres://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"), ("sqlite:////var/x.db", "sqlite:////var/x.db"),
    ],
)  # fmt: skip
def test_the_databases_address_names_its_driver(monkeypatch: pytest.MonkeyPatch, set_to: str, told: str) -> None:
    assert read(monkeypatch, REFUNDRY_DATABASE_URL=set_to).database == told


@pytest.mark.parametrize("url", [f"mysql://ada:{SECRET}@h/d", SECRET, "/var/refundry.db", ""])
def test_an_address_of_another_database_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    told = read(monkeypatch, REFUNDRY_DATABASE_URL=url)
    with pytest.raises(SettingsError) as refused:
        _ = told.database
    assert refused.value.code == "database_url_wrong"
    assert SECRET not in refused.value.message


def test_without_an_address_the_database_lies_in_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert read(monkeypatch, REFUNDRY_STATE_DIR=str(tmp_path)).database == f"sqlite:///{tmp_path}/refundry.db"


def test_the_state_directory_is_absolute_and_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    usual = settings.read().folder
    for empty in ("", "  "):
        assert read(monkeypatch, REFUNDRY_STATE_DIR=empty).folder == usual
    assert read(monkeypatch, REFUNDRY_STATE_DIR="~/desk").folder == tmp_path / "home" / "desk"
    assert read(monkeypatch, REFUNDRY_STATE_DIR="desk").folder == tmp_path / "desk"
    with pytest.raises(SettingsError, match="REFUNDRY_STATE_DIR should be a directory"):
        read(monkeypatch, REFUNDRY_STATE_DIR="~nobody-of-that-name/desk")


def test_the_state_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert read(monkeypatch, XDG_DATA_HOME=str(tmp_path)).folder == tmp_path / "refundry"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.read().folder == tmp_path / ".local" / "share" / "refundry"
    monkeypatch.setattr("sys.platform", "darwin")
    assert settings.read().folder == tmp_path / "Library" / "Application Support" / "refundry"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert settings.read().folder == tmp_path / "local" / "refundry"


def test_the_defaults_are_the_safe_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    told = read(monkeypatch)
    assert (told.mode, told.stripe.headroom, told.stripe.order_key) == ("test", 0.10, "order_id")
    assert (told.pay.look_max_age, told.pay.absence_wait, told.pay.absence_gap) == (600, 600, 60)
    assert told.stripe.secret_key is None
    assert told.stripe_secret_key is None


# Further accounts


def further(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    return read(
        monkeypatch, STRIPE_SECRET_KEY=TEST_KEY, **{f"REFUNDRY_{name}": value for name, value in variables.items()}
    )


def test_without_further_accounts_there_is_the_primary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (primary,) = further(monkeypatch, STRIPE__LIMITS="none", STRIPE__REVERSE_TRANSFER="true").accesses
    assert (primary.name, primary.key, primary.connected, primary.said, primary.limits) == (
        "",
        TEST_KEY,
        None,
        None,
        "none",
    )
    assert (primary.reverse_transfer, primary.refund_application_fee) == (True, None)
    assert primary.opened_by == "STRIPE_SECRET_KEY"
    assert primary.setting("limits") == "REFUNDRY_STRIPE__LIMITS"


def test_a_further_account_has_a_key_of_its_own_or_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    told = further(
        monkeypatch,
        STRIPE__LIMITS="global=50", STRIPE__ORDER_KEY="order_no", STRIPE__REVERSE_TRANSFER="true",
        ACCOUNTS__EU__SECRET_KEY="rk_test_eu", ACCOUNTS__EU__LIMITS="none", ACCOUNTS__EU__HEADROOM="0.5",
        ACCOUNTS__SHOP_7__CONNECTED="acct_7", ACCOUNTS__SHOP_7__ORDER_KEY="7", ACCOUNTS__SHOP_7__REFUND_APPLICATION_FEE="false",
    )  # fmt: skip
    primary, eu, shop = told.accesses
    assert (primary.name, eu.name, shop.name) == ("", "eu", "shop_7")
    assert (eu.key, eu.connected, eu.said, eu.limits, eu.headroom, eu.order_key) == (
        "rk_test_eu", None, None, "none", 0.5, "order_no",
    )  # fmt: skip
    assert (shop.key, shop.connected, shop.said, shop.limits, shop.order_key) == (
        TEST_KEY, "acct_7", "acct_7", "global=50", "7",
    )  # fmt: skip
    # Flags that move money are inherited by nobody.
    assert [(one.reverse_transfer, one.refund_application_fee) for one in (eu, shop)] == [(None, None), (None, False)]
    assert (eu.opened_by, shop.opened_by) == (
        "REFUNDRY_ACCOUNTS__EU__SECRET_KEY", "REFUNDRY_ACCOUNTS__SHOP_7__CONNECTED",
    )  # fmt: skip


WRONG_ACCOUNTS: dict[str, tuple[dict[str, str], str, str]] = {
    "nothing opens it": ({"ACCOUNTS__EU__LIMITS": "none"}, "account_setting_wrong", "REFUNDRY_ACCOUNTS__EU says too little"),
    "an empty key": ({"ACCOUNTS__EU__SECRET_KEY": " "}, "account_setting_wrong", "too little"),
    "both": (
        {"ACCOUNTS__EU__SECRET_KEY": "sk_test_eu", "ACCOUNTS__EU__CONNECTED": "acct_2"}, "account_setting_wrong", "too much"),
    "two ids": (
        {"ACCOUNTS__EU__CONNECTED": "acct_2", "ACCOUNTS__EU__ACCOUNT": "acct_3"}, "account_setting_wrong", "too much"),
    "no id": ({"ACCOUNTS__EU__CONNECTED": "shop"}, "setting_wrong", "REFUNDRY_ACCOUNTS__EU__CONNECTED"),
    "a publishable key": (
        {"ACCOUNTS__EU__SECRET_KEY": "pk_test_1"}, "stripe_key_wrong", "REFUNDRY_ACCOUNTS__EU__SECRET_KEY holds a publishable key"),
    "a live key": (
        {"ACCOUNTS__EU__SECRET_KEY": "sk_live_1"}, "stripe_key_of_other_mode", "REFUNDRY_ACCOUNTS__EU__SECRET_KEY is a live key"),
    "a part that is misspelled": (
        {"ACCOUNTS__EU__SECRETKEY": "sk_test_eu"}, "setting_wrong", "REFUNDRY_ACCOUNTS__EU__SECRETKEY"),
    "a name in two parts": (
        {"ACCOUNTS__MY__SHOP__CONNECTED": "acct_2"}, "setting_wrong", "REFUNDRY_ACCOUNTS__MY__SHOP"),
    "one account twice": (
        {"ACCOUNTS__A__CONNECTED": "acct_2", "ACCOUNTS__B__CONNECTED": "acct_2"}, "account_twice",
        "REFUNDRY_ACCOUNTS__A__CONNECTED and REFUNDRY_ACCOUNTS__B__CONNECTED both open acct_2"),
}  # fmt: skip


@pytest.mark.parametrize("said", ["shop", "acct_1|test", "acct_1 acct_2", ""])
def test_what_is_no_account_is_no_account_of_the_primary_key_either(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        further(monkeypatch, STRIPE__ACCOUNT=said)
    assert (refused.value.code, refused.value.ids["setting"]) == ("setting_wrong", "REFUNDRY_STRIPE__ACCOUNT")


def test_blanks_around_an_account_make_it_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account is a part of each request's id: another one would be paid once more."""
    told = further(
        monkeypatch, STRIPE__ACCOUNT="acct_1 ", ACCOUNTS__EU__SECRET_KEY="sk_test_eu", ACCOUNTS__EU__ACCOUNT=" acct_2"
    )
    assert [access.said for access in told.accesses] == ["acct_1", "acct_2"]


@pytest.mark.parametrize("case", WRONG_ACCOUNTS)
def test_what_is_wrong_with_a_further_account_is_named(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    variables, code, named = WRONG_ACCOUNTS[case]
    with pytest.raises(SettingsError) as refused:
        _ = further(monkeypatch, **variables).accesses
    assert refused.value.code == code
    assert named in refused.value.message
    assert "_eu" not in refused.value.message


def test_a_live_key_of_a_further_account_goes_to_stripe_only(monkeypatch: pytest.MonkeyPatch) -> None:
    told = read(
        monkeypatch, STRIPE_SECRET_KEY=LIVE_KEY, REFUNDRY_MODE="live", REFUNDRY_ACCOUNTS__EU__SECRET_KEY="sk_live_2",
        REFUNDRY_STRIPE__API_BASE="http://127.0.0.1:1",
    )  # fmt: skip
    with pytest.raises(SettingsError) as refused:
        _ = told.accesses
    assert refused.value.code == "live_key_to_other_base"


def test_no_key_of_a_further_account_is_ever_told(monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"sk_test_{SECRET}"
    told = further(monkeypatch, ACCOUNTS__EU__SECRET_KEY=key)
    assert SECRET not in repr(told)
    assert SECRET not in repr(told.accesses)
    assert settings.given()["REFUNDRY_ACCOUNTS__EU__SECRET_KEY"] == f"sk_test_…{SECRET[-4:]}"
    assert settings.unknown() == []
    monkeypatch.setenv("REFUNDRY_ACCOUNTS", f'{{"eu": {{"secret_key": "{key}"}}}}')
    assert SECRET not in str(settings.given())
