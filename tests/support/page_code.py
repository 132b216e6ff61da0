"""The code that pages of the docs hold, to be run by tests as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(page: str, title: str) -> str:
    """Take the first block of Python under a heading of a page.

    Args:
        page: The page, from the root: `docs/features/orders.md`.
        title: The heading.
    """
    text = (ROOT / page).read_text()
    under = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"^```python\n(.*?)^```$", under, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page} has no Python under '{title}'"
    return found[1]
