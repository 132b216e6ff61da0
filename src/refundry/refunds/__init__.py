"""The refund request: its states, its attempts, how it settles. The only place that moves a request from state to state."""
