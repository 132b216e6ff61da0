"""The doctor's round: every look in its order, as far as the one before it lets it come. Nothing is changed."""

from __future__ import annotations

from refundry.cli import doctor_database, doctor_findings, doctor_machine, doctor_stripe, doctor_waits, session
from refundry.cli.doctor_findings import Area, of_error
from refundry.kernel.errors import RefundryError


def run(account: str | None = None, *, as_json: bool) -> int:
    """Look at everything, of all accounts or of one, and tell it; gives the exit code."""
    findings = [doctor_machine.versions(), *doctor_machine.given()]
    head = "Refundry's doctor"
    try:
        settings = session.settings()
    except RefundryError as error:
        findings.append(of_error(Area.MACHINE, "settings", error, "nothing else can be looked at before"))
    else:
        head = f"{head}, {session.place(settings)}"
        database = doctor_database.look(settings)
        findings += [
            doctor_machine.mode(settings),
            *doctor_machine.directory(settings),
            doctor_waits.targets(settings),
            *doctor_waits.traces(settings),
            *database.findings,
            *doctor_stripe.look(settings, database, account),
        ]
    if as_json:
        doctor_findings.as_json(findings)
    else:
        doctor_findings.tell(head, findings)
    return doctor_findings.exit_code(findings)
