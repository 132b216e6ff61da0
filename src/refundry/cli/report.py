"""The report of a batch: one row per input row, all its own columns first, then what became of it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from refundry.batches import service as batches
from refundry.batches.model import Batch, Standing
from refundry.batches.service import Line
from refundry.cli import output, session
from refundry.connectors.base import report_cell, visible
from refundry.infra.db import Unit
from refundry.kernel.errors import UsageError
from refundry.kernel.money import decimal

OURS = (
    "row", "outcome", "state", "code", "why", "amount", "amount_minor", "currency", "charge", "refund", "request", "ticket",
)  # fmt: skip
PREFIX = "refundry_"
WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")


def write(prefix: str, to: Path | None, form: str | None, *, as_json: bool) -> int:
    """Write the report, to a file as a whole or not at all.

    Args:
        prefix: The batch's id, or the beginning of it.
        to: The file; standard output, if none is named.
        form: `csv` or `json`; by default after the file's name.
        as_json: One object on stdout: the report itself, or with a file what was written there.

    Raises:
        UsageError: `format_unknown`, `output_is_input`, `output_unwritable`.
    """
    # What stdout gets says nothing about a file.
    json_meant = as_json if to is None else form is None and to.suffix == ".json"
    chosen = "json" if json_meant else form or "csv"
    if chosen not in {"csv", "json"}:
        raise UsageError(
            f"--format {chosen} is not possible: write csv or json", code="format_unknown", option="--format"
        )
    if to is not None and form is None and to.suffix.lower() in WORKBOOKS:
        message = (
            f"{visible(str(to))} would hold CSV under the name of a workbook, which Excel does not open: name it "
            f"{visible(str(to.with_suffix('.csv')))}, or say --format csv"
        )
        raise UsageError(message, code="format_unknown", option="--output")
    with session.local() as local, local.database.reading() as unit:
        batch = batches.need(unit, prefix)
        if to is None:
            _written(output.as_file(), unit, batch, chosen)
            return output.DONE
        _replace(to, unit, batch, chosen)
        if as_json:
            told = {"batch_id": batch.id, "output": str(to), "format": chosen, "row_count": batch.row_count}
            output.as_json(told)
            return output.DONE
        output.say(f"{output.counted(batch.row_count, 'row')} written to {visible(str(to))}")
    return output.DONE


def _replace(to: Path, unit: Unit, batch: Batch, form: str) -> None:
    told = visible(str(to))
    try:
        if _is_input(to, batch):
            raise UsageError(
                f"{told} is the file of the batch, and would be lost: name another one with -o; nothing was changed",
                code="output_is_input",
                file=told,
            )
        with output.whole(to) as stream:
            _written(stream, unit, batch, form)
    except OSError as error:
        raise UsageError(
            f"{told} cannot be written ({error.strerror}): name a file in a folder that can be written, on a disk with room; the "
            "batch is as it was",
            code="output_unwritable",
            file=told,
        ) from error


def _is_input(to: Path, batch: Batch) -> bool:
    """Tell whether a file that would be written over is the one that the batch was made from, packed or not."""
    if not to.is_file():
        return False
    for opened in (Path.open, gzip.open):
        with suppress(OSError, EOFError, zlib.error), opened(to, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == batch.sha256:
                return True
    return False


def _written(stream: TextIO, unit: Unit, batch: Batch, form: str) -> None:
    lines = batches.lines(unit, batch)
    if form == "csv":
        _as_csv(stream, batch, lines)
        return
    # One object, and written row by row: the memory that is needed does not grow with the batch.
    stream.write(
        json.dumps({"batch_id": batch.id, "file": batch.name, "row_count": batch.row_count})[:-1] + ', "rows": ['
    )
    stream.writelines(
        ("," if at else "") + "\n" + json.dumps({**_outcome(line), "input": dict(line.row.raw)}, ensure_ascii=False)
        for at, line in enumerate(lines)
    )
    stream.write("\n]}\n")


def _as_csv(stream: TextIO, batch: Batch, lines: Iterator[Line]) -> None:
    names = list(batch.columns)
    for name in OURS:
        own = PREFIX + name
        while own in names:
            # A report that is handed in again keeps its old outcome beside the new one.
            own += "_"
        names.append(own)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([report_cell(name) for name in names])
    for line in lines:
        told = _outcome(line)
        cells = [line.row.raw.get(column, "") for column in batch.columns] + [_cell(told[name]) for name in OURS]
        writer.writerow([report_cell(cell) for cell in cells])
        stream.write(buffer.getvalue())
        buffer.seek(0)
        buffer.truncate()
    stream.write(buffer.getvalue())


def _cell(value: Any) -> str:  # noqa: ANN401  # text, number or nothing
    return "" if value is None else str(value)


def _outcome(line: Line) -> dict[str, Any]:
    """Say what became of a row. An amount stands only where a request of the row's own has one."""
    request, verdict = line.request, line.row.verdict
    own = request is not None and verdict is not None and not verdict.code
    minor = (
        (request.amount_minor or request.content.asked_minor)
        if own and request
        else verdict.asked_minor
        if verdict
        else None
    )
    currency = request.content.currency if request else verdict.currency if verdict else None
    paid = line.standing is Standing.PAID
    return {
        "row": line.row.number,
        "outcome": line.standing.value,
        "state": request.state.value if own and request else None,
        "code": "" if paid and line.code == (request.state.value if request else "") else line.code,
        "why": line.text,
        "amount": decimal(minor, currency) if minor is not None and currency else None,
        "amount_minor": minor,
        "currency": currency,
        "charge": request.content.charge if request else None,
        "refund": request.refund if own and request else None,
        "request": verdict.request if verdict else None,
        "ticket": line.row.wanted.ticket_id if line.row.wanted else None,
    }
