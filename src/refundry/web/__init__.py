"""The web side: so far whether the process is well, and its numbers. It decides nothing, and reads through what it is handed."""
