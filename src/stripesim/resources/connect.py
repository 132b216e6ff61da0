"""What Connect adds to charges and refunds. (Filled in by the module's owner.)"""

from stripesim.call import Call
from stripesim.store import Doc
from stripesim.world import Scope, World


def prepare_charge(call: Call, doc: Doc) -> None:
    """Check the Connect parameters of a charge or payment intent and put what they mean into its document."""


def charge_captured(world: World, scope: Scope, charge: Doc) -> None:
    """Collect the application fee of a direct charge; transfer the money of a destination charge."""


def check_refund(call: Call, charge: Doc) -> None:
    """Refuse `reverse_transfer` and `refund_application_fee` where they do not apply."""


def refunded(call: Call, charge: Doc, refund: Doc) -> None:
    """Reverse the transfer and refund the application fee, in proportion, where the call asks for it."""


def refund_undone(world: World, scope: Scope, charge: Doc, refund: Doc) -> None:
    """A refund failed or was canceled: its money is back on the platform's balance."""
