"""What the simulator knows: its kinds of object and its routes. Each module of `resources/` adds its own when imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson

from stripesim.store import Doc

if TYPE_CHECKING:
    from stripesim.call import Call
    from stripesim.world import World

SHAPES: dict[str, Any] = orjson.loads(files("stripesim").joinpath("shapes.json").read_bytes())
DAHLIA = "2026-08-26.dahlia"
# Additive releases after dahlia that the simulator knows, newest last; the SDK pins the newest.
VERSIONS = (DAHLIA, "2026-09-30.endive", "2026-10-28.endive")

Handler = Callable[["Call"], Doc]


@dataclass(frozen=True, slots=True)
class View:
    """For whom an object is rendered: the world, its mode, the API version."""

    world: World
    livemode: bool
    version: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object.

    Args:
        name: Stripe's name of it (`object`), and of our table.
        prefix: What its ids begin with.
        columns: Members of its documents that lists filter by.
        render: Turns a document into the object that is answered; pure but for reads of the world.
        noun: Its name in Stripe's "No such …" texts.
        searchable: Whether it has a search route, so that its metadata is indexed.
    """

    name: str
    prefix: str
    columns: tuple[str, ...]
    render: Callable[[View, Doc], Doc]
    noun: str
    searchable: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Args:
        operation: Method and path template, as in the OpenAPI file: `GET /v1/charges/{charge}`.
        handler: What answers.
        parameters: The specs of its parameters.
        permission: What a restricted key must be allowed to do: `refund_write`.
        locks: Tells which objects the call holds while it runs; two writes to one object exclude each other.
    """

    operation: str
    handler: Handler
    parameters: dict[str, Any]
    permission: str
    locks: Callable[[Call], tuple[str, ...]] | None = None
    method: str = field(init=False)
    path: str = field(init=False)

    def __post_init__(self) -> None:
        """Split the operation once."""
        method, path = self.operation.split(" ")
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "path", path)


KINDS: dict[str, Kind] = {}
ROUTES: dict[str, Route] = {}
JOBS: dict[str, Callable[..., None]] = {}


def kind(
    name: str, prefix: str, *columns: str, noun: str | None = None, searchable: bool = False
) -> Callable[[Callable[[View, Doc], Doc]], Callable[[View, Doc], Doc]]:
    """Add a kind of object; the decorated function renders it."""

    def add(render: Callable[[View, Doc], Doc]) -> Callable[[View, Doc], Doc]:
        KINDS[name] = Kind(name, prefix, columns, render, noun or name, searchable)
        return render

    return add


def route(
    operation: str,
    permission: str,
    *,
    parameters: dict[str, Any] | None = None,
    locks: Callable[[Call], tuple[str, ...]] | None = None,
) -> Callable[[Handler], Handler]:
    """Add an operation.

    Args:
        operation: As in the OpenAPI file, its path parameters' names too.
        permission: The resource part of a restricted key's permission: `refund`; GET needs read, the others write.
        parameters: What the OpenAPI file does not have, or has more loosely; overrides it member by member.
        locks: As in `Route`.
    """

    def add(handler: Handler) -> Handler:
        known = SHAPES["operations"].get(operation, {"expand": {"list": "str"}})
        needed = f"{permission}_read" if operation.startswith("GET") else f"{permission}_write"
        ROUTES[operation] = Route(operation, handler, known | (parameters or {}), needed, locks)
        return handler

    return add


def job(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add work that is due at a time of the world's clock: `function(world, **args)`."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        JOBS[name] = function
        return function

    return add
