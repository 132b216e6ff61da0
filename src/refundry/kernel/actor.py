"""Who acts: a person, an API key, a schedule, or Refundry itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ActorKind(StrEnum):
    """What kind of actor."""

    PERSON = "person"
    SYSTEM = "system"
    API_KEY = "api_key"
    SCHEDULE = "schedule"


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever does something; stands in every audit entry.

    Args:
        kind: What kind.
        name: A user name, a key's name, or the part of Refundry that acts.
    """

    kind: ActorKind
    name: str

    def __str__(self) -> str:
        """Write it as `person:ada`."""
        return f"{self.kind}:{self.name}"


SYSTEM = Actor(ActorKind.SYSTEM, "refundry")
