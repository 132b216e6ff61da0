"""Many refund requests as one: an accepted file, its rows, what became of each, and the report that says so."""
