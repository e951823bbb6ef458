"""The first bleen.yaml of a service: what must be given, and every default as a comment beside what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from bleen.config.document import KeyPath, dotted
from bleen.config.fields import Strict, format_duration
from bleen.config.locate import SERVICE_PATTERN
from bleen.config.schema import Config
from bleen.config.shape import sections_of
from bleen.errors import ConfigurationError, Refused

_HEAD = """\
# yaml-language-server: $schema=bleen.schema.json
# How {service} is deployed blue-green.
# A line such as #state: .bleen shows a default or an example: take the # away (and that of its section) and change it.
# Durations have a unit: 500ms, 30s, 5m, 1h30m. `bleen check` says what is wrong, `bleen config` what holds and where it comes from.
"""
_COLUMN = 44  # where the meaning of a key begins
_GIVEN: dict[str, Any] = {
    "environments.blue.endpoints": ["http://127.0.0.1:9001"],
    "environments.green.endpoints": ["http://127.0.0.1:9002"],
    "runtime.type": "process",
    "runtime.command": ["python", "app.py", "--host", "{host}", "--port", "{port}"],
}
# Where the default is nothing, an example says more.
_EXAMPLES: dict[str, Any] = {
    "environments.blue.health_url": "http://127.0.0.1:9001/api/v1/health",
    "environments.green.health_url": "http://127.0.0.1:9002/api/v1/health",
    "runtime.variables": {"DATABASE_URL": "env:DATABASE_URL"},
    "checks.pre_deployment_tests": {"command": ["pytest", "tests"]},
    "checks.database_migration": {"command": ["alembic", "upgrade", "head"]},
    "checks.post_deployment_tests": {"command": ["pytest", "tests/smoke", "--base-url", "{base_url}"]},
    "checks.cache_warming": {"command": ["python", "warm.py", "{base_url}"]},
    "checks.load_test": {"command": ["python", "load.py", "{base_url}"]},
}


def starter(service: str) -> str:
    """A valid bleen.yaml for a service that runs as plain processes on this machine."""
    if not re.fullmatch(SERVICE_PATTERN, service):
        raise ConfigurationError(
            f"service: {service[:60]!r} is no name of a service; allowed: lower case letters, digits and -, at most 39"
        )
    given = {"service": service} | _GIVEN
    return _HEAD.format(service=service) + "\n" + "\n".join(_lines(Config, (), given)).rstrip() + "\n"


def write_starter(path: Path, service: str, *, force: bool = False) -> None:
    """The starter is at `path`; raises Refused when something is there already, unless `force`."""
    text = starter(service)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise Refused(f"{path} exists already; it was not touched", next_command="bleen check") from error
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", next_command="bleen init") from error


def _lines(model: type[Strict], path: KeyPath, given: dict[str, Any]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        key, indent = dotted(here), "  " * len(path)
        inner = sections_of(field)
        if inner and key not in _EXAMPLES:
            live = any(other.startswith(f"{key}.") for other in given)
            if not path:
                yield f"\n# {field.description}"
            yield f"{'' if live else '#'}{indent}{name}:"
            yield from _lines(inner[0], here, given)
            continue
        default = field.get_default(call_default_factory=True)
        value = given.get(key, _EXAMPLES.get(key, default))
        line = f"{'' if key in given else '#'}{indent}{name}: {_written(value)}"
        if len(line) > _COLUMN:
            yield f"# {field.description}"
            yield line
        else:
            yield f"{line:<{_COLUMN}}  # {field.description}"


def _written(value: Any) -> str:
    """A value as YAML on one line."""
    plain = format_duration(value) if isinstance(value, timedelta) else value
    if isinstance(plain, str) and plain and yaml.safe_load(plain) == plain:
        return plain
    return json.dumps(plain)
