"""The order system, played by a file or by standard output: for trying out, and for whoever reads lines."""
