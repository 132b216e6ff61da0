"""`refundry db`: the database's version, and whether its tables and its audit log are what they should be."""

from __future__ import annotations

import typer

from refundry.cli import output
from refundry.cli.output import AsJson

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command("upgrade", epilog="example: refundry db upgrade")
def upgrade(*, as_json: AsJson = False) -> int:
    """Bring the database to this program's version; every other command does so too."""
    from refundry import bootstrap, migrations
    from refundry.cli import session
    from refundry.kernel.clock import SystemClock

    database = bootstrap.database_of(session.settings(), SystemClock())
    try:
        version = migrations.version(database)
    finally:
        database.close()
    if as_json:
        output.as_json({"version": version})
    else:
        output.line(f"the database is of version {version}, as this program needs it")
    return output.DONE


@app.command("check", epilog="example: refundry db check --json")
def check(*, as_json: AsJson = False) -> int:
    """See that the tables are as the program expects them, and that nobody changed the audit log or the rows of an accepted file."""
    from refundry import bootstrap, migrations
    from refundry.audit import service as audit
    from refundry.batches import service as batches
    from refundry.cli import session
    from refundry.kernel.clock import SystemClock

    database = bootstrap.database_of(session.settings(), SystemClock())
    try:
        version = migrations.version(database)
        with database.reading() as unit:
            differs = [str(difference) for difference in migrations.differences(unit.connection)]
            fault = audit.first_fault(unit) or batches.first_fault(unit)
    finally:
        database.close()
    sound = not differs and fault is None
    if as_json:
        output.as_json({"ok": sound, "version": version, "tables": differs, "audit": fault})
    else:
        output.line(f"version  {version}")
        output.line("tables   " + ("as they should be" if not differs else f"differ: {'; '.join(differs)}"))
        output.line("audit    " + ("every entry hangs on the one before it" if fault is None else f"broken: {fault}"))
    if differs:
        output.say(
            "error: somebody changed the tables: restore a backup, or ask for help before anything is paid [database_differs]"
        )
    if fault is not None:
        output.say(
            "error: the audit log, or what it vouches for, was changed after it was written: keep this database as evidence [audit_broken]"
        )
    return output.DONE if sound else output.FAILED
