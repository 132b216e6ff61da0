"""What the doctor sees of this machine: versions, settings, directory, disk, and the pace that the settings ask for."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import refundry
from refundry import bootstrap
from refundry.cli import output, session
from refundry.cli.doctor_findings import Area, Finding, Level, of_error
from refundry.infra import inspection, pace
from refundry.infra import settings as settings_of
from refundry.infra.settings import Access, Settings
from refundry.kernel.errors import RefundryError
from refundry.worker.executor import REFUND

# What a refund takes in the SQLite file with its row, attempt, charge and audit entries was 4,800 bytes in a batch of 1,500; its
# write-ahead log and longer rows take their share too.
BYTES_PER_REFUND = 8_000
# A run that stops in the middle is a nuisance, so the warning comes while there is room for some hundred thousand refunds.
DISK_LOW, DISK_SOON = 100 * 10**6, 10**9
HOUR = 3600
# As `gateways/stripe/client.py` names it, whose import takes longer than all else here.
LOOK = "GET /v1/charges/{charge}"


def versions() -> Finding:
    """Tell what is installed."""
    told = [
        f"refundry {refundry.__version__}",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    told += [f"{name} {version(name)}" for name in ("stripe", "dbos", "SQLAlchemy", "psycopg")]
    return Finding(Area.MACHINE, "versions", ", ".join(told))


def given() -> list[Finding]:
    """Tell which settings are set, and which variables look like one and are none."""
    found = settings_of.given()
    lost = dict(settings_of.unknown())
    told = ", ".join(f"{name}={value}" for name, value in found.items() if name not in lost)
    findings = [Finding(Area.MACHINE, "settings", f"{told}; all others by default" if told else "all by default")]
    for name, meant in lost.items():
        do = f"write {meant}" if meant else "unset it, or look its name up in docs/operate/settings.md"
        findings.append(
            Finding(
                Area.MACHINE, "settings", f"{name} is no setting and sets nothing", Level.WARNING, "setting_unknown",
                "what it was meant to change stays as it was", do,
            )
        )  # fmt: skip
    return findings


def mode(settings: Settings) -> Finding:
    """Tell whether money is real, and who approves it."""
    said = "LIVE, real money" if settings.mode == "live" else "test, no real money"
    return Finding(
        Area.MACHINE, "mode",
        f"{said}; single-operator: --yes on totals that were shown is the approval; who types is {session.person().name} to the audit log",
        Level.NOTE if settings.mode == "live" else Level.OK, "live" if settings.mode == "live" else "",
    )  # fmt: skip


def directory(settings: Settings) -> list[Finding]:
    """See that the state directory can be written, and that there is room in it."""
    folder = settings.folder
    try:
        place = inspection.place_of(folder)
    except OSError as error:
        return [_unusable(f"{folder} cannot be looked at ({error.strerror})")]
    if not place.path.is_dir():
        return [_unusable(f"{folder} cannot be made: {place.path} is a file")]
    if not os.access(place.path, os.W_OK | os.X_OK):
        there = place.path == folder.absolute()
        return [_unusable(f"{folder} cannot be {'written' if there else 'made'} by this user")]
    made = "" if place.path == folder.absolute() else " (made at first use)"
    return [Finding(Area.MACHINE, "directory", f"{folder}{made}"), disk(place)]


def _unusable(said: str) -> Finding:
    return Finding(
        Area.MACHINE, "directory", said, Level.WRONG, "state_dir_unusable", "the database and the worker's lock are kept there",
        "set REFUNDRY_STATE_DIR to a directory that can be written",
    )  # fmt: skip


def disk(place: inspection.Place) -> Finding:
    """See that there is room on a disk."""
    free = place.free_bytes
    said = f"{_size(free)} free, room for about {_about(free // BYTES_PER_REFUND)} refunds"
    if free >= DISK_SOON:
        return Finding(Area.MACHINE, "disk", said)
    why = "a full disk ends a run; nothing that was accepted is lost, and nothing more can be accepted"
    level = Level.WRONG if free < DISK_LOW else Level.WARNING
    do = f"free some space on {place.path}, or set REFUNDRY_STATE_DIR to a larger disk"
    return Finding(Area.MACHINE, "disk", said, level, "disk_low", why, do)


def _about(count: int) -> str:
    """Write a count with the two figures that mean something: `10,000,000`."""
    return output.number(int(float(f"{count:.2g}")))


def _size(count: int) -> str:
    return f"{count / 10**9:,.1f} GB" if count >= 10**9 else f"{count / 10**6:,.0f} MB"


def database_file(settings: Settings) -> Path | None:
    """Tell where the SQLite file is; `None` on Postgres.

    Raises:
        SettingsError: `database_url_wrong`.
    """
    url = settings.database
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def limits(settings: Settings, access: Access | None = None) -> list[Finding]:
    """Tell the pace of an account, by default the primary one; where it comes from, and what it means."""
    try:
        found = bootstrap.limits_of(settings, access)
    except RefundryError as error:
        return [of_error(Area.STRIPE, "limits", error, "without limits Stripe turns calls away")]
    named, headroom = (
        (settings.stripe.limits, settings.stripe.headroom) if access is None else (access.limits, access.headroom)
    )
    setting = _set_by(settings, access, "limits")
    source = f"{setting}={named}" if named else f"the default in {settings.mode} mode"
    share = 1 - headroom
    sends = [rate * share for rate in (found.total, found.operations.get(REFUND, found.endpoint)) if rate]
    if not sends:
        return [
            Finding(
                Area.STRIPE, "limits", f"none are kept ({source})", Level.WARNING if settings.mode == "live" else Level.NOTE, "limits_none",
                "Stripe turns away what is too fast (429), also calls of your other programs", f"unset {setting}",
            )
        ]  # fmt: skip
    fast = min(sends)
    # A look before the refund is a second call out of the account's budget, and has a budget of its own.
    look = found.operations.get(LOOK, found.endpoint) * share
    slow = min(rate for rate in (fast, found.total * share / 2, look) if rate)
    said = f"{_rate(slow)} when each charge is looked at first"
    said += f", {_rate(fast)} when that was just done" if fast > slow else ""
    findings = [Finding(Area.STRIPE, "limits", f"{said}; by {source}, {headroom:.0%} left to your other programs")]
    usual = pace.NAMED["live" if settings.mode == "live" else "sandbox"]
    if found.total > usual.total or found.endpoint > usual.endpoint or found.operations.get(REFUND, 0) > usual.endpoint:
        findings.append(
            Finding(
                Area.STRIPE, "limits", f"above what Stripe gives by default ({usual.total:g} calls a second, {usual.endpoint:g} for each endpoint)",
                Level.NOTE, "limits_high", "unless Stripe has raised yours, it turns calls away (429) and the pace has to be found by trying",
                f"unset {setting}, unless Stripe has told you other numbers",
            )
        )  # fmt: skip
    if not headroom:
        findings.append(
            Finding(
                Area.STRIPE, "limits", "nothing is left to your other programs", Level.NOTE, "headroom_none",
                "during a large run your shop's own calls may be turned away (429)",
                f"unset {_set_by(settings, access, 'headroom')}",
            )
        )  # fmt: skip
    return findings


def _set_by(settings: Settings, access: Access | None, part: str) -> str:
    """Name the variable that sets a part of an account: what a further one leaves out is as for the primary one."""
    own = settings.accounts.get(access.name) if access is not None else None
    if access is None or own is None or getattr(own, part) is None:
        return f"REFUNDRY_STRIPE__{part.upper()}"
    return access.setting(part)


def _rate(rate: float) -> str:
    return f"{rate:.1f} refunds a second ({output.number(round(rate * HOUR))} an hour)"
