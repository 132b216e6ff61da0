"""What a file would do, before anything is paid: every row checked, hashed, and paid as planned or not at all."""
