"""What happened: each deployment with its events, read straight from SQLite."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bleen.errors import StoreUnavailable
from bleen.records.status import DeploymentView, view_of


@dataclass(frozen=True, slots=True)
class EventView:
    seq: int
    at: float  # seconds since the epoch
    name: str
    actor: str
    source: str
    reason: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One deployment and everything that is recorded of it."""

    deployment: DeploymentView
    events: list[EventView]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_history(state_dir: Path, service: str, limit: int) -> list[Record]:
    """The newest deployments first. Raises StoreUnavailable; a missing store is an empty history."""
    path = state_dir / "store.db"
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)
        connection.row_factory = sqlite3.Row
        try:
            rows = connection.execute(
                "SELECT * FROM deployment WHERE service = ? ORDER BY number DESC LIMIT ?", (service, limit)
            ).fetchall()
            return [Record(view_of(connection, row), _events(connection, row["id"])) for row in rows]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the store {path} cannot be read: {error}", next_command=f"ls -l {path}") from error


def _events(connection: sqlite3.Connection, deployment: str) -> list[EventView]:
    rows = connection.execute("SELECT * FROM event WHERE deployment = ? ORDER BY seq", (deployment,))
    return [
        EventView(row["seq"], row["at"], row["name"], row["actor"], row["source"], row["reason"], json.loads(row["body"])) for row in rows
    ]
