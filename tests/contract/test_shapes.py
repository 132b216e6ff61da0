"""The simulator's reading of Stripe's parameters is the file's: nothing more, nothing less, nothing out of date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from stripesim import api
from stripesim.errors import StripeError
from stripesim.params import checked, pairs
from stripesim.registry import ROUTES
from tests.contract import shapes
from tests.support import openapi

pytestmark = pytest.mark.contract
Pairs = list[tuple[str, str]]
# What the simulator refuses only after the charge's state, because Stripe's checks come in that order (the handler's tests
# hold the refusal), and what it takes the versions of from its own list.
LATER = {"reason", "api_version"}
OPERATIONS = sorted(openapi.operations())


def test_the_cut_of_the_file_is_not_out_of_date() -> None:
    assert shapes.SHAPES.read_text() == shapes.shapes(), "run python -m tests.contract.shapes"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_parameters_have_the_files_names(operation: str) -> None:
    assert ROUTES[operation].parameters.keys() == openapi.parameters(operation)["properties"].keys()


def accepted(schema: dict[str, Any], path: str) -> Iterator[Pairs]:
    """Make valid values of a parameter, each as names and values; every alternative and every word of an enum comes up."""
    if "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from accepted(option, path)
        return
    match schema["type"]:
        case "string" if "enum" in schema:
            yield from ([(path, word)] for word in schema["enum"])
        case "string":
            text = "12.5" if schema.get("format") == "decimal" else "usd"
            yield [(path, text[: schema.get("maxLength", 5000)])]
            yield [(path, "é" * min(schema.get("maxLength", 5000), 600))] if schema.get("format") is None else []
        case "integer":
            yield [(path, "7")]
        case "number":
            yield [(path, "7.5")]
        case "boolean":
            yield from ([(path, word)] for word in ("true", "false"))
        case "array":
            for item in accepted(schema["items"], f"{path}[0]"):
                yield item
                if len(item) == 1:
                    # `[]` counts up, so it can stand for one member only.
                    yield [(item[0][0].replace(f"{path}[0]", f"{path}[]", 1), item[0][1])]
        case "object":
            yield from _hashes(schema, path)


def _hashes(schema: dict[str, Any], path: str) -> Iterator[Pairs]:
    members = schema.get("properties")
    if members is None:
        yield [(f"{path}[some_key]", "value")]
        return
    needed = [pair for name in schema.get("required", ()) for pair in next(accepted(members[name], f"{path}[{name}]"))]
    if needed:
        yield needed
    for name, inner in members.items():
        rest = [pair for pair in needed if not pair[0].startswith(f"{path}[{name}]")]
        yield from ([*rest, *one] for one in accepted(inner, f"{path}[{name}]"))


def wrong(schema: dict[str, Any], path: str) -> Iterator[Pairs]:
    """Make invalid values of a parameter: of the wrong kind, too long, not in the enum, wrong inside."""
    if "anyOf" in schema:
        # What one alternative refuses another may take: nested values go to hashes and lists, bare ones to scalars.
        kinds = {option["type"] for option in schema["anyOf"] if option.get("enum") != [""]}
        composite = kinds & {"object", "array"}
        for option in schema["anyOf"]:
            for one in wrong(option, path):
                nested = any(name != path for name, _ in one)
                if (option["type"] in composite or not composite) if nested else "string" not in kinds:
                    yield one
        return
    match schema["type"]:
        case "string":
            yield [(f"{path}[inside]", "1")]
            if "enum" in schema:
                yield [(path, "no_such_word")]
            elif "maxLength" in schema:
                yield [(path, "x" * (schema["maxLength"] + 1))]
        case "integer":
            yield from ([(path, text)] for text in ("10.5", "ten", "0x1F", "\N{ARABIC-INDIC DIGIT ONE}"))
        case "number" | "boolean":
            yield [(path, "perhaps")]
        case "array":
            yield [(path, "no_list")]
            yield from wrong(schema["items"], f"{path}[0]")
        case "object":
            yield [(path, "no_hash")]
            members = schema.get("properties")
            if members is None:
                yield [(f"{path}[some_key][deeper]", "value")]
                return
            yield [(f"{path}[no_such_member]", "1")]
            for name, inner in members.items():
                yield from wrong(inner, f"{path}[{name}]")
            for name in schema.get("required", ()):
                for other in [n for n in members if n != name][:1]:
                    yield next(accepted(members[other], f"{path}[{other}]"))


def called(operation: str, sent: Pairs) -> Pairs:
    """Add what the operation needs besides, so that nothing else is refused."""
    schema = openapi.parameters(operation)
    names = {name.partition("[")[0] for name, _ in sent}
    rest = [
        pair
        for name in schema["required"]
        if name not in names
        for pair in next(accepted(schema["properties"][name], name))
    ]
    return [*rest, *sent]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_parameter_of_the_file_is_taken(operation: str) -> None:
    for name, schema in openapi.parameters(operation)["properties"].items():
        for sample in accepted(schema, name):
            sent = called(operation, sample)
            assert openapi.request_problems(operation, sent) == [], f"{sent} is not valid by the file"
            try:
                checked(ROUTES[operation].parameters, pairs(urlencode(sent)))
            except StripeError as error:
                pytest.fail(f"{operation} refuses {sent}: {error.error}")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_the_file_does_not_allow_is_refused(operation: str) -> None:
    for name, schema in openapi.parameters(operation)["properties"].items():
        if name in LATER and "enum" in schema:
            continue
        for sample in wrong(schema, name):
            sent = called(operation, sample)
            assert openapi.request_problems(operation, sent), f"{sent} is valid by the file"
            with pytest.raises(StripeError) as caught:
                checked(ROUTES[operation].parameters, pairs(urlencode(sent)))
            assert caught.value.status == 400, sent
            assert not caught.value.stored, "a parameter's refusal comes before execution"
            assert caught.value.error["param"].partition("[")[0] == name, (sent, caught.value.error)


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if openapi.parameters(o)["required"]])
def test_what_the_file_requires_must_be_sent(operation: str) -> None:
    for name in openapi.parameters(operation)["required"]:
        sent = [pair for pair in called(operation, []) if pair[0].partition("[")[0] != name]
        assert openapi.request_problems(operation, sent)
        with pytest.raises(StripeError) as caught:
            checked(ROUTES[operation].parameters, pairs(urlencode(sent)))
        assert (caught.value.code, caught.value.error["param"]) == ("parameter_missing", name)


def test_paths_have_the_files_parameters() -> None:
    for operation, found in openapi.operations().items():
        declared = {given["name"] for given in found.get("parameters", []) if given["in"] == "path"}
        path = operation.split(" ")[1]
        filled = path
        for name in declared:
            filled = filled.replace(f"{{{name}}}", "x")
        assert "{" not in filled
        assert api.matched(operation.split(" ")[0], filled)[0].operation == operation
