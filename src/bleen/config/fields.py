"""The kinds of values that a configuration is made of."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from bleen.config.locate import SERVICE_PATTERN

_NUMBER_AND_UNIT = r"[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d)"
DURATION_PATTERN = rf"^(?:{_NUMBER_AND_UNIT})+$"
POSITIVE_DURATION_PATTERN = rf"^(?=.*[1-9])(?:{_NUMBER_AND_UNIT})+$"
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S = 3650 * 86400.0  # ten years: far above any sense, far below what timedelta overflows at


class Strict(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=False)


def misfit(kind: str, allowed: str) -> PydanticCustomError:
    """A ValueError that the loader shows as `VALUE is not KIND; allowed: ALLOWED`."""
    return PydanticCustomError("misfit", "{allowed}", {"kind": kind, "allowed": allowed})


def parse_duration(value: Any) -> timedelta:
    """A duration written as `500ms`, `30s`, `5m`, `1h30m`; raises ValueError otherwise."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise misfit("a duration", "a duration has a unit: 500ms, 30s, 5m, 2h or 1h30m")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", value)
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if seconds > _LONGEST_S:
        raise misfit("a duration that can be waited for", "at most 3650d")
    duration = timedelta(seconds=seconds)
    if duration.microseconds % 1000:
        raise misfit("a duration in whole milliseconds", "nothing finer than 1ms")
    return duration


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


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise misfit("longer than nothing", "a duration above 0s")
    return value


_AS_TEXT = PlainSerializer(format_duration, return_type=str)
_DURATION_EXAMPLES = ["500ms", "30s", "5m", "1h30m"]

DurationOrZero = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": _DURATION_EXAMPLES}),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    AfterValidator(_positive),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": POSITIVE_DURATION_PATTERN, "examples": _DURATION_EXAMPLES}),
]


def _argv(value: list[str]) -> list[str]:
    if not value or not value[0]:
        raise misfit("an argument list", "an argument list needs a program, as in [python, app.py]")
    return value


Argv = Annotated[list[str], AfterValidator(_argv), Field(json_schema_extra={"minItems": 1})]

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)"
LISTEN_PATTERN = rf"^(?:{_HOST}|\*):([0-9]{{1,5}})$"
ENDPOINT_PATTERN = rf"^https?://{_HOST}:([0-9]{{1,5}})/?$"
URL_PATTERN = rf"^https?://{_HOST}(?::[0-9]{{1,5}})?(?:[/?][!-~]*)?$"  # printable ASCII: no space, no control character


def _listen(value: str) -> str:
    if not re.fullmatch(LISTEN_PATTERN, value) or not _answers_at(f"http://{value}"):
        raise misfit("an address to listen on", "an address with a port from 1 to 65535, as in 127.0.0.1:8080")
    return value


def _endpoint(value: str) -> str:
    if not re.fullmatch(ENDPOINT_PATTERN, value) or not _answers_at(value):
        raise misfit("an endpoint", "scheme, host and port only, as in http://127.0.0.1:9001")
    return value.rstrip("/")


def _url(value: str) -> str:
    if not re.fullmatch(URL_PATTERN, value) or not _answers_at(value):
        raise misfit("an address of the web", "an http or https address without user and password, as in http://127.0.0.1:9001/health")
    return value


def _answers_at(url: str) -> bool:
    """True when host and port could exist: the patterns cannot count to 65535, nor tell a broken IP address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            IPv6Address(host)
        elif re.fullmatch(r"[0-9.]+", host):
            IPv4Address(host)
    except (AddressValueError, ValueError):
        return False
    return bool(host) and port != 0


ListenAddress = Annotated[str, AfterValidator(_listen), Field(json_schema_extra={"pattern": LISTEN_PATTERN})]
EndpointUrl = Annotated[str, AfterValidator(_endpoint), Field(json_schema_extra={"pattern": ENDPOINT_PATTERN})]
WebUrl = Annotated[str, AfterValidator(_url), Field(json_schema_extra={"pattern": URL_PATTERN})]

PATH_PATTERN = r"^/[A-Za-z0-9._~!$&()*+,;=:@%/-]*$"


def _http_path(value: str) -> str:
    if not re.fullmatch(PATH_PATTERN, value):
        raise misfit("an HTTP path", "an absolute HTTP path, as in /api/v1/health")
    return value


HttpPath = Annotated[str, AfterValidator(_http_path), Field(json_schema_extra={"pattern": PATH_PATTERN})]

FILE_PATH_PATTERN = r"^[^~\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"


def _file_path(value: str) -> str:
    if not re.fullmatch(FILE_PATH_PATTERN, value):
        raise misfit("a path", "a path without control characters; ~ is not expanded, write it out")
    return value


FilePath = Annotated[str, AfterValidator(_file_path), Field(json_schema_extra={"pattern": FILE_PATH_PATTERN})]
OptionalFilePath = Annotated[
    str,
    AfterValidator(lambda value: _file_path(value) if value else value),
    Field(json_schema_extra={"pattern": rf"^$|{FILE_PATH_PATTERN}"}),
]

USER_PATTERN = r"^(?:[a-z_][a-z0-9_-]{0,31})?$"


def _user(value: str) -> str:
    if not re.fullmatch(USER_PATTERN, value):
        raise misfit("a user name", "a name as in /etc/passwd, as in www-data")
    return value


UserName = Annotated[str, AfterValidator(_user), Field(json_schema_extra={"pattern": USER_PATTERN})]


def _service(value: str) -> str:
    if not re.fullmatch(SERVICE_PATTERN, value):
        raise misfit("a name of a service", "a lower case letter, then lower case letters, digits and -, at most 39, as in payments-api")
    return value


ServiceName = Annotated[str, AfterValidator(_service), Field(json_schema_extra={"pattern": SERVICE_PATTERN})]

VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"


def _variable(value: str) -> str:
    if not re.fullmatch(VARIABLE_PATTERN, value):
        raise misfit("a name of a variable", "letters, digits and _, not beginning with a digit, as in DATABASE_URL")
    return value


def _reference(value: str) -> str:
    kind, colon, target = value.partition(":")
    if colon and kind == "env" and not re.fullmatch(VARIABLE_PATTERN, target):
        raise misfit("a reference", "env:NAME, as in env:DATABASE_URL")
    if colon and kind == "file" and not target:
        raise misfit("a reference", "file:PATH, relative to bleen.yaml, as in file:secrets/database_url")
    return value


Variables = Annotated[
    dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_reference)]],
    Field(json_schema_extra={"propertyNames": {"pattern": VARIABLE_PATTERN}}),
]


def _weights(value: list[int]) -> list[int]:
    grows = all(low < high for low, high in pairwise(value))
    if not value or value[0] < 1 or value[-1] != 100 or not grows:
        raise misfit("a ladder of weights", "whole percents from 1, each above the one before, the last 100, as in [10, 25, 50, 75, 100]")
    return value


Weights = Annotated[
    list[Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 100})]],
    AfterValidator(_weights),
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True, "contains": {"const": 100}}),
]


def at_least(limit: timedelta) -> AfterValidator:
    """A validator that refuses durations below `limit`."""

    def check(value: timedelta) -> timedelta:
        if value < limit:
            raise misfit("long enough", f"at least {format_duration(limit)}")
        return value

    return AfterValidator(check)
