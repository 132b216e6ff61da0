"""Holds answers against Stripe's OpenAPI file (`tests/contract/stripe/openapi.core.json`).

A schema of OpenAPI 3.0 is turned into JSON Schema: `nullable` becomes a second type, `$ref` points into one document, and
every object is closed, so that a member which Stripe does not have is found too. Where a call expands an id, the object it
names is accepted in its place. What a call sends is held against the file's parameters in the same way; the form encoding is
read here anew, so that the simulator's own reader is not its own judge.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

FILE = Path(__file__).parents[1] / "contract" / "stripe" / "openapi.core.json"
# What the real answers carry and the file does not declare (recorded.json).
UNDECLARED = {
    "charge": ("dispute", "destination", "order", "source"),
    "payment_method_details_card": ("electronic_commerce_indicator",),
    "payment_intent": ("source",),
    "dispute": ("balance_transaction", "intended_submission_method"),
    "api_errors": ("message_code",),
    "dispute_evidence_details": ("submission_method",),
}
LISTED = ("count", "total_count")
Schema = dict[str, Any]


@cache
def spec() -> Schema:
    """Read the file."""
    read: Schema = json.loads(FILE.read_text())
    return read


@cache
def operations() -> dict[str, Schema]:
    """Tell the operations by method and path template."""
    return {f"{m.upper()} {path}": operation for path, ms in spec()["paths"].items() for m, operation in ms.items()}


@cache
def _patterns() -> list[tuple[str, re.Pattern[str], str]]:
    found = [(o.split(" ")[0], o.split(" ")[1], o) for o in operations()]
    found.sort(key=lambda entry: entry[1].count("{"))
    return [(method, re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), name) for method, path, name in found]


@cache
def operation_of(method: str, path: str) -> str | None:
    """Find the operation of a call; literal segments win over parameters, and `search` is no id."""
    if path.endswith("/search") and f"{method} {path}" not in operations():
        return None
    return next((name for m, pattern, name in _patterns() if m == method and pattern.fullmatch(path)), None)


def converted(schema: Any, name: str = "") -> Any:
    """Turn an OpenAPI 3.0 schema into a closed JSON Schema."""
    if isinstance(schema, list):
        return [converted(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        out: Schema = {"$ref": "#/$defs/" + schema["$ref"].rsplit("/", 1)[1]}
    else:
        out = {k: schema[k] for k in ("type", "enum", "maxLength", "required", "pattern", "minimum") if k in schema}
        if "properties" in schema:
            out["properties"] = {key: converted(inner) for key, inner in schema["properties"].items()}
            extra = UNDECLARED.get(name, ()) + (LISTED if "has_more" in schema["properties"] else ())
            out["properties"] |= {key: {} for key in extra if key not in out["properties"]}
            out.setdefault("additionalProperties", False)
        if isinstance(schema.get("additionalProperties"), dict):
            out["additionalProperties"] = converted(schema["additionalProperties"])
        if "items" in schema:
            out["items"] = converted(schema["items"])
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                out["anyOf" if word == "oneOf" else word] = converted(schema[word])
    if "x-expandableTo" in schema:
        out = {"anyOf": [out, *(_expanded(kind) for kind in schema["x-expandableTo"])]}
    return {"anyOf": [out, {"type": "null"}]} if schema.get("nullable") else out


def _expanded(kind: str) -> Schema:
    """Tell what an expanded object looks like; of a kind that the file leaves out, only that it is one."""
    if kind in _names():
        return {"$ref": f"#/$defs/{kind}"}
    is_one = {"object": {"const": kind.removeprefix("deleted_")}, "id": {"type": "string"}}
    return {"type": "object", "properties": is_one, "required": list(is_one)}


@cache
def _names() -> frozenset[str]:
    return frozenset(spec()["components"]["schemas"])


@cache
def _definitions() -> Schema:
    return {name: converted(schema, name) for name, schema in spec()["components"]["schemas"].items()}


def _references(schema: Any) -> frozenset[str]:
    return frozenset(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)))


@cache
def _named(name: str) -> frozenset[str]:
    return _references(_definitions()[name])


def _reachable(schema: Schema) -> Schema:
    """Take only the definitions that a schema needs: compiling all 590 for each would be slow."""
    needed: dict[str, Any] = {}
    todo = [_references(schema)]
    while todo:
        for name in todo.pop() - needed.keys():
            needed[name] = _definitions()[name]
            todo.append(_named(name))
    return {**schema, "$defs": needed}


@cache
def validator(operation: str, *, ok: bool) -> Any:
    """Compile what an operation may answer."""
    answers = operations()[operation]["responses"]
    schema = next(iter(answers["200" if ok else "default"]["content"].values()))["schema"]
    return _compiled(json.dumps(schema))


@cache
def _compiled(schema: str) -> Any:
    """Compile a schema once, however many operations answer with it."""
    return jsonschema_rs.Draft202012Validator(_reachable(converted(json.loads(schema))))


@cache
def object_validator(name: str) -> Any:
    """Compile what an object of a kind looks like, for routes that the file does not have."""
    return jsonschema_rs.Draft202012Validator(_reachable({"$ref": f"#/$defs/{name}"}))


def problems(method: str, path: str, status: int, body: Any) -> list[str]:
    """Tell where an answer differs from the file, at most a few places."""
    ok = 200 <= status < 300
    name = operation_of(method, path)
    if name is not None:
        judge = validator(name, ok=ok)
    elif not ok:
        judge = validator("GET /v1/charges", ok=False)
    elif isinstance(body, dict) and body.get("object") in {"list", "search_result"}:
        judge = _envelope(body["object"], tuple(sorted({str(one.get("object")) for one in body.get("data", [])})))
    elif isinstance(body, dict) and body.get("object") in _names():
        judge = object_validator(f"deleted_{body['object']}" if body.get("deleted") else body["object"])
    else:
        return []
    return [line for error in list(judge.iter_errors(body))[:5] for line in _told(error)]


@cache
def _envelope(kind: str, kinds: tuple[str, ...]) -> Any:
    """Compile a list or a search's result of objects, for routes that the file does not have."""
    known: list[Schema] = [{"$ref": f"#/$defs/{name}"} for name in kinds if name in _names()]
    extra: Schema = {"next_page": {"type": ["string", "null"]}} if kind == "search_result" else {}
    properties = {
        "object": {"const": kind},
        "data": {"type": "array", "items": {"anyOf": known} if len(known) == len(kinds) and known else {}},
        "has_more": {"type": "boolean"},
        "url": {"type": "string", "pattern": "^/v1/"},
        "total_count": {"type": "integer"},
        **extra,
    }
    required = ["object", "data", "has_more", "url", *extra]
    shape = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return jsonschema_rs.Draft202012Validator(_reachable(shape))


