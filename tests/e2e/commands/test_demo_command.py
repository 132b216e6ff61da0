"""The demo pays a real shop's credit notes, proves it by Stripe's books, and leaves no process behind."""

import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Installation, ended, wait_for
from tests.support.page_receiver import SECRET, answers, asked, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Read what the demo says, up to the line with a text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the demo ended with {process.wait()} before it said {text!r}")


def port_in(line: str) -> int:
    found = ADDRESS.search(line)
    assert found is not None, line
    return int(found[1])


def test_the_whole_sample_is_paid_once_and_the_books_agree_to_the_penny(tmp_path: Path) -> None:
    # Settings that lead elsewhere must not be followed: the demo has a key and a database of its own.
    real = {"STRIPE_SECRET_KEY": "sk_live_real", "REFUNDRY_MODE": "live"}
    real |= {"REFUNDRY_ORDERS__SQL_URL": f"sqlite:///{tmp_path}/shop.db", "REFUNDRY_ORDERS__SQL_STATEMENT": "SELECT 1"}
    installed = Installation(tmp_path / "state", None, real)
    done = installed.run("demo", "--once", "--json")
    told = done.json
    assert done.code == 0, done.out + done.err
    assert (told["rows"], told["paid"], told["waiting"]) == (1719, 1719, 0)
    assert told["amounts"] == {"gbp": {"requested": 17_233_609, "paid": 17_233_609}}
    assert told["simulator"] is True
    assert told["books"]["agree"] is True
    assert (told["books"]["refunds"], told["books"]["amounts"]) == (1719, {"gbp": 17_233_609})
    assert (told["followed"]["settled"], told["followed"]["pending"], told["followed"]["waiting"]) == (1719, 0, 0)
    assert told["followed"]["events"] >= 1719
    orders = told["orders"]
    assert (orders["full"], orders["partial"], orders["waiting"]) == (72, 1433, 0)
    assert orders["amounts"] == {"gbp": 17_233_609}
    second = told["second_file"]
    assert (second["rows"], second["refused"], second["paid"]) == (1331, 1331, 0)
    assert sum(second["reasons"].values()) == 1331
    assert not (tmp_path / "state").exists()
    # The order system that is set for real was not told.
    assert not (tmp_path / "shop.db").exists()
    assert not answers(port_in(done.err))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    """Run the order system of the docs; tells its address."""
    with receiver(tmp_path) as address:
        yield address


def test_a_demo_that_stays_answers_ends_politely_and_goes_on_the_next_time(tmp_path: Path, shop: str) -> None:
    orders = {"REFUNDRY_ORDERS__URL": shop, "REFUNDRY_ORDERS__SECRETS": SECRET}
    # What is done by hand below is not found by the turns of polling of the first, however long it stays.
    orders["REFUNDRY_FOLLOW__POLL_SECONDS"] = "86400"
    installed = Installation(tmp_path / "state", None, orders)
    first = installed.start("demo", "--rows", "20", "--port", "0")
    simulator = port_in(line_with(first, "refund_requests.csv"))
    charge = line_with(first, "--charge ").split("--charge ")[1].split()[0]
    health = port_in(line_with(first, "/health"))
    with urllib.request.urlopen(f"http://127.0.0.1:{health}/health") as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{health}/metrics") as answer:
        assert "refundry_send_outcomes_total{" in answer.read().decode()
    # What somebody refunds by hand just before the end is followed the next time.
    by_hand = json.dumps({"charge": charge, "amount": 50}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{simulator}/_sim/refunds", by_hand) as answer:
        assert answer.status == 200
    first.send_signal(signal.SIGTERM)
    done = ended(first)
    assert done.code == 130, done.err
    assert "20 rows: 20 paid" in done.out
    assert "Followed: 20 refunds settled" in done.out
    # The receiver of the docs has heard of the same sum as Stripe's books have.
    ((told,),) = asked(tmp_path, "SELECT SUM(refunded_minor) FROM orders")
    books = re.search(r"^Books: 20 refunds on \d+ charges, ([\d,.]+) GBP", done.out, re.MULTILINE)
    assert books is not None, done.out
    assert str(told) == re.sub(r"[,.]", "", books[1])
    assert f"in part, {books[1]} GBP, in {tmp_path}" in done.out
    assert "agree with ours to the penny" in done.out
    assert not answers(simulator)

    again = installed.start("demo", "--rows", "20", "--port", "0")
    simulator = port_in(line_with(again, "refund_requests.csv"))
    line_with(again, "/health")
    again.kill()
    out, _ = again.communicate()
    assert "20 rows: 20 paid" in out
    # Nothing was paid twice: the books of the simulator, which it kept, have no more than the first time, and the one by hand.
    assert "Books: 21 refunds" in out
    assert "agree with ours to the penny" in out
    # Killed without a word, it takes the simulator along all the same.
    wait_for("the end of the simulator", lambda: not answers(simulator))
