"""JSON lines as records of cells: one object a line, numbers by their digits, a column for each key of any line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from refundry.connectors.base import SHOWN_MAX, FileRefused
from refundry.connectors.files.cells import Number, Odd
from refundry.connectors.files.columns import COLUMNS_MAX
from refundry.connectors.files.lines import RECORD_BYTES_MAX, Lines


class _Repeated(Exception):  # noqa: N818  # never seen outside
    """A key stands twice in an object."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _Repeated(key)
        made[key] = value
    return made


def _constant(name: str) -> Odd:
    return Odd(name, "cell_not_a_number", f"is {name}, which is no number: write one, or leave the key out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=_constant)


def objects(lines: Lines, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file's objects; blank lines are none.

    Raises:
        FileRefused: `json_invalid`, `column_repeated`, and those of `Lines`.
    """
    for text in lines:
        if stripped := text.strip():
            yield lines.line, _read(stripped, name, lines.line)
            lines.begin_record()


def _read(text: str, name: str, line: int) -> dict[str, Any]:
    try:
        found = _DECODER.decode(text)
    except _Repeated as error:
        key = error.key
        message = f"{name}, line {line}: the key '{key[:SHOWN_MAX]}' stands twice in the object: remove one"
        raise FileRefused(message, code="column_repeated", file=name, line=line, column=key) from error
    except (ValueError, RecursionError) as error:
        what = (
            f"{error.msg} at character {error.pos + 1}"
            if isinstance(error, json.JSONDecodeError)
            else "nested too deep"
        )
        raise _invalid(name, line, f"is no JSON ({what})") from error
    if not isinstance(found, dict):
        raise _invalid(name, line, "is no object")
    if "\\ud" in text.casefold() and not _whole(found):
        raise _invalid(name, line, "has half of a surrogate pair (\\ud800 to \\udfff)")
    return found


def _whole(found: dict[str, Any]) -> bool:
    """Tell whether every escaped letter is a whole one: half of a pair can be written to no file."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid(name: str, line: int, what: str) -> FileRefused:
    message = f'{name}, line {line}: the line {what}: write one JSON object a line, as in {{"charge_id": "ch_1", "amount": 12.34}}'
    return FileRefused(message, code="json_invalid", file=name, line=line)


def names(found: Iterator[tuple[int, dict[str, Any]]], name: str) -> dict[str, int]:
    """Collect the columns of all objects, in the order in which they first occur, with the line on which they do.

    Raises:
        FileRefused: `columns_too_many`, and those of `objects`.
    """
    columns: dict[str, int] = {}
    size_bytes = 0
    for line, one in found:
        if not columns.keys() >= one.keys():
            # Every row is kept with all of them: together they may be as long as the header of any other file.
            size_bytes += sum(len(key.encode()) for key in one.keys() - columns.keys())
            columns |= {key: line for key in one if key not in columns}
            if len(columns) > COLUMNS_MAX:
                message = f"{name}, line {line}: with this line there are more than {COLUMNS_MAX} different keys"
                raise FileRefused(message, code="columns_too_many", file=name, line=line)
            if size_bytes > RECORD_BYTES_MAX:
                message = f"{name}, line {line}: with this line the different keys are longer than {RECORD_BYTES_MAX} bytes together"
                raise FileRefused(message, code="columns_too_many", file=name, line=line)
    return columns


def records(lines: Lines, name: str, columns: Mapping[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Read a file's records, its columns first; a key that an object has not, or that is null, is an empty cell.

    Args:
        lines: The file's.
        name: The file's, for errors.
        columns: See `names`.

    Raises:
        FileRefused: `file_changed`: a key is none of the columns; and those of `objects`.
    """
    known = set(columns)
    yield min(columns.values(), default=0), list(columns)
    for line, one in objects(lines, name):
        if not known >= one.keys():
            raise FileRefused(f"{name} was changed while it was read", code="file_changed", file=name)
        yield line, [_cell(one.get(column)) for column in columns]


def _cell(value: Any) -> str:  # noqa: ANN401  # whatever JSON holds
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    shown = json.dumps(value, ensure_ascii=False)
    return Odd(shown, "cell_nested", f"holds a list or an object ({shown[:SHOWN_MAX]}): write text or a number")
