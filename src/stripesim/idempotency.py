"""Which answers are kept under an `Idempotency-Key`, and what a second call with the same key gets.

Kept: status and body of the first call, once its execution began, whatever the result, 500 included. Not kept: what
parameter checks, limiters, or a running call with the same key refuse. Pruned after 24 h of the world's clock, and on
command; then the same key runs anew. (docs.stripe.com/api/idempotent_requests, docs.stripe.com/error-low-level)
"""

from dataclasses import dataclass
from hashlib import blake2b

import orjson

from stripesim.errors import StripeError, refused
from stripesim.params import Pairs
from stripesim.world import Scope, World

LENGTH_MAX = 255
HOUR = 3600
KIND = "idempotency_error"


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored answer: its HTTP status, its body as sent, and the id of the call that made it."""

    status: int
    body: bytes
    request: str


def fingerprint(flat: Pairs) -> bytes:
    """Tell equal parameters from others, whatever their order."""
    return blake2b(orjson.dumps(sorted(flat)), digest_size=16).digest()


def in_use(key: str, *, own_type: bool) -> StripeError:
    """Build the 409 for a key whose first call still runs; Stripe's `type` for it is unverified."""
    return StripeError(
        409,
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later.",
        code="idempotency_key_in_use",
        kind=KIND if own_type else "invalid_request_error",
        stored=False,
    )


class Idempotency:
    """The idempotency layer of one world."""

    def __init__(self, world: World) -> None:
        """Begin with nothing in flight."""
        self._world = world
        self._running: set[tuple[int, str]] = set()

    def begin(self, scope: Scope, key: str, endpoint: str, parameters: bytes) -> Kept | None:
        """Start a call under a key, or tell the answer that is kept.

        Raises:
            StripeError: 409 while the first call runs; 400 for other parameters, another endpoint or a bad key.
        """
        if not key.strip() or len(key) > LENGTH_MAX:
            text = f"Idempotency keys must be between 1 and {LENGTH_MAX} characters long."
            raise refused(None, text)
        if (scope.number, key) in self._running:
            raise in_use(key, own_type=self._world.settings.conflict_as_idempotency_error)
        oldest = self._world.clock.now() - self._world.settings.idempotency_hours * HOUR
        sql = (
            "SELECT endpoint, parameters, status, body, request FROM idempotency WHERE scope=? AND key=? AND created>?"
        )
        row = self._world.store.db.execute(sql, (scope.number, key, oldest)).fetchone()
        if row is None:
            self._running.add((scope.number, key))
            return None
        if row[0] != endpoint:
            ours, theirs = row[0].split(" ", 1)[1], endpoint.split(" ", 1)[1]
            text = f"Keys for idempotent requests can only be used for the same endpoint they were first used for ('{theirs}' vs '{ours}')."
        elif row[1] != parameters:
            text = "Keys for idempotent requests can only be used with the same parameters they were first used with."
        else:
            return Kept(*row[2:])
        text += f" Try using a key other than '{key}' if you meant to execute a different request."
        raise StripeError(400, text, kind=KIND, stored=False)

    def keep(self, scope: Scope, key: str, endpoint: str, parameters: bytes, kept: Kept) -> None:
        """Store an answer, in the transaction of what it tells of."""
        values = (
            scope.number,
            key,
            endpoint,
            parameters,
            kept.status,
            kept.body,
            kept.request,
            self._world.clock.now(),
        )
        self._world.store.db.execute("INSERT OR REPLACE INTO idempotency VALUES (?,?,?,?,?,?,?,?)", values)

    def end(self, scope: Scope, key: str) -> None:
        """The call is over, whatever became of it."""
        self._running.discard((scope.number, key))

    def prune(self, before: float) -> int:
        """Forget the answers that were stored before a time; tells how many."""
        return self._world.store.db.execute("DELETE FROM idempotency WHERE created<=?", (before,)).rowcount
