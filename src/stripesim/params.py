"""Form encoding with nesting and arrays, and the check of parameters against `shapes.json`.

A refusal here comes before execution begins, so it is never stored under an idempotency key (stripe-facts 2).
"""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from stripesim.errors import StripeError, refused

Pairs = list[tuple[str, str]]
Spec = Any
INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
KEY_MAX, KEYS_MAX, VALUE_MAX, TEXT_MAX = 40, 50, 500, 5000
DEPTH_MAX = 12
FIELDS_MAX = 2000
PATH = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
INNER = re.compile(r"\[([^\[\]]*)\]")
# Names of parameters come again and again: so many are kept read, and none that is longer than a sane one.
NAMES_KEPT, KEPT_MAX = 4096, 200


def pairs(raw: str) -> Pairs:
    """Split a query string or form body into names and values, in order.

    Raises:
        StripeError: 400, if the body is not form encoding in UTF-8.
    """
    if raw.count("&") >= FIELDS_MAX:
        raise _unreadable("Max number of fields exceeded")
    try:
        halves = [piece.partition("=") for piece in raw.split("&") if piece]
        return [
            (_kept_name(name) if len(name) <= KEPT_MAX else _plain(name), _plain(value)) for name, _, value in halves
        ]
    except ValueError as error:
        raise _unreadable(str(error)) from error


def _unreadable(why: str) -> StripeError:
    return refused(None, f"Invalid request: the body could not be read as form encoding ({why}).")


def _plain(text: str) -> str:
    text = text.replace("+", " ")
    return unquote(text, errors="strict") if "%" in text else text


_kept_name = lru_cache(NAMES_KEPT)(_plain)


def _steps(name: str) -> tuple[str, ...]:
    """Split `a[b][]` into its steps; none, if it is no such name."""
    match = PATH.fullmatch(name)
    return () if match is None or name.count("[") > DEPTH_MAX else (match[1], *INNER.findall(match[2]))


_kept_steps = lru_cache(NAMES_KEPT)(_steps)


def nest(flat: Pairs) -> dict[str, Any]:
    """Turn `a[b][0]=c` into `{"a": {"b": ["c"]}}`; lists come as `[]` or as `[0]`, `[1]` in any order."""
    tree: dict[str, Any] = {}
    for name, value in flat:
        if not (keys := _kept_steps(name) if len(name) <= KEPT_MAX else _steps(name)):
            raise refused(name, f"Received unknown parameter: {name}", "parameter_unknown")
        node = tree
        for at, key in enumerate(keys[:-1]):
            inner = node.setdefault(key or str(len(node)), {})
            if not isinstance(inner, dict):
                raise refused("".join([keys[0], *(f"[{k}]" for k in keys[1 : at + 1])]), "Invalid object")
            node = inner
        last = keys[-1] or str(len(node))
        if isinstance(node.get(last), dict):
            raise refused(name, "Invalid object")
        node[last] = value
    return tree


def checked(operation: Spec, flat: Pairs) -> dict[str, Any]:
    """Check and type the parameters of one call.

    Args:
        operation: The members' specs: `{"amount": "int", "metadata": {"map": "str"}}`.
        flat: The names and values as sent.

    Returns:
        Values by name: integers, booleans, strings, lists and mappings; an explicit empty value stays `""`.

    Raises:
        StripeError: 400 with the code and text of Stripe, naming the parameter in bracket form.
    """
    return _hash(operation, nest(flat), "")


def _hash(members: Spec, given: dict[str, Any], path: str) -> dict[str, Any]:
    def named(name: str) -> str:
        return f"{path}[{name}]" if path else name

    if unknown := [named(name) for name in given if name not in members]:
        text = "Received unknown parameter" + ("s" if len(unknown) > 1 else "") + ": " + ", ".join(unknown)
        raise refused(unknown[0], text, "parameter_unknown")
    out = {name: _value(members[name], given[name], named(name)) for name in given}
    for name, spec in members.items():
        if isinstance(spec, dict) and spec.get("required") and name not in given:
            raise refused(named(name), f"Missing required param: {named(name)}.", "parameter_missing")
    return out


