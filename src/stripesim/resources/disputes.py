"""Disputes and early fraud warnings. (Filled in by the module's owner.)"""

from stripesim.store import Doc
from stripesim.world import World


def blocks(world: World, charge: Doc) -> bool:
    """Tell whether a dispute of the charge, open or lost, forbids refunds (`is_charge_refundable: false`)."""
    return False
