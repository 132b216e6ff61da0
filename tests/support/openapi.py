"""Holds answers against Stripe's OpenAPI file (`tests/contract/stripe/openapi.core.json`).

A schema of OpenAPI 3.0 is turned into JSON Schema: `nullable` becomes a second type, `$ref` points into one document, and
every object is closed, so that a member which Stripe does not have is found too. Where a call expands an id, the object it
names is accepted in its place.
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
    """Find the operation of a call; literal segments win over parameters."""
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
        out = {"anyOf": [out, *({"$ref": f"#/$defs/{kind}"} for kind in schema["x-expandableTo"] if kind in _names())]}
    return {"anyOf": [out, {"type": "null"}]} if schema.get("nullable") else out


@cache
def _names() -> frozenset[str]:
    return frozenset(spec()["components"]["schemas"])


@cache
def _definitions() -> Schema:
    return {name: converted(schema, name) for name, schema in spec()["components"]["schemas"].items()}


def _reachable(schema: Schema) -> Schema:
    """Take only the definitions that a schema needs: compiling all 590 for each would be slow."""
    needed: dict[str, Any] = {}
    todo = [schema]
    while todo:
        for name in set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(todo.pop()))) - needed.keys():
            needed[name] = _definitions()[name]
            todo.append(needed[name])
    return {**schema, "$defs": needed}


@cache
def validator(operation: str, *, ok: bool) -> Any:
    """Compile what an operation may answer."""
    answers = operations()[operation]["responses"]
    schema = next(iter(answers["200" if ok else "default"]["content"].values()))["schema"]
    return jsonschema_rs.Draft202012Validator(_reachable(converted(schema)))


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
    elif isinstance(body, dict) and body.get("object") in _names():
        judge = object_validator(body["object"])
    else:
        return []
    return [line for error in list(judge.iter_errors(body))[:5] for line in _told(error)]


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
