"""The kinds of values that a configuration is made of."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

DURATION_PATTERN = r"^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$"
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Strict(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=False)


def parse_duration(value: Any) -> timedelta:
    """A duration written as `500ms`, `30s`, `5m`, `1h30m`; raises ValueError otherwise."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise ValueError("a duration has a unit: 500ms, 30s, 5m, 2h or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value)
    return timedelta(seconds=sum(float(number) * _UNIT_S[unit] for number, unit in parts))


def format_duration(value: timedelta) -> str:
    """The shortest way to write a duration that `parse_duration` reads back."""
    milliseconds = round(value.total_seconds() * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    seconds = milliseconds // 1000
    if seconds and seconds % 86400 == 0:
        return f"{seconds // 86400}d"
    hours, minutes, rest = seconds // 3600, seconds % 3600 // 60, seconds % 60
    parts = [f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number]
    return "".join(parts) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["500ms", "30s", "5m", "1h30m"]}),
]


def _argv(value: list[str]) -> list[str]:
    if not value or not value[0]:
        raise ValueError("an argument list needs a program, as in [python, app.py]")
    for argument in value:
        if "\0" in argument:
            raise ValueError("an argument cannot hold a NUL")
    return value


Argv = Annotated[list[str], AfterValidator(_argv)]

LISTEN_PATTERN = r"^(?:\[[0-9A-Fa-f:]+\]|[0-9A-Za-z.-]+|\*):(\d{1,5})$"


def _listen(value: str) -> str:
    match = re.fullmatch(LISTEN_PATTERN, value)
    if not match or not 1 <= int(match.group(1)) <= 65535:
        raise ValueError("an address with a port from 1 to 65535, as in 127.0.0.1:8080")
    return value


ListenAddress = Annotated[str, AfterValidator(_listen), Field(json_schema_extra={"pattern": LISTEN_PATTERN})]

PATH_PATTERN = r"^/[A-Za-z0-9._~!$&()*+,;=:@%/-]*$"


def _http_path(value: str) -> str:
    if not re.fullmatch(PATH_PATTERN, value):
        raise ValueError("an absolute HTTP path, as in /api/v1/health")
    return value


HttpPath = Annotated[str, AfterValidator(_http_path), Field(json_schema_extra={"pattern": PATH_PATTERN})]
