"""docs/configuration.md, made from the schema: `python -m bleen.config.reference > docs/configuration.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from bleen.config.document import dotted
from bleen.config.environment import VARIABLES, Kind
from bleen.config.fields import (
    DURATION_PATTERN,
    ENDPOINT_PATTERN,
    LISTEN_PATTERN,
    PATH_PATTERN,
    POSITIVE_DURATION_PATTERN,
    URL_PATTERN,
)
from bleen.config.reference_text import AFTER, BEFORE
from bleen.config.schema import json_schema

_BY_PATTERN = {
    DURATION_PATTERN: "duration, may be 0s",
    POSITIVE_DURATION_PATTERN: "duration",
    ENDPOINT_PATTERN: "endpoint",
    LISTEN_PATTERN: "address:port",
    PATH_PATTERN: "HTTP path",
    URL_PATTERN: "URL",
}
_BY_TYPE = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "object": "name: text"}
_HEADER = "| Key | Type | Default | Variable | Meaning |\n|---|---|---|---|---|"


def reference() -> str:
    """The whole document."""
    schema = json_schema()
    tables = "\n".join(_sections(schema, schema, ""))
    return f"{BEFORE}\n{tables}\n{_variables()}\n{AFTER}"


def _sections(schema: dict[str, Any], section: dict[str, Any], prefix: str) -> Iterator[str]:
    """The table of a section's own keys, then its inner sections, each under a heading of its own."""
    inner: list[tuple[str, dict[str, Any]]] = []
    rows = []
    for name, field in section["properties"].items():
        found = list(_inner(schema, field))
        if found:
            inner += [(prefix + name, options) for options in found]
        else:
            rows.append(_row(prefix + name, field, required=name in section.get("required", ())))
    heading = prefix.rstrip(".") or "bleen.yaml"
    kind = section["properties"].get("type", {}).get("const")
    if rows:
        yield f"## {heading}{f', type {kind}' if kind else ''}\n\n{section['description']}\n\n{_HEADER}\n" + "\n".join(rows) + "\n"
    if prefix == "checks.":  # five keys, one form
        yield f"## checks\n\n{section['description']}\n\n| Key | Meaning |\n|---|---|"
        for name, field in section["properties"].items():
            yield f"| `checks.{name}` | {field['description']} |"
        yield ""
        inner = [("checks.*", inner[0][1])]
    for name, options in inner:
        yield from _sections(schema, options, f"{name}.")


def _inner(schema: dict[str, Any], field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for option in [field, *field.get("oneOf", ()), *field.get("anyOf", ())]:
        if "$ref" in option:
            yield schema["$defs"][option["$ref"].rsplit("/", 1)[1]]


def _row(key: str, field: dict[str, Any], *, required: bool) -> str:
    default = "required" if required else f"`{json.dumps(field['default'])}`" if field["default"] is not None else "none"
    names = ", ".join(f"`{variable.name}`" for variable in VARIABLES if _matches(dotted(variable.path), key))
    cells = (f"`{key}`", _type(field), default, names, field["description"])
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _matches(path: str, key: str) -> bool:
    return path == key or (key.startswith("checks.*.") and path.startswith("checks.") and path.endswith(key.removeprefix("checks.*")))


def _type(field: dict[str, Any]) -> str:
    field = next((option for option in field.get("anyOf", ()) if option["type"] != "null"), field)
    if "const" in field:
        return f"`{field['const']}`"
    if field["type"] == "array":
        inner = _type(field["items"])
        return "argument list" if inner == "text" else f"list, each: {inner}"
    bounds = [
        f"{word} {field[name]}"
        for name, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
        if name in field
    ]
    return " ".join([_BY_PATTERN.get(field.get("pattern", ""), _BY_TYPE[field["type"]]), *bounds])


def _variables() -> str:
    rows = [f"| `{variable.name}` | `{dotted(variable.path)}` | {_WRITTEN[variable.kind]} |" for variable in VARIABLES]
    return "## Environment variables\n\n| Variable | Key | Written as |\n|---|---|---|\n" + "\n".join(rows) + "\n"


_WRITTEN = {kind: kind.value for kind in Kind} | {Kind.TEXT: "as in bleen.yaml"}


if __name__ == "__main__":
    sys.stdout.write(reference())
