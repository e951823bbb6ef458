"""A line of the access log: its format and its parser, side by side."""

from __future__ import annotations

from bleen.model.environment import Environment
from bleen.model.sample import Sample

# Tab-separated; escape=default turns whatever is odd in a value into \xNN, so a line stays a line and a field a field.
LOG_FORMAT = r"\t".join(
    (
        "$msec",
        "$bleen_environment",  # blue, green, closed or any: what the request's bucket chose
        "$status",
        "$request_time",
        "$upstream_status",
        "$upstream_response_time",
        "$request_method",
        "$uri",  # without the query string
    )
)
# Empty: nginx turned the request away before a bucket was looked up.
_ENVIRONMENTS = {b"blue": Environment.BLUE, b"green": Environment.GREEN, b"any": None, b"closed": None, b"": None, b"-": None}
_PATH_LENGTH = 200


def parse_line(line: bytes) -> Sample | None:
    """One line as a sample; None for a line that nginx did not write in this format.

    `first_status`: nginx itself writes 502 for a refused or broken connection and 504 for a silent one. Without an upstream
    status (a malformed request, a body that is too large, a client that left, a closed route) it is what the client saw, so
    that a client's error speaks against no environment. A first of several attempts that ended without a status is 0.
    """
    try:
        msec, chosen, status, request_time, upstream_status, upstream_time, method, uri = line.split(b"\t")
        code = int(status)
        return Sample(
            at=float(msec),
            environment=_ENVIRONMENTS[chosen],
            status=code,
            first_status=int(upstream_status) if upstream_status.isdigit() else _first_status(upstream_status, code),
            request_time_s=float(request_time),
            upstream_time_s=0.0 if upstream_time == b"-" else _total(upstream_time),
            method=method.decode("ascii"),
            path=uri[:_PATH_LENGTH].decode("ascii"),
        )
    except (ValueError, KeyError):
        return None


def _first_status(upstream_status: bytes, status: int) -> int:
    """The first of several attempts: `502, 200` after a retry, `502 : 200` after an internal redirect."""
    if upstream_status == b"-":
        return status
    first = upstream_status.replace(b" : ", b", ").split(b", ")[0]
    return 0 if first == b"-" else int(first)


def _total(upstream_time: bytes) -> float:
    try:
        return float(upstream_time)
    except ValueError:
        parts = upstream_time.replace(b" : ", b", ").split(b", ")
        return sum(float(part) for part in parts if part != b"-")
