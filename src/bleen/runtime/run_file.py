"""The run file of an environment: what was started there, and who it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bleen.errors import RuntimeFailed
from bleen.runtime.launcher import write_atomically


@dataclass(frozen=True, slots=True)
class Run:
    """What was started. `pid`, `started` and `boot_id` together name one process; all are empty where a command started it."""

    token: str
    version: str
    commit_hash: str = ""
    branch: str = ""
    argv_digest: str = ""
    log: str = ""
    pid: int = 0
    started: int = 0  # as `launcher.started_of`
    boot_id: str = ""


def read_run(path: Path) -> Run | None:
    """What the file says, or None where there is none; raises RuntimeFailed when it cannot be read."""
    try:
        body = json.loads(path.read_bytes())
        return Run(**{field.name: body[field.name] for field in fields(Run) if field.name in body})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RuntimeFailed(f"{path} cannot be read ({error}), so it is not known what runs there", next_command="bleen status") from error


def write_run(path: Path, run: Run) -> None:
    """The file holds `run`; raises RuntimeFailed when it cannot be written."""
    try:
        write_atomically(path, asdict(run))
    except OSError as error:
        raise RuntimeFailed(f"{path} cannot be written: {error.strerror}", next_command="bleen check") from error
