"""Cut Stripe's OpenAPI file down to what the simulator needs at run time: `src/stripesim/shapes.json`.

Run `python -m tests.contract.shapes` after a new version of the file; a test fails while the two disagree.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OPENAPI = HERE / "stripe" / "openapi.core.json"
SHAPES = HERE.parents[1] / "src" / "stripesim" / "shapes.json"

Schema = dict[str, Any]


def parameter(schema: Schema) -> Any:  # one return for each kind of parameter
    """Compact one parameter's schema: a word for a scalar, a mapping for the rest (read by `stripesim.params`)."""
    if "anyOf" in schema:
        options = [s for s in schema["anyOf"] if s.get("enum") != [""]]
        unset = len(options) < len(schema["anyOf"])
        compact = parameter(options[0]) if len(options) == 1 else {"any": [parameter(s) for s in options]}
        if unset:
            compact = {"is": compact} if isinstance(compact, str) else compact
            compact["unset"] = True
        return compact
    kind = schema["type"]
    if kind == "object":
        if "properties" in schema:
            return {"hash": members(schema)}
        return {"map": "str"}
    if kind == "array":
        return {"list": parameter(schema.get("items", {"type": "string"}))}
    if "enum" in schema:
        return {"enum": schema["enum"]}
    if kind == "string" and schema.get("maxLength", 5000) != 5000:
        return {"is": "str", "max": schema["maxLength"]}
    return {"integer": "int", "number": "num", "boolean": "bool", "string": "str"}[kind]


def members(schema: Schema) -> dict[str, Any]:
    """Compact the members of a hash; a required one is marked."""
    out = {}
    for name, inner in sorted(schema.get("properties", {}).items()):
        out[name] = parameter(inner)
        if name in schema.get("required", ()):
            out[name] = {"is": out[name]} if isinstance(out[name], str) else out[name]
            out[name]["required"] = True
    return out


def operations(spec: Schema) -> dict[str, Any]:
    """Tell the parameters of each operation, query and body together, without those in its path."""
    out = {}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            schema: Schema = {"properties": {}, "required": []}
            for given in operation.get("parameters", []):
                if given["in"] == "query":
                    schema["properties"][given["name"]] = given["schema"]
                    schema["required"] += [given["name"]] * bool(given.get("required"))
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schema["properties"] |= content["schema"].get("properties", {})
                schema["required"] += content["schema"].get("required", [])
            out[f"{method.upper()} {path}"] = members(schema)
    return out


def expandable(schemas: Schema, schema: Schema, seen: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Tell a schema's expandable fields, by dotted path, and the kinds of object that each may name."""
    out: dict[str, list[str]] = {}
    for name, inner in schema.get("properties", {}).items():
        for option in [inner, *inner.get("anyOf", [])]:
            if "x-expandableTo" in option:
                out[name] = [kind for kind in option["x-expandableTo"] if not kind.startswith("deleted_")]
            elif option.get("$ref"):
                target = option["$ref"].rsplit("/", 1)[1]
                if target not in seen and not schemas[target].get("x-resourceId"):
                    deeper = expandable(schemas, schemas[target], (*seen, target))
                    out |= {f"{name}.{key}": kinds for key, kinds in deeper.items()}
    return out


def shapes() -> str:
    """Write out the whole file, one operation or object a line."""
    spec = json.loads(OPENAPI.read_text())
    schemas = spec["components"]["schemas"]
    fields = {name: expandable(schemas, schema) for name, schema in schemas.items() if schema.get("x-resourceId")}
    lines = [f'{{"version":{json.dumps(spec["info"]["version"])},"operations":{{']
    lines += [
        ",\n".join(f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in operations(spec).items())
    ]
    lines += ['},"expandable":{']
    lines += [",\n".join(f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in fields.items() if v)]
    return "\n".join([*lines, "}}"]) + "\n"


if __name__ == "__main__":
    SHAPES.write_text(shapes())
