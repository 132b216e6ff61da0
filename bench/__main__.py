"""Run the measurements that are named, or all of the product's."""

import importlib
import signal
import sys
import time

# In the order in which they run; each has a module of its name, whose `main` measures, prints and keeps its figures.
ALL = ("engine", "pace", "calls", "fairness", "startup", "workers", "accounts", "scale", "intake", "storm")
# The simulator's own, for who changes that: by name only.
NAMED = (*ALL, "sim")


def main(words: list[str]) -> int:
    """Run; tells 2 for a name that is not known. A word `engine:large` hands `large` over to `engine`."""
    wanted = [word.split(":") for word in words or ALL]
    if unknown := [name for name, *_ in wanted if name not in NAMED]:
        print(f"bench: {unknown[0]} is not known; there are {', '.join(NAMED)}")
        return 2
    # What was started is ended also when this is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name, *flags in wanted:
        print(f"== {name}")
        began = time.monotonic()
        importlib.import_module(f"bench.{name}").main(*flags)
        print(f"   {time.monotonic() - began:.0f} s, kept in bench/results/{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
