"""Chargebacks, inquiries and early fraud warnings: what they hold, and what was given back twice. It pays nothing and answers no bank."""
