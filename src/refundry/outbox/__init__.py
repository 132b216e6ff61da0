"""Every outbound message, written in the commit of its cause, delivered at least once and in order per order, parked in sight."""
