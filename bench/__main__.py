"""Run the measurements that are named, or all of them."""

import sys

from bench import sim

ALL = {"sim": sim.main}


def main(names: list[str]) -> int:
    """Run; tells 2 for a name that is not known."""
    if unknown := [name for name in names if name not in ALL]:
        print(f"bench: {unknown[0]} is not known; there are {', '.join(ALL)}")
        return 2
    for name in names or ALL:
        ALL[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
