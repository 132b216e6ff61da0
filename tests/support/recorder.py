"""A simulator that remembers which operations succeeded, and says briefly what a call has to be answered with."""

from __future__ import annotations

from typing import Any

from stripesim.api import matched
from tests.support.sim import Reply, Sim


class Recorder(Sim):
    """A `Sim` whose `taken` holds the operations that it answered with a 2xx."""

    def __init__(self, **options: Any) -> None:
        """Make it; nothing was called yet."""
        super().__init__(**options)
        self.taken: set[str] = set()

    async def call(self, operation: str, **options: Any) -> Reply:
        """Call as `Sim.call` does."""
        reply = await super().call(operation, **options)
        if reply.status == 200 and options.get("check", True):
            self.taken.add(matched(*operation.split(" "))[0].operation)
        return reply

    async def ok(self, operation: str, **options: Any) -> Reply:
        """Call, and see that it was answered with 200."""
        reply = await self.call(operation, **options)
        assert reply.status == 200, f"{operation}: {reply.status} {reply.json}"
        return reply

    async def refused(
        self, operation: str, status: int, code: str | None = None, param: str | None = None, /, **options: Any
    ) -> Reply:
        """Call, and see that it was refused with this status, code and parameter; `None` means that there is none."""
        reply = await self.call(operation, **options)
        told = (reply.status, reply.json.get("error", {}).get("code"), reply.json.get("error", {}).get("param"))
        assert told == (status, code, param), f"{operation}: {reply.status} {reply.json}"
        return reply
