"""The command `python -m stripesim`: its flags, and the simulator alone as a server on loopback."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from contextlib import ExitStack
from pathlib import Path

from stripesim.app import Simulator
from stripesim.clock import LATEST, Clock
from stripesim.limits import Limits, parsed
from stripesim.scenarios import BadScenario, load
from stripesim.store import StateMismatch

USAGE = 2
PORT_MAX = 65_535


def build_parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m stripesim",
        description="A Stripe that remembers, refuses, limits, fails and calls back, for tests and trials. "
        "Keys: sk_test_sim and sk_live_sim. Steer it under /_sim.",
        epilog="example: python -m stripesim --port 12111 --seed 1 --limits sandbox --load online-retail",
    )
    parser.add_argument("--port", type=int, default=12111, help="port to listen on; 0 takes a free one (default 12111)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than loopback need --anywhere"
    )
    parser.add_argument("--seed", type=int, default=1, help="what ids and every chance are derived from (default 1)")
    parser.add_argument(
        "--limits", default="none", help="live, sandbox, none, or numbers: global=100,endpoint=25 (default none)"
    )
    parser.add_argument(
        "--load", metavar="FILE", help="charges to begin with: a CSV file, or the scenario online-retail"
    )
    parser.add_argument(
        "--state", metavar="FILE", default="", help="keep the state in this file, and go on with it after a restart"
    )
    parser.add_argument(
        "--start", type=float, metavar="EPOCH", help="freeze the clock at this time, in epoch seconds UTC"
    )
    parser.add_argument(
        "--anywhere",
        action="store_true",
        help="listen, and send webhooks, beyond this machine (default: loopback only)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the server; tells the exit code: 0 when stopped, 1 when it cannot start, 2 for wrong usage."""
    options = build_parser().parse_args(argv)
    if not 0 <= options.port <= PORT_MAX:
        return _refuse(f"--port {options.port} should be a number from 0 to {PORT_MAX}", USAGE)
    if options.start is not None and not 0 <= options.start <= LATEST:
        return _refuse(f"--start {options.start} should be epoch seconds from 0 to {LATEST}", USAGE)
    if not options.anywhere and not _loopback(options.host):
        return _refuse(f"--host {options.host} is not loopback: add --anywhere if others may reach it", USAGE)
    try:
        limits = parsed(options.limits)
    except ValueError as error:
        return _refuse(str(error), USAGE)
    with ExitStack() as opened:
        return _run(options, limits, opened)


def _run(options: argparse.Namespace, limits: Limits, opened: ExitStack) -> int:
    """Open what is needed, and serve; whatever was opened is closed at the end, also where it cannot start."""
    from stripesim.server import bound, serve  # not needed to refuse wrong usage

    try:
        sock = opened.enter_context(bound(options.host, options.port))
        clock = Clock(options.start)
        simulator = Simulator(seed=options.seed, state=options.state, clock=clock, limits=limits)
        opened.callback(simulator.store.close)
        facts = {
            "account": simulator.world.platform,
            "seed": simulator.world.seed,
            "keys": ["sk_test_sim", "sk_live_sim"],
        }
        if options.load:
            facts["charges"] = _load(simulator, options.load)
    except BadScenario as error:
        return _refuse(f"--load {options.load}: {error}", USAGE)
    except (OSError, StateMismatch) as error:
        return _refuse(f"cannot start on {options.host}:{options.port}: {error}", 1)
    serve(simulator, sock, anywhere=options.anywhere, facts=facts)
    return 0


def _loopback(host: str) -> bool:
    """Tell whether a host is this machine alone; a name other than localhost may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load(simulator: Simulator, source: str) -> int:
    """Load once: a state file that has the charges already is left as it is."""
    world = simulator.world
    if source in (world.store.meta("loaded") or []):
        return 0
    with world.store.transaction():
        scope = world.scopes[world.platform, False]
        count = load(world, scope, source if source == "online-retail" else Path(source))
        world.store.keep("loaded", [*(world.store.meta("loaded") or []), source])
    return count


def _refuse(text: str, code: int) -> int:
    sys.stderr.write(f"stripesim: {text}\n")
    return code
