"""Stripe behind the payment port: how it is spoken to, and nothing else.

`client` makes the calls, `transport` carries them, `mapping` turns objects into our types, `errors` turns error answers into
outcomes. No state, no decision, no transaction, no pace of its own.
"""
