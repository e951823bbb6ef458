"""Where a service stands, read straight from SQLite: `bleen status` must not wait for heavy imports."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bleen.errors import StoreUnavailable
from bleen.store.live import read_live

_NOW = "((julianday('now') - 2440587.5) * 86400.0)"


@dataclass(frozen=True, slots=True)
class StepView:
    name: str
    phase: str
    state: str  # "waiting", "started", "done", "failed", "undone"


@dataclass(frozen=True, slots=True)
class DeploymentView:
    id: str
    version: str
    commit_hash: str
    branch: str
    status: str  # model.deployment.DeploymentStatus
    paused: bool
    candidate: str
    baseline: str  # "" on a first deployment
    baseline_version: str
    reason: str
    cause: str
    submitted_by: str
    submitted_at: float
    ended_at: float  # 0 while active
    active_s: float
    steps: list[StepView]
    outcome: dict[str, Any]

    @property
    def active(self) -> bool:
        return self.status in ("running", "frozen", "rolling_back")

    @property
    def current(self) -> StepView | None:
        """The step that is under way."""
        return next((step for step in self.steps if step.state == "started"), None)


@dataclass(frozen=True, slots=True)
class ResidentView:
    environment: str
    version: str
    wanted: str  # "running" or "stopped"
    adopted: bool
    retire_in_s: float | None  # None: not to be retired


@dataclass(frozen=True, slots=True)
class WayBack:
    """Whether a rollback is possible now, to what, how long it takes, and why not."""

    possible: bool
    to_environment: str
    to_version: str
    evidence: str
    expires_in_s: float | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    service: str
    route: dict[str, int]  # {"blue": 90, "green": 10}; both 0: closed
    route_applied: bool  # the proxy has confirmed this revision
    active_environment: str  # "" while split, or before the first deployment
    residents: list[ResidentView]
    deployment: DeploymentView | None  # the newest one
    controller: dict[str, Any]  # {"alive": bool, "holder": str, "epoch": int, "expires_in_s": float}
    way_back: WayBack
    live: dict[str, Any] = field(default_factory=dict)  # the watch's figures (records.live), {} when older than a few seconds

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_status(state_dir: Path, service: str) -> StatusReport:
    """The service's state as the store and the live file tell it. Raises StoreUnavailable; a missing store is "nothing yet"."""
    path = state_dir / "store.db"
    if not path.exists():
        return _nothing_yet(service)
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)
        connection.row_factory = sqlite3.Row
        try:
            with connection:
                return _report(connection, state_dir, service)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the store {path} cannot be read: {error}", next_command=f"ls -l {path}") from error


def _report(connection: sqlite3.Connection, state_dir: Path, service: str) -> StatusReport:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return _nothing_yet(service)
    now = float(connection.execute(f"SELECT {_NOW}").fetchone()[0])
    route = connection.execute("SELECT blue, green, revision FROM route WHERE service = ?", (service,)).fetchone()
    applied = connection.execute("SELECT revision FROM applied WHERE service = ?", (service,)).fetchone()
    split = {"blue": route["blue"], "green": route["green"]} if route else {"blue": 0, "green": 0}
    residents = _residents(connection, service, now)
    deployment = _deployment(connection, service)
    live = read_live(state_dir)
    return StatusReport(
        service=service,
        route=split,
        route_applied=bool(route and applied and applied["revision"] == route["revision"]),
        active_environment=next((name for name, weight in split.items() if weight == 100), ""),
        residents=residents,
        deployment=deployment,
        controller=_controller(connection, service, now),
        way_back=_way_back(deployment, residents, split, live),
        live=live,
    )


def _residents(connection: sqlite3.Connection, service: str, now: float) -> list[ResidentView]:
    rows = connection.execute("SELECT * FROM environment WHERE service = ? ORDER BY environment", (service,))
    return [
        ResidentView(
            row["environment"],
            json.loads(row["release"])["version"],
            row["wanted"],
            bool(row["adopted"]),
            row["retire_at"] - now if row["retire_at"] else None,
        )
        for row in rows
    ]


def _controller(connection: sqlite3.Connection, service: str, now: float) -> dict[str, Any]:
    row = connection.execute("SELECT holder, epoch, expires FROM lease WHERE service = ?", (service,)).fetchone()
    if row is None:
        return {"alive": False, "holder": "", "epoch": 0, "expires_in_s": 0.0}
    left = row["expires"] - now
    return {"alive": bool(row["holder"]) and left > 0, "holder": row["holder"], "epoch": row["epoch"], "expires_in_s": round(left, 1)}


def _deployment(connection: sqlite3.Connection, service: str) -> DeploymentView | None:
    row = connection.execute("SELECT * FROM deployment WHERE service = ? ORDER BY number DESC LIMIT 1", (service,)).fetchone()
    return view_of(connection, row) if row else None


def view_of(connection: sqlite3.Connection, row: sqlite3.Row) -> DeploymentView:
    """A row of the deployment table with the states of its steps."""
    states: dict[str, str] = {}
    for entry in connection.execute("SELECT step, kind, state FROM journal WHERE deployment = ? ORDER BY kind", (row["id"],)):
        if entry["kind"] == "do":
            states[entry["step"]] = entry["state"]
        elif entry["state"] == "done":
            states[entry["step"]] = "undone"
    release = json.loads(row["release"])
    baseline_release = json.loads(row["baseline_release"]) if row["baseline_release"] else None
    return DeploymentView(
        id=row["id"],
        version=release["version"],
        commit_hash=release["commit_hash"],
        branch=release["branch"],
        status=row["status"],
        paused=bool(row["paused"]),
        candidate=row["candidate"],
        baseline=row["baseline"] or "",
        baseline_version=baseline_release["version"] if baseline_release else "",
        reason=row["reason"],
        cause=row["cause"],
        submitted_by=row["submitted_by"],
        submitted_at=row["submitted_at"],
        ended_at=row["ended_at"],
        active_s=row["active_s"],
        steps=[StepView(step["name"], step["phase"], states.get(step["name"], "waiting")) for step in json.loads(row["plan"])],
        outcome=json.loads(row["outcome"]),
    )


def _way_back(deployment: DeploymentView | None, residents: list[ResidentView], split: dict[str, int], live: dict[str, Any]) -> WayBack:
    """A rollback goes to the environment that is not the newest release's, while it stands and answers."""
    if deployment is None:
        return WayBack(possible=False, to_environment="", to_version="", evidence="nothing was deployed yet", expires_in_s=None)
    if deployment.active:
        home = deployment.baseline
    else:
        active = next((name for name, weight in split.items() if weight == 100), "")
        home = {"blue": "green", "green": "blue"}.get(active, "")
    resident = next((resident for resident in residents if resident.environment == home), None)
    if resident is None or resident.wanted != "running":
        why = f"no older release stands in {home}" if home else "there is no older release"
        return WayBack(possible=False, to_environment=home, to_version="", evidence=why, expires_in_s=None)
    health = live.get("way_back", {})
    if health and not health.get("ok", True):
        return WayBack(False, home, resident.version, f"{home} is unhealthy: {health.get('evidence', '')}", resident.retire_in_s)
    said = f"{health['evidence']}" if health else "not probed at the moment: no controller"
    return WayBack(True, home, resident.version, f"{resident.version} in {home}: {said}; takes under a second", resident.retire_in_s)


def _nothing_yet(service: str) -> StatusReport:
    controller = {"alive": False, "holder": "", "epoch": 0, "expires_in_s": 0.0}
    return StatusReport(service, {"blue": 0, "green": 0}, False, "", [], None, controller, _way_back(None, [], {}, {}))
