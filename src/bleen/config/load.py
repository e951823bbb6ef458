"""bleen.yaml and the environment become one checked configuration, or one error that lists everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from bleen.config.document import Document, KeyPath, Problem, dotted, placed, read_document, report
from bleen.config.environment import override
from bleen.config.locate import DEFAULT_STATE, state_dir
from bleen.config.messages import problems_of
from bleen.config.mounts import MOUNTS, network_file_system
from bleen.config.rules import rule_problems
from bleen.config.schema import Config
from bleen.config.secrets import secrets_in_plain_text
from bleen.config.shape import leaves


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds, and where each part of it comes from."""

    config: Config
    path: Path  # absolute, of bleen.yaml
    state_dir: Path  # absolute
    origins: dict[str, str]  # dotted key path -> "default", "bleen.yaml:12" or "env DEPLOYMENT_TIMEOUT"
    warnings: tuple[str, ...]


def load(path: Path, environ: Mapping[str, str], *, mounts: Path = MOUNTS) -> Loaded:
    """The configuration of one service, overridden by the environment and checked as a whole.

    Raises ConfigurationError with every problem at once, each with its line or variable, key, value and what is allowed.
    """
    document = read_document(path)
    overridden = override(document.data, environ)
    set_by_variable = {problem.path for problem in overridden.problems}
    config, sections, refused = _validate(overridden.data)
    problems = [*document.problems, *overridden.problems, *(problem for problem in refused if problem.path not in set_by_variable)]
    problems += rule_problems(sections)
    problems += _state_problems(path, overridden.data, mounts)
    if config is None or problems:
        raise report(path, document.lines, overridden.variables, problems)
    plain = secrets_in_plain_text(config.runtime.variables)
    warnings = [placed(path.name, document.lines, overridden.variables, problem)[1] for problem in plain]
    return Loaded(
        config=config,
        path=path.parent.resolve() / path.name,
        state_dir=state_dir(path, config.state),
        origins=_origins(config, path.name, document, overridden.variables),
        warnings=(*overridden.warnings, *warnings),
    )


def _validate(data: Mapping[str, Any]) -> tuple[Config | None, dict[str, Any], list[Problem]]:
    """The configuration if it is valid, the top-level sections that are, and what the schema refused."""
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        broken = {str(detail["loc"][0]) for detail in error.errors()}
        return None, _valid_sections(data, broken), problems_of(error, data)
    return config, {name: getattr(config, name) for name in Config.model_fields}, []


def _valid_sections(data: Mapping[str, Any], broken: set[str]) -> dict[str, Any]:
    """The sections without a mistake of their own, so that the rules across keys speak in the same round."""
    sections = {}
    for name, field in Config.model_fields.items():
        if name in broken:
            continue
        annotated: Any = Annotated[field.annotation, field]
        sections[name] = (
            TypeAdapter(annotated).validate_python(data[name]) if name in data else field.get_default(call_default_factory=True)
        )
    return sections


def _state_problems(path: Path, data: Mapping[str, Any], mounts: Path) -> list[Problem]:
    state = data.get("state", DEFAULT_STATE)
    if not isinstance(state, str):
        return []  # reported by the schema
    folder = state_dir(path, state)
    kind = network_file_system(folder, mounts)
    if not kind:
        return []
    return [
        Problem(("state",), f"{folder} is on a network file system ({kind}), where locks do not hold; allowed: a folder on a local disk")
    ]


def _origins(config: Config, name: str, document: Document, variables: Mapping[KeyPath, str]) -> dict[str, str]:
    origins = {}
    for leaf in leaves(config):
        if leaf.path in variables:
            origin = f"env {variables[leaf.path]}"
        elif leaf.path in document.lines:
            origin = f"{name}:{document.lines[leaf.path]}"
        else:
            origin = "default"
        origins[dotted(leaf.path)] = origin
    return origins
