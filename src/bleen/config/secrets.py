"""Secrets stay where they are: the configuration holds references, and what is shown of it is masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bleen.config.document import KeyPath, Problem
from bleen.config.fields import VARIABLE_PATTERN
from bleen.errors import ConfigurationError

MASK = "***"
_WORDS = r"PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|KEY|DSN|CREDENTIAL"
_SECRET_NAME = re.compile(_WORDS, re.IGNORECASE)
_NAMES_A_PLACE = re.compile(r"_(?:FILE|PATH|DIR)$", re.IGNORECASE)  # PASSWORD_FILE holds a path, no password
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")
_ASSIGNED = re.compile(rf"((?:{_WORDS})[\w-]*[\"']?\s*[=:\s]\s*[\"']?)([^\s\"'&,]+)", re.IGNORECASE)
_OPTION = re.compile(r"^--?[A-Za-z][\w-]*$")


def resolve(value: str, base: Path, environ: Mapping[str, str]) -> str:
    """What `env:NAME` or `file:PATH` refers to, and any other value as it is.

    `base` is the folder of bleen.yaml. One newline at the end of a file does not count. Raises ConfigurationError, which
    names the reference and never what it refers to.
    """
    kind, colon, target = value.partition(":")
    if not colon or kind not in ("env", "file"):
        return value
    if kind == "file":
        secret = _from_file(value, base / target)
    elif target in environ:
        secret = environ[target]
    else:
        raise ConfigurationError(f"{value}: the environment variable {target} is not set", next_command="bleen check")
    if "\0" in secret:
        raise ConfigurationError(f"{value}: it holds a NUL, which no environment variable can", next_command="bleen check")
    return secret


def is_reference(value: str) -> bool:
    """True for `env:NAME` and `file:PATH`."""
    kind, colon, target = value.partition(":")
    if kind == "env":
        return bool(re.fullmatch(VARIABLE_PATTERN, target))
    return kind == "file" and bool(colon and target)


def looks_secret(name: str) -> bool:
    """True for names as DB_PASSWORD, API_KEY, SENTRY_DSN; not for those that name a place, as PASSWORD_FILE."""
    return bool(_SECRET_NAME.search(name)) and not _NAMES_A_PLACE.search(name)


def masked(path: KeyPath, value: Any) -> Any:
    """The value of a key as it may be shown: references as they are, secrets as ***."""
    if isinstance(value, dict):
        return {name: masked((*path, name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [MASK if _follows_secret_option(value, index) else masked(path, item) for index, item in enumerate(value)]
    if isinstance(value, str) and is_reference(value):
        return value
    if "variables" in path and looks_secret(str(path[-1])):
        return MASK
    return masked_text(value) if isinstance(value, str) else value


def masked_text(text: str) -> str:
    """Text without passwords in addresses and without what follows a name such as --password or token=."""
    return _ASSIGNED.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1{MASK}\2", text))


def secrets_in_plain_text(variables: Mapping[str, str]) -> list[Problem]:
    """One warning for each variable of the release that looks like a secret and is no reference."""
    return [
        Problem(
            ("runtime", "variables", name),
            f"a secret in plain text; use a reference: env:{name} or file:PATH",
        )
        for name, value in variables.items()
        if not is_reference(value) and (looks_secret(name) or _URL_PASSWORD.search(value))
    ]


def _from_file(reference: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{reference}: {path} cannot be read: {error.strerror}", next_command="bleen check") from error
    except UnicodeDecodeError:
        # Not chained: that error carries the bytes of the secret.
        raise ConfigurationError(f"{reference}: {path} is not UTF-8", next_command="bleen check") from None
    return text.removesuffix("\n")


def _follows_secret_option(arguments: list[Any], index: int) -> bool:
    option = arguments[index - 1] if index else ""
    return isinstance(option, str) and bool(_OPTION.match(option)) and looks_secret(option)