def _value(spec: Spec, given: Any, path: str) -> Any:  # noqa: ANN401  # one return for each kind of parameter
    if isinstance(spec, str):
        return _scalar({"is": spec}, given, path)
    if given == "" and spec.get("unset"):
        return given
    if "hash" in spec:
        if not isinstance(given, dict):
            raise refused(path, "Invalid object")
        return _hash(spec["hash"], given, path)
    if "map" in spec:
        return _metadata(given, path)
    if "list" in spec:
        if not isinstance(given, dict):
            raise refused(path, "Invalid array")
        return [_value(spec["list"], item, f"{path}[{at}]") for at, item in enumerate(_items(given, path))]
    if "any" in spec:
        composite = isinstance(given, dict)
        for option in spec["any"]:
            if composite == (isinstance(option, dict) and bool(option.keys() & {"hash", "list", "map"})):
                return _value(option, given, path)
        raise refused(path, "Invalid object")
    return _scalar(spec, given, path)


def _items(given: dict[str, Any], path: str) -> list[Any]:
    if not all(INTEGER.fullmatch(key) for key in given):
        raise refused(path, "Invalid array")
    return [given[key] for key in sorted(given, key=int)]


def _scalar(spec: dict[str, Any], given: Any, path: str) -> Any:  # noqa: ANN401  # typed by the spec
    if isinstance(given, dict):
        raise refused(path, f"Invalid string: {{{', '.join(given)}}}")
    if given == "" and "" not in spec.get("enum", ()):
        raise refused(
            path,
            f"You passed an empty string for '{path}'. We assume empty values are an attempt to unset a parameter; "
            f"however '{path}' cannot be unset. You should remove '{path}' from your request or supply a non-empty "
            "value.",
            "parameter_invalid_empty",
        )
    if "enum" in spec:
        if given not in spec["enum"]:
            raise refused(path, f"Invalid {path}: must be one of {_listed(spec['enum'])}")
        return given
    match spec["is"]:
        case "int":
            return _integer(given, path, spec.get("min"))
        case "num":
            if not re.fullmatch(r"-?\d{1,12}(\.\d{1,12})?", given, re.ASCII):
                raise refused(path, f"Invalid decimal: {given}", "parameter_invalid_decimal")
            return given
        case "bool":
            if given not in {"true", "false"}:
                raise refused(path, f"Invalid boolean: {given}", "parameter_invalid_boolean")
            return given == "true"
        case _:
            limit = spec.get("max", TEXT_MAX)
            if len(given) > limit:
                raise refused(path, f"Invalid string: {given[:20]}...; must be at most {limit} characters")
            return given


def _integer(given: str, path: str, least: int | None) -> int:
    if not INTEGER.fullmatch(given):
        raise refused(path, f"Invalid integer: {given}", "parameter_invalid_integer")
    number = int(given)
    if least is not None and number < least:
        text = f"This value must be greater than or equal to {least}."
        raise refused(path, text, "parameter_invalid_integer")
    return number


def _listed(words: list[str]) -> str:
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + (", or " if len(words) > 2 else " or ") + words[-1]  # noqa: PLR2004


def _metadata(given: Any, path: str) -> dict[str, str]:  # noqa: ANN401  # whatever was sent
    if not isinstance(given, dict):
        raise refused(path, "Invalid object")
    for key, value in given.items():
        if isinstance(value, dict):
            raise refused(f"{path}[{key}]", f"Invalid string: {{{', '.join(value)}}}")
        if len(key) > KEY_MAX:
            text = f"Metadata keys can have up to {KEY_MAX} characters, but you passed in a key that is {len(key)} characters. Invalid key: {key}"
            raise refused(f"{path}[{key}]", text)
        if len(value) > VALUE_MAX:
            text = f"Metadata values can have up to {VALUE_MAX} characters, but you passed in a value that is {len(value)} characters. Invalid value: {value}"
            raise refused(f"{path}[{key}]", text)
    return given


def merged(metadata: dict[str, str], change: dict[str, str] | str | None) -> dict[str, str]:
    """Apply a change of metadata: an empty value unsets a key, an empty change clears all, `None` changes nothing.

    Raises:
        StripeError: 400, if more than 50 keys would be left.
    """
    if change is None:
        return metadata
    if isinstance(change, str):
        return {}
    after = {key: value for key, value in (metadata | change).items() if value != ""}
    if len(after) > KEYS_MAX:
        raise refused("metadata", f"You can only have up to {KEYS_MAX} metadata keys, but you would have {len(after)}.")
    return after
