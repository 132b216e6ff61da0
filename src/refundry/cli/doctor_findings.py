"""What the doctor finds, and how it tells that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from refundry.cli import output
from refundry.kernel.errors import RefundryError, UsageError

# Where the text of a finding begins, and that of its reason.
TEXT_AT, REASON_AT = 24, 29


class Level(StrEnum):
    """How something is. Only what is `wrong` keeps money from being paid right, and makes the exit code other than 0."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    WRONG = "wrong"


class Area(StrEnum):
    """Where something was found, in the order in which it is told."""

    MACHINE = "machine"
    DATABASE = "database"
    STRIPE = "stripe"
    WORK = "work"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found. The names of its fields and its code are stable.

    Args:
        area: Where.
        what: What was looked at.
        said: What was found.
        level: How it is.
        code: What kind of trouble it is; empty where all is well.
        why: Why it matters.
        do: What to type, or to change.
        setting: The variable whose value makes this wrong usage.
    """

    area: Area
    what: str
    said: str
    level: Level = Level.OK
    code: str = ""
    why: str = ""
    do: str = ""
    setting: str = ""


def of_error(area: Area, what: str, error: RefundryError, why: str) -> Finding:
    """Make a finding of an error, whose sentence ends with what to do."""
    said, _, advice = error.message.rpartition(": ")
    setting = str(error.ids.get("setting", "")) if isinstance(error, UsageError) else ""
    if setting and setting not in error.message:
        said = f"{setting}: {said or advice}"
    return Finding(area, what, said or advice, Level.WRONG, error.code, why, advice if said else "", setting)


def exit_code(findings: Sequence[Finding]) -> int:
    """Tell the exit code: 0, if nothing is wrong; 2, if a setting is; else 1."""
    wrong = [finding for finding in findings if finding.level is Level.WRONG]
    if any(finding.setting for finding in wrong):
        return output.USAGE
    return output.FAILED if wrong else output.DONE


def tell(head: str, findings: Sequence[Finding]) -> None:
    """Tell all findings in words: area by area, each in one line unless something is to be said about it."""
    output.line(head)
    for area in Area:
        mine = [finding for finding in findings if finding.area is area]
        if mine:
            output.line("")
            output.line(area.value)
        for finding in mine:
            _tell(finding)
    output.line("")
    output.line(output.wrapped(_summary(findings)))


def _tell(finding: Finding) -> None:
    mark = finding.level.value.upper() if finding.level is Level.WRONG else finding.level.value
    output.line(output.wrapped(f"  {mark:<8}{finding.what:<14}{finding.said}", hanging=TEXT_AT))
    for name, text in (("why", finding.why), ("do", finding.do)):
        if text:
            output.line(output.wrapped(f"{name:<5}{text}", indent=TEXT_AT, hanging=REASON_AT))


def _summary(findings: Sequence[Finding]) -> str:
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    parts = []
    if count[Level.WRONG]:
        parts.append(f"{output.counted(count[Level.WRONG], 'thing')} to mend")
    parts += [output.counted(count[level], level.value) for level in (Level.WARNING, Level.NOTE) if count[level]]
    if count[Level.WRONG]:
        return f"{', '.join(parts)}: see above; nothing was changed."
    return "Nothing is wrong" + (f" ({', '.join(parts)})" if parts else "") + "; nothing was changed."


def as_json(findings: Sequence[Finding]) -> None:
    """Tell all findings as one JSON object."""
    count = {level.value: sum(finding.level is level for finding in findings) for level in Level}
    ok = not count[Level.WRONG.value]
    output.as_json({"ok": ok, "counts": count, "findings": [asdict(finding) for finding in findings]})
