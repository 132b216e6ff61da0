"""Payment processors. `base` is the port in our own types; each processor is a folder beside it."""
