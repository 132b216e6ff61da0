"""The schema files of messages: where they lie, and how they are written anew (`python -m tests.support.message_schemas`)."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from refundry.outbox.model import Kind
from refundry.outbox.rules import schema_of

FOLDER = Path(str(files("refundry.outbox"))) / "schemas"


def path_of(kind: Kind) -> Path:
    """Tell where the schema of a kind lies."""
    return FOLDER / f"{kind.value}.json"


def kept(kind: Kind) -> Any:
    """Read the schema of a kind, as it is shipped."""
    return json.loads(path_of(kind).read_text())


def write_all() -> None:
    """Write them as the fields are now."""
    for kind in Kind:
        path_of(kind).write_text(json.dumps(schema_of(kind), indent=2) + "\n")


if __name__ == "__main__":
    write_all()