def _told(error: Any) -> list[str]:
    """Tell an error; of alternatives, what is wrong with the one that comes closest."""
    context = getattr(error.kind, "context", None)
    if context:
        closest = max((branch for branch in context if branch), key=lambda b: max(len(e.instance_path) for e in b))
        return [line for inner in closest[:3] for line in _told(inner)]
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}"]


def check(method: str, path: str, status: int, body: Any) -> None:
    """Fail when an answer does not validate.

    Raises:
        AssertionError: Where it differs.
    """
    found = problems(method, path, status, body)
    if found:
        raise AssertionError(f"{method} {path} ({status}) is not what Stripe's file says:\n  " + "\n  ".join(found))


# What a call sends

Pairs = list[tuple[str, str]]


@cache
def parameters(operation: str) -> Schema:
    """Tell the parameters of an operation as one closed schema: its query and its body, without those in its path."""
    found = operations()[operation]
    merged: Schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for given in found.get("parameters", []):
        if given["in"] == "query":
            merged["properties"][given["name"]] = given["schema"]
            merged["required"] += [given["name"]] * bool(given.get("required"))
    for content in found.get("requestBody", {}).get("content", {}).values():
        merged["properties"] |= content["schema"].get("properties", {})
        merged["required"] += content["schema"].get("required", [])
    return merged


@cache
def _parameters_validator(operation: str) -> Any:
    schema = parameters(operation)
    closed = {name: converted(inner) for name, inner in schema["properties"].items()}
    return jsonschema_rs.Draft202012Validator(_reachable(schema | {"properties": closed}))


def read(flat: Pairs) -> Schema:
    """Read form encoding into nested mappings of texts: `a[b][0]=c` is `{"a": {"b": {"0": "c"}}}`."""
    tree: Schema = {}
    for name, value in flat:
        head, *rest = re.split(r"\]?\[", name.removesuffix("]"))
        node = tree
        for key, following in zip([head, *rest], [*rest, None], strict=True):
            key_or_place = key or str(len(node))
            if following is None:
                node[key_or_place] = value
            else:
                node = node.setdefault(key_or_place, {})
    return tree


def typed(schema: Schema, given: Any) -> Any:
    """Give texts the types that a schema asks for; what does not fit stays a text, for the validator to find."""
    if "anyOf" in schema:
        tries = [typed(option, given) for option in schema["anyOf"]]
        fits = (
            one
            for option, one in zip(schema["anyOf"], tries, strict=True)
            if jsonschema_rs.is_valid(_reachable(converted(option)), one)
        )
        return next(fits, given)
    kind = schema.get("type")
    if isinstance(given, str):
        if kind == "integer" and re.fullmatch(r"-?[0-9]+", given):
            return int(given)
        if kind == "number" and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", given):
            return float(given)
        if kind == "boolean" and given in {"true", "false"}:
            return given == "true"
        return given
    if kind == "array" and all(key.isdigit() for key in given):
        return [typed(schema.get("items", {}), given[key]) for key in sorted(given, key=int)]
    if kind == "object":
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        return {key: typed(known.get(key, rest or {}), inner) for key, inner in given.items()}
    return given


def request_problems(operation: str, flat: Pairs) -> list[str]:
    """Tell where the parameters of a call differ from the file, at most a few places."""
    sent = typed(parameters(operation), read(flat))
    found = list(_parameters_validator(operation).iter_errors(sent))[:5]
    return [line for error in found for line in _told(error)]


def check_request(method: str, path: str, flat: Pairs) -> None:
    """Fail when a call that was answered with a 2xx sent what the file does not have.

    Raises:
        AssertionError: Where it differs.
    """
    operation = operation_of(method, path)
    found = request_problems(operation, flat) if operation else []
    if found:
        raise AssertionError(f"{method} {path} took what Stripe's file does not have:\n  " + "\n  ".join(found))
