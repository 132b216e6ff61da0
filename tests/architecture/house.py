"""What the checks of the house look at: its files, and Markdown taken apart."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("src", "tests", "bench")
WRITTEN = {".py", ".md", ".toml", ".in", ".txt", ".json", ""}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def modules(*tops: str) -> Iterator[Path]:
    """Find the Python files under some folders of the root."""
    for top in tops:
        yield from sorted(path for path in (ROOT / top).rglob("*.py") if "__pycache__" not in path.parts)


def pages() -> list[Path]:
    """Find the Markdown files that we wrote."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")]
    return sorted(found)


def texts() -> Iterator[Path]:
    """Find what we wrote in words: code, docs, settings, requirements, commands; no data and nothing of others."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in WRITTEN and path.name != "LICENSE")
    for top in (*CODE, "docs", "requirements", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            ours = path.is_file() and path.suffix in WRITTEN and "__pycache__" not in path.parts
            if ours and "LICENSE" not in path.name and path.parent.name != "stripe":
                yield path


def unfenced(text: str) -> str:
    """Take the blocks of code out of Markdown."""
    return FENCE.sub("", text)


def section(text: str, title: str) -> str:
    """Take what stands under a heading, up to the next of its level or higher.

    Raises:
        KeyError: There is no such heading.
    """
    # A comment of a shell inside a block looks like a heading: blocks keep their length, and lose their words.
    masked = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    found = list(HEADING.finditer(masked))
    for at, heading in enumerate(found):
        if heading[2] == title:
            later = (other.start() for other in found[at + 1 :] if len(other[1]) <= len(heading[1]))
            return text[heading.end() : next(later, len(text))]
    raise KeyError(title)


def rows(text: str) -> list[list[str]]:
    """Read all tables: the cells of each row, headers and rules left out."""
    out: list[list[str]] = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        head = at + 1 < len(lines) and re.fullmatch(r"\|(-+\|)+", lines[at + 1])
        if line.startswith("|") and not head and not re.fullmatch(r"\|(-+\|)+", line):
            out.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return out


def named(text: str) -> list[str]:
    """Tell the first cells of all tables that are a name in backticks, without the backticks."""
    return [match[1] for row in rows(text) if (match := re.match(r"`([^`]+)`", row[0]))]


def anchors(text: str) -> set[str]:
    """Tell the anchors that a page's headings have."""
    return {
        re.sub(r"[^\w\- ]", "", heading[2].replace("`", "")).strip().lower().replace(" ", "-")
        for heading in HEADING.finditer(unfenced(text))
    }
