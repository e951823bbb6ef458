"""The configuration's keys as a tree: walked for the effective configuration, for error messages, the starter and the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from bleen.config.document import KeyPath, dotted
from bleen.config.fields import Strict
from bleen.config.schema import Config


@dataclass(frozen=True, slots=True)
class Leaf:
    """One key without keys below it, and its value as JSON-able data."""

    path: KeyPath
    value: Any


def leaves(config: Config) -> Iterator[Leaf]:
    """Every key of a configuration in the order of the schema; a list is one value, a variable has a key of its own."""
    return _leaves(config.model_dump(mode="json"), ())


def sections_of(field: FieldInfo) -> tuple[type[Strict], ...]:
    """The models that may stand at a key: none for a plain value, several where `type` tells adapters apart."""
    return tuple(_models(field.annotation))


def known_keys(path: KeyPath, data: Mapping[str, Any]) -> list[str]:
    """The keys that the section at `path` may have, given what `data` says of its `type`; none when it is no section."""
    return [name for model in _models_at(path, data) for name in model.model_fields]


def description_of(path: KeyPath, data: Mapping[str, Any]) -> str:
    """What a key means, in the words of the schema."""
    fields = [model.model_fields[str(path[-1])] for model in _models_at(path[:-1], data)]
    return next((field.description or "" for field in fields), "")


def all_sections(model: type[Strict] = Config, path: KeyPath = ()) -> Iterator[tuple[KeyPath, type[Strict]]]:
    """Every section with its model, from the top down; each adapter of a section is a pair of its own."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner in sections_of(field):
            yield from all_sections(inner, (*path, name))


def adapter_types(name: str) -> list[str]:
    """The known values of `type` in a top-level section that has adapters, as in runtime; else none."""
    known: list[str] = []
    for model in sections_of(Config.model_fields[name]):
        if "type" in model.model_fields:
            known += get_args(model.model_fields["type"].annotation)
    return known


def places_of(key: str) -> list[str]:
    """Where a key of that name is allowed, as dotted paths."""
    return [dotted((*path, key)) for path, model in all_sections() if key in model.model_fields]


def _models_at(path: KeyPath, data: Mapping[str, Any]) -> tuple[type[Strict], ...]:
    models: tuple[type[Strict], ...] = (Config,)
    here: Any = data
    for part in path:
        fields = [model.model_fields[str(part)] for model in models if part in model.model_fields]
        here = here.get(part) if isinstance(here, Mapping) else None
        models = sections_of(fields[0]) if fields else ()
        kind = here.get("type") if isinstance(here, Mapping) else None
        if len(models) > 1:
            models = tuple(model for model in models if kind in get_args(model.model_fields["type"].annotation))
    return models


def _leaves(value: Any, path: KeyPath) -> Iterator[Leaf]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield Leaf(path, value)


def _models(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _models(argument)
