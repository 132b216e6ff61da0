"""Which account a person means by what they typed."""

from __future__ import annotations

import pytest

from refundry.accounts.model import AccountNeeded, NoSuchAccount
from refundry.accounts.rules import Choice, choose

pytestmark = pytest.mark.unit

SEVERAL = (Choice("acct_1Aa"), Choice("acct_1Ab", "eu"), Choice("", "us"))


def test_with_one_account_nobody_needs_to_say_which() -> None:
    assert choose(None, SEVERAL[:1]) == 0


@pytest.mark.parametrize(
    ("wanted", "at"), [("acct_1Aa", 0), ("acct_1Ab", 1), ("eu", 1), ("EU", 1), (" eu ", 1), ("us", 2)]
)
def test_an_account_is_meant_by_its_id_or_its_name_in_the_settings(wanted: str, at: int) -> None:
    assert choose(wanted, SEVERAL) == at


def test_the_beginning_of_one_account_is_enough() -> None:
    assert choose("acct_1", SEVERAL[1:]) == 0
    # One whose id is the beginning of another's can still be named.
    assert choose("acct_1", (Choice("acct_12"), Choice("acct_1"))) == 1


def test_an_account_is_meant_also_as_json_writes_it_and_never_in_the_other_mode() -> None:
    several = tuple(Choice(choice.id, choice.name, "test") for choice in SEVERAL)
    assert choose("acct_1Ab|test", several) == 1
    for wrong in ("acct_1Ab|live", "acct_1Ab|", "|test", "acct_1A|test"):
        with pytest.raises(NoSuchAccount):
            choose(wrong, several)


def test_with_several_the_choices_are_named() -> None:
    with pytest.raises(AccountNeeded) as needed:
        choose(None, SEVERAL)
    assert needed.value.code == "account_needed"
    assert needed.value.message == "there are 3 accounts, say which with --account: acct_1Aa, acct_1Ab (eu), us"


@pytest.mark.parametrize(
    ("wanted", "code"), [("acct_1A", "account_ambiguous"), ("acct_9", "account_not_here"), ("", "account_not_here")]
)
def test_what_means_none_or_more_than_one_is_refused(wanted: str, code: str) -> None:
    with pytest.raises(NoSuchAccount) as refused:
        choose(wanted, SEVERAL)
    assert refused.value.code == code
    assert "acct_1Ab (eu)" in refused.value.message


def test_the_only_account_is_not_taken_for_another_one() -> None:
    with pytest.raises(NoSuchAccount):
        choose("acct_9", SEVERAL[:1])
