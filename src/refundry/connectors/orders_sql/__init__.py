"""The order system, told by a statement of its own in its own database: once for each message."""
