"""Pure words that every other part shares: money, time, ids, outcomes, errors, actors. Standard library only; no I/O but the clock's."""
