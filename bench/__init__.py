"""Measurements: `make bench ARGS=engine`. Figures, with machine and commit, go to `bench/results/`."""
