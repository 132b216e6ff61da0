"""Who did what, when and why: append-only, hash-chained, verifiable offline. Every change of a refund request is an entry."""
