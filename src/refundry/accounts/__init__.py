"""Stripe accounts: which ones this database belongs to, in which mode, and whether their key still works."""
