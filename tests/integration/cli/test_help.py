"""The commands explain themselves, at once; the docs know every command, flag and setting."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from pydantic import AliasChoices, BaseModel

from refundry.cli.main import app
from refundry.infra.settings import (
    AccountSettings,
    FollowSettings,
    KeepSettings,
    OrderSettings,
    PaySettings,
    Settings,
    StripeSettings,
)
from tests.architecture import house
from tests.integration.cli.conftest import Run

pytestmark = pytest.mark.integration

HEAVY = ("sqlalchemy", "alembic", "stripe", "dbos", "pydantic", "uvicorn", "starlette")
DOCS = "\n".join(
    (house.ROOT / "docs/features" / name).read_text()
    for name in (
        "command-line.md",
        "batches.md",
        "plans.md",
        "refunds.md",
        "orders.md",
        "webhooks.md",
        "following.md",
        "disputes.md",
    )
)


def commands() -> Iterator[tuple[str, ...]]:
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield (name,)
        else:
            yield from ((name, verb) for verb in inner)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example_and_its_place_in_the_docs(
    refundry: Run, words: tuple[str, ...]
) -> None:
    told = refundry(*words, "--help")
    assert told.code == 0
    assert "example: " in told.out
    assert " ".join(words) in told.out.partition("example:")[2].replace("\n", " ")
    assert words[-1] in DOCS


def test_every_flag_is_in_the_docs() -> None:
    root = typer.main.get_command(app)
    leaves = [c for command in root.commands.values() for c in getattr(command, "commands", {"": command}).values()]  # type: ignore[attr-defined]
    flags = {flag for leaf in leaves for parameter in leaf.params for flag in parameter.opts if flag.startswith("--")}
    pages = (
        DOCS + (house.ROOT / "docs/operate/run.md").read_text() + (house.ROOT / "docs/design/simulator.md").read_text()
    )
    assert [flag for flag in sorted(flags - {"--help", "--output", "--after"}) if flag not in pages] == []


def test_every_setting_is_in_the_docs_with_its_default() -> None:
    page = (house.ROOT / "docs/operate/settings.md").read_text()
    told = {row[0].strip("`"): row[1].strip("`") for row in house.rows(page)}
    models: list[tuple[str, type[BaseModel]]] = [
        ("REFUNDRY_", Settings),
        ("REFUNDRY_STRIPE__", StripeSettings),
        ("REFUNDRY_PAY__", PaySettings),
        ("REFUNDRY_FOLLOW__", FollowSettings),
        ("REFUNDRY_KEEP__", KeepSettings),
        ("REFUNDRY_ORDERS__", OrderSettings),
        ("REFUNDRY_ACCOUNTS__NAME__", AccountSettings),
    ]
    for prefix, model in models:
        for name, field in model.model_fields.items():
            if name in {
                "stripe",
                "pay",
                "follow",
                "keep",
                "orders",
                "accounts",
                "stripe_secret_key",
                "stripe_webhook_secret",
                "secret_key",
            }:
                continue
            alias = field.validation_alias
            variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else prefix + name.upper()
            assert variable in told, f"{variable} is not in docs/operate/settings.md"
            if isinstance(field.default, int | float | bool):
                assert told[variable].lower() in {str(field.default).lower(), f"{field.default:.2f}"}, variable
    assert "STRIPE_SECRET_KEY" in told


def test_help_imports_nothing_that_takes_long() -> None:
    script = (
        f"import sys, refundry.cli.main as m; m.main(['--help']); print([n for n in {HEAVY!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told(refundry: Run) -> None:
    assert refundry("--version").out.startswith("refundry 0.")


def test_a_command_that_is_none_is_wrong_usage(refundry: Run) -> None:
    told = refundry("refnud", "--json")
    assert (told.code, told.error["code"]) == (2, "usage")


@pytest.mark.parametrize("arguments", [(), ("task",), ("outbox",)])
def test_without_a_command_the_help_is_shown_and_the_error_says_what_is_missing(
    refundry: Run, arguments: tuple[str, ...]
) -> None:
    told = refundry(*arguments)
    assert told.code == 2
    assert "Commands" in told.out
    assert told.err == "error: the command is missing: add --help to see what there is [usage]\n"
