"""Refundry, the refund desk for Stripe: requests are checked, approved, paid exactly once, followed, and provable."""

__version__ = "0.1.0"
