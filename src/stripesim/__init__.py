"""A Stripe that remembers, refuses, limits, fails and calls back: what Refundry is tried against, reached over HTTP alone.

It owns a small world of accounts, charges and refunds; it shares no code with `refundry`.
"""
