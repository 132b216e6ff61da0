"""The options that say how a file of refunds is read; every command that takes a file has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from refundry.connectors.base import ReadOptions
from refundry.kernel.errors import UsageError

FileName = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="CSV or JSON lines, also packed by gzip, or an Excel workbook; - for standard input. See docs/features/files.md.",
    ),
]
BlankAmount = Annotated[
    str | None, typer.Option(metavar="full", help="What an empty amount means; only `full` is possible.")
]
AllowFraudulent = Annotated[
    bool,
    typer.Option("--allow-fraudulent", help="Let rows use the reason `fraudulent`, which block-lists the customer."),
]
Format = Annotated[
    str | None, typer.Option("--format", metavar="csv|jsonl|xlsx", help="By default told by how the file begins.")
]
Delimiter = Annotated[
    str | None,
    typer.Option(metavar="CHARACTER", help="Between the cells of CSV, or `tab`; by default found in the header."),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="utf-8|windows-1252",
        help="By default UTF-8, and where the file is not that, Windows-1252, which is then said.",
    ),
]
Decimal = Annotated[
    str | None,
    typer.Option(
        metavar=".|,",
        help="The decimal sign of amounts, with the other one allowed between thousands; without it only 1234.56 is one.",
    ),
]
Sheet = Annotated[str | None, typer.Option(metavar="NAME", help="The sheet of a workbook that has several.")]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="COLUMN=NAME",
        help="What a column of another name means, as in 'Order no=order_id'; nothing, if NAME is empty. May be given again.",
    ),
]
NAMED = {
    "blank_amount": (BlankAmount, None),
    "allow_fraudulent": (AllowFraudulent, False),
    "form": (Format, None),
    "delimiter": (Delimiter, None),
    "encoding": (Encoding, None),
    "decimal": (Decimal, None),
    "sheet": (Sheet, None),
    "mapping": (Map, None),
}
DELIMITER_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|"}


def with_file_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of this page; it gets them as one argument, `reading`, a `ReadOptions`.

    Raises:
        UsageError: When the command is called: an option's value is not possible.
    """

    @wraps(command)
    def called(*args: Any, **given: Any) -> int:  # noqa: ANN401  # whatever the command takes
        said = {name: given.pop(name) for name in NAMED}
        return command(*args, **given, reading=_options(**said))

    signature = inspect.signature(command, eval_str=True)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "reading"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in NAMED.items()
    ]
    # What typer reads.
    called.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]  # any function may have one
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *added)}
    return called


def _options(
    *,
    blank_amount: str | None,
    allow_fraudulent: bool,
    form: str | None,
    delimiter: str | None,
    encoding: str | None,
    decimal: str | None,
    sheet: str | None,
    mapping: list[str] | None,
) -> ReadOptions:
    _check("--blank-amount", blank_amount, ("full",))
    _check("--format", form, ("csv", "jsonl", "xlsx"))
    encoding = {"utf8": "utf-8", "cp1252": "windows-1252"}.get((encoding or "").lower(), encoding and encoding.lower())
    _check("--encoding", encoding, ("utf-8", "windows-1252"))
    _check("--decimal", decimal, (".", ","))
    return ReadOptions(
        blank_amount_full=blank_amount == "full",
        allow_fraudulent=allow_fraudulent,
        format=form,
        delimiter=None if delimiter is None else _delimiter(delimiter),
        encoding=encoding,
        decimal=decimal,
        sheet=sheet,
        mapping=_mapping(mapping or []),
    )


def _check(option: str, value: str | None, possible: tuple[str, ...]) -> None:
    if value is not None and value not in possible:
        raise _wrong(option, value, f"write {' or '.join(possible)}")


def _delimiter(said: str) -> str:
    delimiter = DELIMITER_WORDS.get(said, said)
    if len(delimiter) != 1 or delimiter.isalnum() or delimiter in '"\r\n\0 .-_':
        raise _wrong("--delimiter", said, "write one character that stands in no name or amount, as in ';', or `tab`")
    return delimiter


def _mapping(said: list[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for one in said:
        column, equals, name = one.rpartition("=")
        if not equals or not column or column in found:
            raise _wrong("--map", one, "write COLUMN=NAME, as in 'Order no=order_id', once for each column")
        found[column] = name
    return tuple(found.items())


def _wrong(option: str, value: str, advice: str) -> UsageError:
    return UsageError(f"{option} {value} is not possible: {advice}", code="usage", option=option)
