"""`python -m stripesim`: its flags, and what it says when it cannot start."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from stripesim.command import build_parser, main
from stripesim.store import VERSION
from tests.integration.stripesim.process import simulator
from tests.support.sim import START

pytestmark = pytest.mark.integration


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """Run it with flags that stop it at once; tells the exit code and the sentence."""
    try:
        code = main(["--port", "0", *flags])
    except SystemExit as end:
        code = int(end.code or 0)
    out, said = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in said
    return code, said


WRONG = [
    (("--limits", "fast"), "limits: 'fast'"),
    (("--limits", "global=nan"), "number from 0"),
    (("--host", "0.0.0.0"), "add --anywhere"),  # noqa: S104  # that it is refused is the point
    (("--host", "127.0.0.1.example.com"), "add --anywhere"),
    (("--host", "localhost.example.com"), "add --anywhere"),
    (("--host", "example.com"), "add --anywhere"),
    (("--host", "::"), "add --anywhere"),
    (("--port", "65536"), "--port 65536 should be"),
    (("--port", "-1"), "--port -1 should be"),
    (("--port", "http"), "invalid int value"),
    (("--seed", "x"), "invalid int value"),
    (("--start", "nan"), "--start nan should be"),
    (("--start", "-5"), "--start -5.0 should be"),
    (("--start", "1e20"), "--start 1e+20 should be"),
    (("--start", "tomorrow"), "invalid float value"),
    (("--load", "nowhere.csv"), "--load nowhere.csv: cannot be read"),
    (("--speed", "9"), "unrecognized arguments"),
]


@pytest.mark.parametrize(("flags", "sentence"), WRONG)
def test_wrong_usage_ends_with_2_and_a_sentence(
    flags: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, *flags)
    assert code == 2
    assert sentence in said


def test_help_tells_every_flag_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    for flag in ("--port", "--host", "--seed", "--limits", "--load", "--state", "--start", "--anywhere", "example:"):
        assert flag in told


def test_a_wrong_charges_file_is_refused_by_line_and_column(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, state = tmp_path / "c.csv", tmp_path / "state"
    path.write_text("amount_minor,currency\n5,usd\nmany,usd\n")
    code, said = refused(capsys, "--load", str(path), "--state", str(state))
    assert code == 2
    assert "line 3: column amount_minor" in said
    path.write_text("amount_minor,currency\n5,usd\n7,usd\n")
    db = sqlite3.connect(state)
    assert db.execute("SELECT count(*) FROM charge").fetchone() == (0,)
    db.close()


def test_a_port_that_is_taken_ends_with_1_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused(capsys, "--port", str(port))
    assert code == 1
    assert f"cannot start on 127.0.0.1:{port}" in said


@pytest.mark.parametrize("what", ["text", "version", "foreign", "folder", "nowhere"])
def test_a_state_file_of_something_else_ends_with_1_and_is_left_alone(
    what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "state"
    match what:
        case "text":
            path.write_text("a letter, " * 1000)
        case "folder":
            path.mkdir()
        case "nowhere":
            path = tmp_path / "none" / "state"
        case _:
            db = sqlite3.connect(path)
            db.execute("CREATE TABLE recipe (name TEXT)")
            db.execute("INSERT INTO recipe VALUES ('soup')")
            db.execute(f"PRAGMA user_version={VERSION + 1 if what == 'version' else 0}")
            db.commit()
            db.close()
    before = path.read_bytes() if path.is_file() else None
    code, said = refused(capsys, "--state", str(path))
    assert code == 1
    assert str(path) in said
    assert (path.read_bytes() if path.is_file() else None) == before
    if what == "version":
        assert f"version {VERSION + 1}, this simulator reads {VERSION}" in said


def test_the_first_line_tells_where_it_listens_and_what_it_holds(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for loaded in (9659, 0):
        command = [sys.executable, "-m", "stripesim", "--port", "0", "--seed", "42", "--start", str(START)]
        with subprocess.Popen(  # noqa: S603  # our own program
            [*command, "--state", str(state), "--load", "online-retail", "--limits", "sandbox"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            first = json.loads(running.stdout.readline())
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", first["address"])
            assert first["seed"] == 42
            assert first["keys"] == ["sk_test_sim", "sk_live_sim"]
            assert first["charges"] == loaded, "a state file that has them already is left as it is"
            with urllib.request.urlopen(first["address"] + "/_sim/limits") as told:  # noqa: S310  # loopback
                assert json.load(told)["total"] == 25
            with urllib.request.urlopen(first["address"] + "/_sim/health") as told:  # noqa: S310  # loopback
                health = json.load(told)
            assert (health["now"], health["seed"]) == (START, 42)
            running.send_signal(signal.SIGINT if loaded else signal.SIGTERM)
            assert running.wait(20) == 0
            assert running.stderr.read() == ""


def test_it_listens_on_loopback_alone_unless_told() -> None:
    with simulator() as running:
        assert running.url.startswith("http://127.0.0.1:")
        assert listeners(running.running.pid, running.port) == {"127.0.0.1"}
    with simulator("--anywhere", "--host", "0.0.0.0") as running:  # noqa: S104  # told
        assert listeners(running.running.pid, running.port) == {"0.0.0.0"}  # noqa: S104  # told


def test_a_start_does_not_load_what_only_webhooks_need() -> None:
    code = "import sys, stripesim.command, stripesim.server; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603  # our own program


def listeners(pid: int, port: int) -> set[str]:
    """Tell the addresses on which a process listens at a port."""
    connections = psutil.Process(pid).net_connections("inet")
    return {at.laddr.ip for at in connections if at.status == psutil.CONN_LISTEN and at.laddr.port == port}
