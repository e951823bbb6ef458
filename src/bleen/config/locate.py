"""Where bleen.yaml is, and the two facts of it that `bleen status` needs. Light: neither pydantic nor the schema is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bleen.config.document import Problem, read_document, report
from bleen.errors import ConfigurationError

FILE_NAME = "bleen.yaml"
DEFAULT_STATE = ".bleen"
SERVICE_PATTERN = r"^[a-z][a-z0-9-]{0,38}$"


class Place(NamedTuple):
    """Which service a bleen.yaml describes and where its state lives (absolute)."""

    service: str
    state_dir: Path


def locate(path: Path) -> Place:
    """Service and state folder of a bleen.yaml; the rest of it is not looked at, so that a mistake there hides no status."""
    document = read_document(path)
    service, state = document.data.get("service"), document.data.get("state", DEFAULT_STATE)
    problems = []
    if not isinstance(service, str) or not re.fullmatch(SERVICE_PATTERN, service):
        problems.append(Problem(("service",), "a name of the service is missing; allowed: lower case letters, digits and -"))
    if not isinstance(state, str) or not state:
        problems.append(Problem(("state",), "the folder of the state is missing; allowed: a path, relative to bleen.yaml"))
    if problems or not isinstance(service, str) or not isinstance(state, str):
        raise report(path, document.lines, {}, problems)
    return Place(service, state_dir(path, state))


def state_dir(path: Path, state: str) -> Path:
    """The absolute folder of the state: relative to bleen.yaml, never to the working directory."""
    return (path.parent.resolve() / state).resolve()


def find_config(start: Path, environ: Mapping[str, str] = os.environ, named: Path | None = None) -> Path:
    """The absolute path of the bleen.yaml that a command means.

    `named` (the flag) wins over BLEEN_CONFIG, which wins over `start` and its parents. A file or its folder can be named.
    Raises ConfigurationError when there is none, and for one in a parent folder that another user owns: bleen runs the
    commands that stand in it.
    """
    if named is not None:
        return _named(named, "")
    if "BLEEN_CONFIG" in environ:
        return _named(Path(environ["BLEEN_CONFIG"]), "BLEEN_CONFIG names ")
    start = start.resolve()
    for folder in (start, *start.parents):
        candidate = folder / FILE_NAME
        if candidate.is_file():
            if folder != start:
                _refuse_strangers(candidate, environ)
            return candidate
    raise ConfigurationError(f"there is no {FILE_NAME} in {start} nor in a folder above it", next_command="bleen init")


def _named(path: Path, source: str) -> Path:
    found = path / FILE_NAME if path.is_dir() else path
    if not found.is_file():
        raise ConfigurationError(f"{source}{found}: there is no such file", next_command="bleen init")
    return found.parent.resolve() / found.name


def _refuse_strangers(path: Path, environ: Mapping[str, str]) -> None:
    trusted = {0, os.getuid()}
    if os.getuid() == 0 and environ.get("SUDO_UID", "").isdecimal():
        trusted.add(int(environ["SUDO_UID"]))
    owner = path.stat().st_uid
    if owner not in trusted:
        raise ConfigurationError(
            f"{path} was found in a folder above, and another user (uid {owner}) owns it",
            next_command=f"BLEEN_CONFIG={path} if you trust it",
        )
