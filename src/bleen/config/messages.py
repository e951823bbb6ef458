"""What the schema refused, in sentences: the value, what it is not, and what is allowed. Secrets are never shown."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bleen.config.document import KeyPath, Problem
from bleen.config.schema import Config
from bleen.config.secrets import masked
from bleen.config.shape import adapter_types, description_of, known_keys, places_of

_WIDEST = 60
# The schema's word for a wrong type -> what the value is not, and what is allowed.
_KINDS = {
    "bool_type": ("true or false", "true or false, without quotes"),
    "int_type": ("a whole number", "a whole number, without quotes"),
    "int_from_float": ("a whole number", "a whole number, without quotes"),
    "float_type": ("a number", "a number, as in 0.01, without quotes"),
    "string_type": ("text", "text; a number or a word such as yes or no becomes text in quotes"),
    "list_type": ("a list", "a list, as in [first, second]"),
    "dict_type": ("a mapping", "names with values, as in NAME: value"),
}
_NO_SECTION = frozenset({"model_type", "model_attributes_type", "dict_attributes_type", "union_tag_not_found"})


def problems_of(error: ValidationError, data: Mapping[str, Any]) -> list[Problem]:
    """One problem for each thing that the schema refused in `data`."""
    return [_problem(detail, data) for detail in error.errors(include_url=False)]


def shown(path: KeyPath, value: Any) -> str:
    """A value as it may stand in a message: masked and shortened."""
    text = json.dumps(masked(path, value), ensure_ascii=False, default=str)
    text = text.encode("utf-8", "backslashreplace").decode()  # a variable can hold bytes that no terminal takes
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _problem(detail: ErrorDetails, data: Mapping[str, Any]) -> Problem:
    path = _path(detail["loc"])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(path, data))
    if kind == "missing":
        return Problem(path, f"this key is missing; it means: {description_of(path, data)}")
    if kind == "misfit":
        return Problem(path, f"{shown(path, value)} is not {context['kind']}; allowed: {context['allowed']}")
    if kind in _KINDS:
        noun, allowed = _KINDS[kind]
        return Problem(path, f"{shown(path, value)} is not {noun}; allowed: {allowed}")
    if kind in _NO_SECTION and not isinstance(value, Mapping):
        known = known_keys(path, data) or ["type"]
        return Problem(path, f"{shown(path, value)} is not a section; allowed: keys below it ({', '.join(known)}), or leave it out")
    if kind == "union_tag_not_found":
        return Problem((*path, "type"), f"this key is missing; known: {', '.join(adapter_types(str(path[0])))}")
    if kind == "union_tag_invalid":
        return Problem((*path, "type"), _unknown_type((*path, "type"), value["type"]))
    if kind == "literal_error" and path[-1] == "type":
        return Problem(path, _unknown_type(path, value))
    allowed = re.sub(r"^(?:Input should|Value should|List should) (?:be |have )", "", detail["msg"]).replace(" after validation", "")
    return Problem(path, f"{shown(path, value)} is not allowed; allowed: {allowed}")


def _path(location: tuple[int | str, ...]) -> KeyPath:
    """The location without what pydantic adds to it: the adapter's name below a section, a mark for a key."""
    path = tuple(part for part in location if part != "[key]")
    field = Config.model_fields.get(str(path[0])) if path else None
    return (path[0], *path[2:]) if field is not None and field.discriminator and len(path) > 1 else path


def _unknown_key(path: KeyPath, data: Mapping[str, Any]) -> str:
    key, known = str(path[-1]), known_keys(path[:-1], data)
    close = difflib.get_close_matches(key, known, n=1)
    elsewhere = places_of(key)
    meant = close[0] if close else elsewhere[0] if elsewhere else ""
    hint = f"; did you mean {meant}?" if meant else ""
    return f"this key is unknown; known here: {', '.join(known)}{hint}"


def _unknown_type(path: KeyPath, value: Any) -> str:
    known = adapter_types(str(path[0]))
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{shown(path, value)} is not an adapter that this version has; known: {', '.join(known)}{hint}"
