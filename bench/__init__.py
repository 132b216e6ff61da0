"""Measurements: `make bench ARGS=sim`. Figures, with machine and commit, go to `bench/results/`."""
