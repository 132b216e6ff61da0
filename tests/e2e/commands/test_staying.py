"""Processes that stay: they say where they are, answer, end politely, and one goes on where another was killed."""

import json
import queue
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.command import Installation, Shop, ended, wait_for
from tests.support.database import PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LINE_SECONDS = 120
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+(?=/health)")


class Staying:
    """A process that stays, and what it says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)

    def line(self, text: str) -> str:
        """Wait for the line with a text."""
        while True:
            try:
                self.said.append(self._lines.get(timeout=LINE_SECONDS))
            except queue.Empty:
                raise AssertionError(f"{text!r} was not said: {self.said}") from None
            if text in self.said[-1]:
                return self.said[-1]

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let it stand still, and go on in the end; a lock that it has then is taken from it after ten seconds."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def rest(self) -> list[str]:
        """Tell all that it has said once it has ended."""
        while not self._lines.empty():
            self.said.append(self._lines.get())
        return self.said

    def end(self, how: signal.Signals) -> int:
        """End it; tells its exit code."""
        self.process.send_signal(how)
        code = self.process.wait(LINE_SECONDS)
        self._reader.join(LINE_SECONDS)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


@pytest.fixture
def stay(installed: Installation) -> Iterator[Any]:
    """Start processes that stay, and leave none behind."""
    started: list[Staying] = []

    def start(*arguments: str, before: Callable[[], Any] | None = None) -> Staying:
        started.append(Staying(installed.start(*arguments, before=before)))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def asked(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address + path, timeout=LINE_SECONDS) as answer:  # noqa: S310  # loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def health(address: str) -> Any:
    return json.loads(asked(address, "/health")[1])


def address_in(line: str) -> str:
    found = ADDRESS.search(line)
    assert found is not None, line
    return found[0]


def test_one_serves_another_watches_and_takes_over_when_the_first_is_killed(
    shop: Shop, installed: Installation, stay: Any, tmp_path: Path
) -> None:
    installed.more |= {"REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=10", "REFUNDRY_STRIPE__HEADROOM": "0"}
    # An order system that is down is told of, and makes nobody unwell.
    installed.more |= {
        "REFUNDRY_ORDERS__URL": "http://127.0.0.1:9/", "REFUNDRY_ORDERS__TRIES_MAX": "1",
        "REFUNDRY_ORDERS__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }  # fmt: skip
    first = stay("serve", "--port", "0")
    at = address_in(first.line("/health"))
    first.line("working")
    told = health(at)
    assert (told["ok"], told["executing"], told["mode"], told["breaks"]) == (True, True, "test", 0)
    assert told["tasks"] == {"open": 0, "overdue": 0, "oldest_seconds": None}
    assert told["disputes"] == {"open": 0, "due_soon": 0}
    assert told["messages"] == {"waiting": 0, "parked": 0, "oldest_seconds": None}
    assert (told["events"]["waiting"], told["events"]["parked"]) == (0, 0)
    second, third = stay("serve", "--port", "0"), stay("worker")
    other = address_in(second.line("/health"))
    for one in (second, third):
        one.line("another process works on this database; this one watches, and takes over when it ends")
    assert (health(other)["ok"], health(other)["executing"]) == (True, False)
    assert asked(other, "/nothing")[0] == 404

    # A polite end of one that watches disturbs nobody.
    assert third.end(signal.SIGINT) == 130
    # Most of it is left when the first is killed.
    with shop.server.turning_away(after=10):
        run = installed.start("batch", "run", str(shop.file(tmp_path / "refunds.csv")), "--yes", "--json")
        wait_for("refund 3", lambda: shop.refunds() >= 3)
        first.end(signal.SIGKILL)
        seen = shop.refunds()
    # The other server or the run itself, whoever is first, goes on.
    wait_for("more refunds", lambda: shop.refunds() > seen + 5)
    done = ended(run)
    assert (done.code, done.json["paid"]) == (0, 60), done.err
    assert second.process.poll() is None
    wait_for("a message that is parked", lambda: health(other)["messages"]["parked"] > 0)
    told = health(other)
    assert told["ok"] is True
    assert told["messages"]["waiting"] > 0
    metrics = asked(other, "/metrics")[1]
    assert 'refundry_outbox_messages{state="parked",target="http"}' in metrics
    assert 'refundry_oldest_message_age_seconds{target="http"}' in metrics
    assert f'refundry_account_held{{account="{shop.server.account}",mode="test"}} 0.0' in metrics
    assert second.end(signal.SIGTERM) == 130
    shop.judge()


def test_what_was_started_by_nohup_outlives_its_terminal(
    shop: Shop, installed: Installation, stay: Any, tmp_path: Path
) -> None:
    worker = stay("worker", before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    worker.line("working")
    worker.process.send_signal(signal.SIGHUP)
    run = installed.run("batch", "run", str(shop.file(tmp_path / "refunds.csv")), "--yes", "--no-wait", "--json")
    assert run.code == 3, run.err
    wait_for("every refund", lambda: shop.refunds() == 60 or worker.process.poll() is not None)
    assert worker.end(signal.SIGTERM) == 130
    assert sum("stopping" in line for line in worker.rest()) == 1
    assert shop.refunds() == 60


def test_a_batch_that_is_being_paid_can_be_tried_again_and_taken_back(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    installed.more |= {"REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=2", "REFUNDRY_STRIPE__HEADROOM": "0"}
    # A run ends once those that wait for their slot have had it: few, or it takes a while.
    installed.more["REFUNDRY_PAY__FLIGHT_MAX"] = "5"
    # It is still being paid when both commands have started, however long that takes.
    with shop.server.turning_away(after=5):
        run = installed.start("batch", "run", str(shop.file(tmp_path / "refunds.csv")), "--yes", "--json")
        wait_for("refund 3", lambda: shop.refunds() >= 3)
        (batch,) = installed.ask("batch", "list", "--json").json["batches"]
        retried = installed.run("batch", "retry", batch["batch_id"], "--no-wait", "--json")
        assert retried.code == 3, retried.err
        assert "to be decided anew: 0 rows" in retried.err
        withdrawn = installed.run("batch", "withdraw", batch["batch_id"], "--json")
        assert withdrawn.code == 0, withdrawn.err
    done = ended(run)
    assert (done.code, done.json["state"]) == (3, "withdrawn"), done.err
    assert 3 <= done.json["paid"] < 60
    assert done.json["reasons"] == {"withdrawn": 60 - done.json["paid"]}
    assert shop.refunds() == done.json["paid"]


@pytest.mark.parametrize("kind", ["error_before", "drop_before", "rate_limit"])
def test_a_process_that_stays_begins_once_stripe_can_be_reached(
    shop: Shop, installed: Installation, stay: Any, tmp_path: Path, kind: str
) -> None:
    waits = installed.run("batch", "run", str(shop.file(tmp_path / "refunds.csv", order=[0, 1])), "--yes", "--no-wait")
    assert (waits.code, shop.refunds()) == (3, 0), waits.err
    shop.server.control("POST /_sim/faults", {"rules": [{"kind": kind, "operation": "GET /v1/account"}]})
    one = stay("serve", "--port", "0")
    one.line("until Stripe answers")
    if kind == "drop_before":
        other = stay("worker")
        other.line("until Stripe answers")
        assert other.end(signal.SIGTERM) == 130
    shop.server.control("DELETE /_sim/faults")
    at = address_in(one.line("/health"))
    assert health(at)["ok"] is True
    wait_for("2 refunds", lambda: shop.refunds() == 2)
    assert one.end(signal.SIGTERM) == 130


def test_a_process_that_stays_begins_once_its_postgres_can_be_reached(
    installed: Installation, stay: Any, postgres: PostgresServer
) -> None:
    with postgres.made() as address:
        installed.more["REFUNDRY_DATABASE_URL"] = address
        with postgres.down(address):
            one, other = stay("serve", "--port", "0"), stay("worker")
            for waiting in (one, other):
                assert "[database_unreachable]" in waiting.line("until it answers")
            assert other.end(signal.SIGTERM) == 130
        at = address_in(one.line("/health"))
        assert health(at)["ok"] is True
        # What does not pass by waiting ends it.
        nobody = sa.make_url(address).set(database="of_nobody")
        installed.more["REFUNDRY_DATABASE_URL"] = nobody.render_as_string(hide_password=False)
        assert installed.run("serve", "--port", "0").code == 1
        assert one.end(signal.SIGTERM) == 130


def test_a_key_that_one_process_still_has_holds_the_account_for_all_until_that_one_has_ended(
    shop: Shop, postgres: PostgresServer, installed: Installation, stay: Any, tmp_path: Path
) -> None:
    for key in ("sk_test_old", "sk_test_new"):
        shop.server.control("POST /_sim/keys", {"secret": key})
    with postgres.made() as address:
        installed.more |= {"REFUNDRY_DATABASE_URL": address, "STRIPE_SECRET_KEY": "sk_test_old"}
        installed.more |= {"REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=3", "REFUNDRY_STRIPE__HEADROOM": "0"}
        old = stay("worker")
        old.line("working")
        shop.server.control("POST /_sim/keys/sk_test_old/expire", {})
        installed.more["STRIPE_SECRET_KEY"] = "sk_test_new"
        new = stay("worker")
        new.line("working")
        file = str(shop.file(tmp_path / "refunds.csv"))
        # The new one stands still until the old one has taken up the file: it could be faster, each time.
        with new.still():
            assert installed.run("batch", "run", file, "--yes", "--no-wait").code == 3
            old.line("[key_refused]")
        assert "works in every process on this database" in new.line("[key_refused]")
        assert shop.refunds() == 0
        assert old.end(signal.SIGTERM) == 130

        # Whoever starts next ends the hold for all.
        installed.more["REFUNDRY_STRIPE__LIMITS"] = "none"
        done = installed.run("batch", "run", file, "--yes", "--json")
        assert (done.code, done.json["paid"]) == (0, 60), done.err
        assert new.end(signal.SIGTERM) == 130
    shop.judge()


def test_a_command_beside_a_worker_whose_key_is_refused_ends_and_says_what_to_start_again(
    shop: Shop, installed: Installation, stay: Any, tmp_path: Path
) -> None:
    installed.more |= {"REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=3", "REFUNDRY_STRIPE__HEADROOM": "0"}
    for key in ("sk_test_old", "sk_test_new"):
        shop.server.control("POST /_sim/keys", {"secret": key})
    installed.more["STRIPE_SECRET_KEY"] = "sk_test_old"
    worker = stay("worker")
    worker.line("working")
    file = str(shop.file(tmp_path / "refunds.csv"))
    installed.more["STRIPE_SECRET_KEY"] = "sk_test_new"
    with shop.server.turning_away(after=10):
        watching = installed.start("batch", "run", file, "--yes", "--json")
        wait_for("refund 3", lambda: shop.refunds() >= 3)
        shop.server.control("POST /_sim/keys/sk_test_old/expire", {})
        told = ended(watching)
    assert told.code == 3, told.err
    assert "works in the process that pays here: start that one again" in told.err
    desk = installed.run(
        "refund", "create", "--order", "o59", "--amount", "1.00", "--ticket", "D-1", "--reason", "duplicate"
    )
    assert (desk.code, "start that one again" in desk.err) == (3, True), desk.err
    assert worker.end(signal.SIGTERM) == 130

    installed.more["REFUNDRY_STRIPE__LIMITS"] = "none"
    done = installed.run("batch", "run", file, "--yes", "--json")
    assert (done.code, done.json["paid"]) == (0, 60), done.err


def test_an_account_whose_key_did_not_open_it_is_held_for_who_watches_too(
    shop: Shop, installed: Installation, stay: Any
) -> None:
    shop.server.control("POST /_sim/keys", {"secret": "sk_test_old"})
    shop.server.control("POST /_sim/keys/sk_test_old/expire", {})
    eu = {"SECRET_KEY": "sk_test_old", "ACCOUNT": "acct_1old", "LIMITS": "POST /v1/refunds=10"}
    installed.more |= {f"REFUNDRY_ACCOUNTS__EU__{part}": value for part, value in eu.items()}
    one = stay("serve", "--port", "0")
    at = address_in(one.line("/health"))
    one.line("working")
    told = health(at)
    assert told["ok"] is True
    assert list(told["closed"]) == ["REFUNDRY_ACCOUNTS__EU__SECRET_KEY"]
    metrics = asked(at, "/metrics")[1].splitlines()
    assert f'refundry_account_held{{account="{shop.server.account}",mode="test"}} 0.0' in metrics
    assert 'refundry_account_held{account="acct_1old",mode="test"} 1.0' in metrics
    assert 'refundry_pace_refunds_per_second{account="acct_1old",mode="test"} 9.0' in metrics
    assert 'refundry_open_tasks{account="acct_1old",kind="paid_twice",mode="test"} 0.0' in metrics
    assert one.end(signal.SIGTERM) == 130


def test_what_the_pace_allows_is_told_as_it_is_after_a_429(
    shop: Shop, installed: Installation, stay: Any, tmp_path: Path
) -> None:
    turned_away = {"kind": "rate_limit", "operation": "POST /v1/refunds", "reason": "endpoint-rate", "at": [60]}
    shop.server.control("POST /_sim/faults", {"rules": [turned_away]})
    installed.more["REFUNDRY_STRIPE__LIMITS"] = "sandbox"
    one = stay("serve", "--port", "0")
    at = address_in(one.line("/health"))
    one.line("working")

    def pace() -> float:
        found = re.search(r"^refundry_pace_refunds_per_second{.*} (.+)$", asked(at, "/metrics")[1], re.MULTILINE)
        assert found is not None
        return float(found[1])

    assert pace() == 22.5
    # The last send is turned away: after its second try nobody sends, and the pace stays as it is.
    run = ended(installed.start("batch", "run", str(shop.file(tmp_path / "refunds.csv")), "--yes", "--json"))
    assert (run.code, run.json["paid"]) == (0, 60), run.err
    assert 0 < pace() < 22.5
    assert one.end(signal.SIGTERM) == 130


def test_a_server_whose_database_is_away_says_so_to_who_measures_and_floods_no_log(
    installed: Installation, stay: Any, postgres: PostgresServer
) -> None:
    with postgres.made() as address:
        installed.more["REFUNDRY_DATABASE_URL"] = address
        one = stay("serve", "--port", "0")
        at = address_in(one.line("/health"))
        one.line("working")
        with postgres.down(address):
            code, text = asked(at, "/metrics")
            assert (code, "[database_unreachable]" in text) == (503, True), text
            assert asked(at, "/health")[0] == 503
        wait_for("numbers again", lambda: asked(at, "/metrics")[0] == 200)
        assert one.end(signal.SIGTERM) == 130
    assert "Traceback" not in "".join(one.rest())
