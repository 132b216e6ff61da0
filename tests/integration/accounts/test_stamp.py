"""A database belongs to one account in one mode."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from refundry.accounts import repository
from refundry.accounts import service as accounts
from refundry.accounts.model import Account, OtherAccount
from refundry.audit import service as audit
from refundry.infra.db import Database, Unit

pytestmark = pytest.mark.integration

OURS = Account("acct_1", "test")


def stamp(database: Database, account: Account) -> None:
    with database.unit() as unit:
        accounts.stamp(unit, account)


def test_the_first_use_stamps_and_the_next_ones_change_nothing(database: Database) -> None:
    for _ in range(3):
        stamp(database, OURS)
    with database.reading() as unit:
        assert accounts.known(unit) == [OURS]
        assert [entry.event for entry in audit.timeline(unit, "acct_1|test")] == ["account.added"]


@pytest.mark.parametrize("theirs", [Account("acct_2", "test"), Account("acct_1", "live")])
def test_another_account_or_mode_is_refused(database: Database, theirs: Account) -> None:
    stamp(database, OURS)
    with pytest.raises(OtherAccount) as refused:
        stamp(database, theirs)
    assert refused.value.code == "database_of_other_account"
    assert "acct_1 (test)" in refused.value.message
    assert f"{theirs.id} ({theirs.mode})" in refused.value.message
    assert "REFUNDRY_STATE_DIR" in refused.value.message
    with database.reading() as unit:
        assert accounts.known(unit) == [OURS]


@pytest.mark.parametrize("second", [OURS, Account("acct_2", "test")])
def test_of_two_that_are_first_at_once_only_one_stamps(
    monkeypatch: pytest.MonkeyPatch, database: Database, second: Account
) -> None:
    meeting, every = threading.Barrier(2), repository.every

    def read(unit: Unit) -> list[Account]:
        found = every(unit)
        # Both have seen an empty table, if nothing keeps them apart.
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)
        return found

    monkeypatch.setattr(repository, "every", read)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(stamp, database, account) for account in (OURS, second)]
        errors = [result.exception() for result in results]
    with database.reading() as unit:
        assert len(accounts.known(unit)) == 1
    assert [type(error) for error in errors if error] == ([] if second == OURS else [OtherAccount])


def test_an_account_is_held_with_one_message_and_freed(database: Database) -> None:
    stamp(database, OURS)
    for held in (True, False, False):
        with database.unit() as unit:
            assert accounts.hold(unit, OURS.name, "the key was refused") is held
    with database.reading() as unit:
        assert accounts.held_text(unit, OURS.name) == "the key was refused"
        assert accounts.held_text(unit, "acct_9|test") == ""
    for _ in range(2):
        with database.unit() as unit:
            accounts.free(unit, OURS.name)
    with database.reading() as unit:
        assert accounts.held_text(unit, OURS.name) == ""
        told = [entry.event for entry in audit.timeline(unit, OURS.name)]
    assert told == ["account.added", "account.held", "account.freed"]


def test_calls_that_were_refused_for_reasons_of_their_own_hold_an_account_once(database: Database) -> None:
    stamp(database, OURS)
    for charge, held in (("ch_1", True), ("ch_2", False), ("ch_1", False)):
        with database.unit() as unit:
            assert accounts.hold(unit, OURS.name, f"the key has no right to read {charge}") is held
    with database.reading() as unit:
        assert accounts.held_text(unit, OURS.name) == "the key has no right to read ch_1"
        assert [entry.event for entry in audit.timeline(unit, OURS.name)] == ["account.added", "account.held"]
