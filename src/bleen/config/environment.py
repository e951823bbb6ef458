"""The environment variables that override bleen.yaml, under exactly these names."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bleen.config.document import KeyPath, Problem, dotted, is_text
from bleen.config.messages import shown

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class Kind(Enum):
    """How a variable is written; the value says what is allowed."""

    SWITCH = "true or false, 1 or 0, yes or no, on or off"
    MILLISECONDS = "a whole number of milliseconds above 0, as in 1800000"
    TEXT = "text"
    ARGUMENTS = 'a program and its arguments, as in "nginx -s reload"; never run by a shell'


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable and the key that it overrides."""

    name: str
    path: KeyPath
    kind: Kind


VARIABLES = (
    Variable("ENABLE_BLUE_GREEN_DEPLOYMENT", ("deployment", "enabled"), Kind.SWITCH),
    Variable("DEPLOYMENT_TIMEOUT", ("deployment", "timeout"), Kind.MILLISECONDS),
    Variable("HEALTH_CHECK_TIMEOUT", ("health", "timeout"), Kind.MILLISECONDS),
    Variable("ROLLBACK_TIMEOUT", ("deployment", "rollback_timeout"), Kind.MILLISECONDS),
    Variable("ENABLE_AUTO_ROLLBACK", ("deployment", "auto_rollback"), Kind.SWITCH),
    Variable("ENABLE_GRADUAL_TRAFFIC_SWITCH", ("deployment", "gradual"), Kind.SWITCH),
    Variable("ENABLE_PRE_DEPLOYMENT_TESTS", ("checks", "pre_deployment_tests", "enabled"), Kind.SWITCH),
    Variable("ENABLE_POST_DEPLOYMENT_TESTS", ("checks", "post_deployment_tests", "enabled"), Kind.SWITCH),
    Variable("ENABLE_DATABASE_MIGRATION", ("checks", "database_migration", "enabled"), Kind.SWITCH),
    Variable("ENABLE_CACHE_WARMING", ("checks", "cache_warming", "enabled"), Kind.SWITCH),
    Variable("ENABLE_LOAD_TESTING", ("checks", "load_test", "enabled"), Kind.SWITCH),
    Variable("LOAD_BALANCER_TYPE", ("traffic", "type"), Kind.TEXT),
    Variable("LOAD_BALANCER_CONFIG_PATH", ("traffic", "config_path"), Kind.TEXT),
    Variable("LOAD_BALANCER_RELOAD_COMMAND", ("traffic", "reload_command"), Kind.ARGUMENTS),
    Variable("BLUE_HEALTH_CHECK_URL", ("environments", "blue", "health_url"), Kind.TEXT),
    Variable("GREEN_HEALTH_CHECK_URL", ("environments", "green", "health_url"), Kind.TEXT),
)


@dataclass(slots=True)
class Overridden:
    """The data of bleen.yaml with the variables applied, and what each of them set."""

    data: dict[str, Any]
    variables: dict[KeyPath, str] = field(default_factory=dict)  # key path -> name of the variable
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def override(data: Mapping[str, Any], environ: Mapping[str, str]) -> Overridden:
    """The data with every variable that is set; `data` itself is left alone."""
    result = Overridden(copy.deepcopy(dict(data)))
    for variable in VARIABLES:
        if variable.name not in environ:
            continue
        text = environ[variable.name]
        if variable.path[0] == "checks" and not _is_configured(result.data, variable.path[:-1]):
            key = dotted(variable.path[:-1])
            result.warnings.append(f"env {variable.name}: it has no effect, {key} is not configured in bleen.yaml")
            continue
        result.variables[variable.path] = variable.name
        try:
            value = _read(variable.kind, text, shown(variable.path, text))
        except ValueError as error:
            result.problems.append(Problem(variable.path, str(error)))
            continue
        _put(result.data, variable.path, value)
    return result


def _read(kind: Kind, text: str, said: str) -> Any:
    if not text.strip():
        raise ValueError(f"the variable is set but empty; allowed: {kind.value}, or unset it")
    if not is_text(text):
        raise ValueError(f"{said} is not UTF-8; allowed: {kind.value}")
    if kind is Kind.SWITCH:
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise ValueError(f"{said} is not a switch; allowed: {kind.value}")
        return word in _TRUE
    if kind is Kind.MILLISECONDS:
        number = text.strip()
        if not (number.isascii() and number.isdecimal() and len(number) <= 15 and int(number) > 0):
            raise ValueError(f"{said} is not a number of milliseconds; allowed: {kind.value}")
        return f"{int(number)}ms"
    if kind is Kind.ARGUMENTS:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{said} cannot be split into arguments ({error}); allowed: {kind.value}") from error
    return text.strip()


def _is_configured(data: Any, path: KeyPath) -> bool:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return isinstance(data, Mapping)


def _put(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        inner = data.setdefault(str(part), {})
        if not isinstance(inner, dict):
            return  # the section is no section: that is reported where it stands
        data = inner
    data[str(path[-1])] = value
