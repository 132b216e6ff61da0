"""Who waits for Stripe: a person at the desk, before a bulk run."""

from enum import StrEnum


class Lane(StrEnum):
    """The two lanes; a call of the first overtakes those of the second."""

    DESK = "desk"
    BULK = "bulk"
