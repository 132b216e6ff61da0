"""The program: its commands, and how every one of them ends. What a user can cause ends in a sentence, never in a traceback."""

from __future__ import annotations

import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

import refundry
from refundry.cli import (
    batch,
    catch_up,
    charges,
    db,
    demo,
    dispute,
    doctor,
    inbox,
    interruption,
    outbox,
    output,
    refund,
    serve,
    sim,
    task,
    webhooks,
)
from refundry.kernel.errors import RefundryError, UsageError

# How many new objects there are before cycles among them are looked for. Nearly all objects are freed without that, and at Python's 700 it took a
# twentieth of a refund's processor time.
GARBAGE = (10_000, 10, 10)


class Commands(TyperGroup):
    """Leaves an interruption to us: Typer would end with its exit code, and without a word."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Typer keeps the type of its context to itself
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Abort from error


app = typer.Typer(
    name="refundry",
    cls=Commands,
    help="The refund desk for Stripe: requests checked, paid exactly once, followed, and provable.",
    epilog="example: refundry demo --once",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(refund.app, name="refund")
app.add_typer(batch.app, name="batch")
app.add_typer(inbox.app, name="inbox")
app.add_typer(outbox.app, name="outbox")
app.add_typer(webhooks.app, name="webhooks")
app.command("catch-up", epilog="example: refundry catch-up --since 3d")(catch_up.catch_up)
app.add_typer(charges.app, name="charges")
app.add_typer(task.app, name="task")
app.add_typer(dispute.app, name="dispute")
app.command("demo", epilog="example: refundry demo --once --rows 200")(demo.demo)
app.add_typer(sim.app, name="sim")
app.command("serve", epilog="example: refundry serve --port 8080")(serve.serve)
app.command("worker", epilog="example: REFUNDRY_DATABASE_URL=postgresql://… refundry worker")(serve.worker)
app.add_typer(db.app, name="db")
app.command("doctor", epilog="example: refundry doctor --json")(doctor.doctor)


def _version(wanted: bool) -> None:  # noqa: FBT001  # typer's way of handing over a flag
    if wanted:
        output.line(f"refundry {refundry.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version, and end.")
    ] = False,
) -> None:
    pass


def run() -> NoReturn:
    """Run the program and end the process with its exit code."""
    gc.set_threshold(*GARBAGE)
    interruption.catch()
    output.prepare()
    try:
        code = main(sys.argv[1:])
        if (lost := output.lost()) is not None:
            output.fail(lost, as_json=False)
            code = code or output.FAILED
    except KeyboardInterrupt:
        # It came while the end was told.
        code = output.INTERRUPTED
    if code == output.INTERRUPTED:
        # All is written and ended. Python's own end takes a while, and the same wish, said again, would be met there by nobody.
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command; tells the exit code: 0 all done, 1 failed, 2 wrong usage, setting or input, 3 done in part, 130 interrupted."""
    as_json = "--json" in arguments
    try:
        told = app(list(arguments), standalone_mode=False)
    except RefundryError as error:
        output.fail(error, as_json=as_json)
        return output.USAGE if isinstance(error, UsageError) else output.FAILED
    except TyperException as error:
        output.fail(UsageError(_usage(error)), as_json=as_json)
        return output.USAGE
    except (KeyboardInterrupt, Abort):
        return _interrupted()
    except BrokenPipeError:
        return output.FAILED
    except Exception as error:  # noqa: BLE001  # the last place where anything can be told
        if isinstance(error.__cause__, KeyboardInterrupt):
            # Until 3.12 Python makes a RuntimeError of what comes while a class is being made, as in an import.
            return _interrupted()
        if isinstance(error, UnicodeEncodeError) and (wrong := _not_utf8(arguments)):
            output.fail(
                UsageError(f"'{wrong}' is no text of UTF-8: type it anew", code="argument_not_utf8"), as_json=as_json
            )
            return output.USAGE
        output.fail(output.lost() or _unexpected(error), as_json=as_json)
        return output.FAILED
    return told if isinstance(told, int) else output.DONE


def _interrupted() -> int:
    output.lost()
    output.say("interrupted: what was accepted is kept, and the same command goes on")
    return output.INTERRUPTED


def _usage(error: TyperException) -> str:
    # Where no command was named, typer has shown its help and says nothing.
    text = error.format_message().rstrip(".") or "the command is missing"
    return f"{text[:1].lower()}{text[1:]}: add --help to see what there is"


def _not_utf8(arguments: Sequence[str]) -> str:
    """Tell the first argument that no table and no call can take, its odd bytes escaped; a file's name may be one."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return os.fsencode(argument).decode("utf-8", "backslashreplace")[:80]
    return ""


def _unexpected(error: Exception) -> RefundryError:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
        where = f" ({error.filename})" if error.filename else ""
        return RefundryError(
            f"the disk is full{where}: free some space and run the same command again; nothing that was accepted is lost",
            code="disk_full",
        )
    if _debugging():
        output.say("".join(traceback.format_exception(error)).rstrip())
    return RefundryError(
        f"something that was not foreseen: {type(error).__name__}: {error}. What was accepted is kept, and the same command goes on "
        "with it; REFUNDRY_LOG_LEVEL=debug shows where it happened",
        code="unexpected",
    )


def _debugging() -> bool:
    from refundry.infra import settings

    try:
        return settings.read().log_level == "debug"
    except RefundryError:
        return False
