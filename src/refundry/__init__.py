"""Refundry, the refund desk for Stripe. It shares no code with `stripesim`, the simulator in the same distribution."""

__version__ = "0.1.0"
