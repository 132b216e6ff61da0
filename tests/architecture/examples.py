"""Reads the examples of a page, and runs them: the shell's commands become calls of a simulator without a socket.

An example is a block of `console`: lines that begin with `$` are commands, what follows is the answer, cut down. An answer holds if
all that it shows is in the real one. Ids may differ; one id of the page must be one id of the run.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from stripesim.api import Answer, Request
from tests.architecture.house import FENCE

ADDRESS = "localhost:12111"
ID = re.compile(r"\b(?:acct|ch|pi|re|pyr|py|du|issfr|prv|we|evt|txn|whsec)_[A-Za-z0-9]{12,}\b")
LOST = "curl: (52)"


@dataclass(frozen=True)
class Example:
    """A command and what the page says that it answers."""

    command: str
    shown: str


@dataclass(frozen=True)
class Shown:
    """A command as a call."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def request(self) -> Request:
        """Make it a request."""
        return Request(self.method, self.path, self.query, self.headers, self.body)


def examples(text: str) -> Iterator[Example]:
    """Find a page's examples, in order."""
    for kind, block in FENCE.findall(text):
        if kind != "console":
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            # A command goes on where its line ends in a backslash.
            command = re.match(r"(?:.*\\\n)*.*", part)
            assert command is not None
            yield Example(command[0].replace("\\\n", " ").strip(), part[command.end() :].strip())


def calls(text: str) -> list[Shown]:
    """Read a page's examples as calls."""
    return [read(example.command) for example in examples(text)]


def read(command: str) -> Shown:
    """Read `curl …`, or `printf '…' | curl …`.

    Raises:
        ValueError: The command has a part that is not known here.
    """
    words = shlex.split(command)
    piped = b""
    if words[0] == "printf":
        piped = words[1].replace("\\n", "\n").encode()
        words = words[words.index("|") + 1 :]
    if words[0] != "curl":
        raise ValueError(f"not a call: {command}")
    given = _options(words[1:])
    address, _, query = given["address"].partition("?")
    host, slash, path = address.partition("/")
    if host != ADDRESS:
        raise ValueError(f"calls {host} instead of {ADDRESS}: {command}")
    body = piped if given["data"] == ["@-"] else "&".join(given["data"]).encode()
    if given["get"]:
        query, body = body.decode(), b""
    method = given["method"] or ("POST" if body else "GET")
    return Shown(method, slash + path, query, given["headers"], body)


def _options(words: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"data": [], "headers": {}, "method": "", "get": False, "address": ""}
    rest = iter(words)
    for word in rest:
        match word:
            case "-s" | "-sS" | "-S":
                pass
            case "-G":
                out["get"] = True
            case "-X":
                out["method"] = next(rest)
            case "-d" | "--data-binary":
                out["data"].append(next(rest))
            case "--data-urlencode":
                name, _, value = next(rest).partition("=")
                out["data"].append(f"{name}={quote_plus(value)}")
            case "-u":
                out["headers"]["authorization"] = "Basic " + base64.b64encode(next(rest).encode()).decode()
            case "-H":
                name, _, value = next(rest).partition(": ")
                out["headers"][name.lower()] = value
            case _ if word.startswith("-") or out["address"]:
                raise ValueError(f"{word} is not known here")
            case _:
                out["address"] = word
    return out


class Reader:
    """Goes through a page, and learns which id of the run stands for which of the page."""

    def __init__(self) -> None:
        """Begin with no ids known."""
        self.ids: dict[str, str] = {}

    def translated(self, text: str) -> str:
        """Put the run's ids in the place of the page's."""
        return ID.sub(lambda match: self.ids.get(match[0], match[0]), text)

    def hold(self, example: Example, answer: Answer, *, lost: bool) -> None:
        """Hold an answer against what the page shows.

        Raises:
            AssertionError: The command, and where the two differ.
        """
        if example.shown.startswith(LOST):
            assert lost, f"{example.command}: an answer came: {answer.body!r}"
            return
        assert not lost, f"{example.command}: no answer came"
        self._same(json.loads(example.shown), json.loads(answer.body), example.command)

    def _same(self, shown: Any, real: Any, place: str) -> None:
        if isinstance(shown, dict):
            assert isinstance(real, dict), f"{place}: {real!r} is no object"
            for name, value in shown.items():
                assert name in real, f"{place}: {name} is not in {sorted(real)}"
                self._same(value, real[name], f"{place} → {name}")
        elif isinstance(shown, list) and shown:
            assert isinstance(real, list), f"{place}: {real!r} is no list"
            assert len(real) >= len(shown), f"{place}: {real!r} is shorter than shown"
            for at, value in enumerate(shown):
                self._same(value, real[at], f"{place}[{at}]")
        elif isinstance(shown, str) and ID.fullmatch(shown) and shown not in self.ids:
            assert isinstance(real, str), f"{place}: {real!r} is no id"
            assert shown.split("_")[0] == real.split("_")[0], f"{place}: {shown} and {real} are of different kinds"
            self.ids[shown] = real
        else:
            wanted = self.translated(shown) if isinstance(shown, str) else shown
            assert real == wanted, f"{place}: {real!r} instead of {wanted!r}"
