"""Where words go: results to stdout, progress and errors to stderr, with --json one object a line to stdout."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from bleen.errors import BleenError

_TERMINAL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def result(text: str) -> None:
    """People's answer stands on stdout, where it can be piped; colours only on a terminal."""
    typer.echo(text, color=None if wants_colour() else False)


def say(text: str) -> None:
    """Progress, notices and errors stand on stderr."""
    typer.echo(text, err=True, color=None if wants_colour() else False)


def emit(event: str, at: float | None = None, **fields: Any) -> None:
    """One JSON object stands on stdout as one line, at once."""
    body = {"event": event, "at": iso(time.time() if at is None else at)} | fields
    print(json.dumps(body), flush=True)


def fail(error: BleenError, *, json_output: bool) -> None:
    """The error is told to people, and with --json to programs."""
    if json_output:
        emit("error", error=type(error).__name__, message=error.message, next=error.next_command)
    say(f"bleen: {clean_lines(error.message)}")
    if error.next_command:
        say(f"  next: {clean_lines(error.next_command)}")


def wants_colour() -> bool:
    """False when the user asked for none (https://no-color.org)."""
    return not os.environ.get("NO_COLOR")


def environment_style(environment: str, text: str) -> str:
    """The text in its environment's colour; a stream that is no terminal gets it plain."""
    return typer.style(text, fg=environment) if environment in ("blue", "green") else text


def clean(text: object) -> str:
    """Text from outside as one line that cannot steer a terminal: what is not printable is shown escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def clean_lines(text: str) -> str:
    """As `clean`, but lines stay lines."""
    return "\n".join(clean(line) for line in text.split("\n"))


def clean_log(line: str) -> str:
    """As `clean`, for a line that a release wrote: its colours are dropped, its tabs stay."""
    return "\t".join(clean(part) for part in _TERMINAL_SEQUENCE.sub("", line).split("\t"))


def iso(at: float) -> str:
    """Seconds since the epoch as 2026-11-03T10:15:30.125Z."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at: float, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Seconds since the epoch as the reader's own time of day."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime(pattern)


def span(seconds: float) -> str:
    """A length of time as people say it: 0.8 s, 42 s, 6 min 2 s, 1 h 5 min."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """The rows with their columns aligned; nothing is cut, so that a pipe gets everything."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def on_terminal() -> bool:
    """True when a person looks at stderr."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
