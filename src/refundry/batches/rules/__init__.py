"""What is decided about a batch without looking anywhere: how a schedule is read, and what it allows at a moment."""
