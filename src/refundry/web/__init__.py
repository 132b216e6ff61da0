"""The web side: what Stripe tells us, whether the process is well, and its numbers. It decides nothing, and reads and stores through what it is handed."""
