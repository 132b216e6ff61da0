"""The executor against the simulator, in one process."""
