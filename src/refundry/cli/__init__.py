"""The command line: one file for each noun, over the same services as everybody else. Results on stdout, the rest on stderr.

What takes long to import (the database, Stripe's SDK, the engine) is imported inside the commands, so that `--help` answers at once.
"""
