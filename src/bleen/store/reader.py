"""Questions to the store, asked over one connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bleen.errors import DeploymentActive
from bleen.model.deployment import (
    ACTIVE,
    Command,
    CommandKind,
    Deployment,
    DeploymentStatus,
    Event,
    JournalEntry,
    PlannedStep,
    StepState,
)
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.model.traffic import CLOSED, Route, TrafficSplit
from bleen.store import tables


@dataclass(frozen=True, slots=True)
class Resident:
    """Which release should be in an environment, and for how long."""

    environment: Environment
    release: Release
    deployment: str  # the token that its runtime was given
    wanted: bool  # it should run
    adopted: bool  # somebody else started it
    retire_at: float  # seconds since the epoch; 0: not to be retired


@dataclass(frozen=True, slots=True)
class Glance:
    """What a controller must notice at once; cheap to ask many times a second."""

    epoch: int
    holder: str
    deployment: str
    status: str
    paused: bool
    promote: str


class Reader:
    """Answers from the store as of one transaction."""

    def __init__(self, connection: sa.Connection, service: str) -> None:
        self._connection = connection
        self._service = service

    def now(self) -> float:
        """The database's clock, seconds since the epoch."""
        return float(self._connection.execute(sa.select(tables.database_now(self._connection.dialect.name))).scalar_one())

    def glance(self) -> Glance:
        d, held = tables.deployment, tables.lease
        lease = self._connection.execute(sa.select(held.c.epoch, held.c.holder).where(held.c.service == self._service)).first()
        active = self._connection.execute(
            sa.select(d.c.id, d.c.status, d.c.paused, d.c.promote).where(d.c.service == self._service, d.c.status.in_(_ACTIVE))
        ).first()
        epoch, holder = (lease.epoch, lease.holder) if lease else (0, "")
        if active is None:
            return Glance(epoch, holder, "", "", paused=False, promote="")
        return Glance(epoch, holder, active.id, active.status, bool(active.paused), active.promote)

    def route(self) -> Route:
        """The route that should hold; closed at revision 0 before the first deployment."""
        row = self._connection.execute(sa.select(tables.route).where(tables.route.c.service == self._service)).first()
        return Route(row.epoch, row.revision, TrafficSplit(row.blue, row.green)) if row else Route(0, 0, CLOSED)

    def is_applied(self, route: Route) -> bool:
        """The proxy has confirmed that revision of the route."""
        a = tables.applied
        return self._connection.execute(sa.select(a.c.revision).where(a.c.service == self._service)).scalar_one_or_none() == route.revision

    def residents(self) -> dict[Environment, Resident]:
        rows = self._connection.execute(sa.select(tables.environment).where(tables.environment.c.service == self._service))
        return {
            Environment(row.environment): Resident(
                Environment(row.environment),
                Release.from_dict(row.release),
                row.deployment,
                wanted=row.wanted == "running",
                adopted=bool(row.adopted),
                retire_at=row.retire_at,
            )
            for row in rows
        }

    def deployment(self, deployment_id: str) -> Deployment | None:
        return self._one(tables.deployment.c.id == deployment_id)

    def active(self) -> Deployment | None:
        return self._one(tables.deployment.c.status.in_(_ACTIVE))

    def refuse_active(self) -> None:
        """Raises DeploymentActive, naming the holder, when the service has an active deployment."""
        active = self.active()
        if active is not None:
            raise DeploymentActive(
                f"deployment {active.id} of {active.release.version} is {active.status.value}, submitted by {active.submitted_by}",
                next_command="bleen watch",
            )

    def history(self, limit: int) -> list[Deployment]:
        """The newest deployments first."""
        d = tables.deployment
        rows = self._connection.execute(sa.select(d).where(d.c.service == self._service).order_by(d.c.number.desc()).limit(limit))
        return [deployment_of(row) for row in rows]

    def newest(self) -> Deployment | None:
        """The newest deployment that changed something, or is about to: one that was refused did not."""
        d = tables.deployment
        mine = (d.c.service == self._service) & (d.c.status != DeploymentStatus.REFUSED.value)
        row = self._connection.execute(sa.select(d).where(mine).order_by(d.c.number.desc()).limit(1)).first()
        return deployment_of(row) if row else None

    def config(self, deployment_id: str) -> dict[str, Any] | None:
        """The configuration as it was pinned; secrets in it are references."""
        d = tables.deployment
        return self._connection.execute(sa.select(d.c.config).where(d.c.id == deployment_id)).scalar_one_or_none()

    def journal(self, deployment_id: str) -> list[JournalEntry]:
        """In the order in which the steps were begun."""
        j = tables.journal
        rows = self._connection.execute(sa.select(j).where(j.c.deployment == deployment_id).order_by(j.c.started_at))
        return [
            JournalEntry(
                row.deployment,
                row.step,
                row.kind,
                StepState(row.state),
                row.attempt,
                row.started_at,
                row.ended_at,
                row.result,
                row.epoch,
            )
            for row in rows
        ]

    def clocks(self, deployment_id: str) -> tuple[float, float, float]:
        """Seconds that count against the deadlines: active, paused, rolling back."""
        d = tables.deployment
        row = self._connection.execute(sa.select(d.c.active_s, d.c.paused_s, d.c.rollback_s).where(d.c.id == deployment_id)).one()
        return row.active_s, row.paused_s, row.rollback_s

    def commands(self, deployment_id: str) -> list[Command]:
        c = tables.command
        rows = self._connection.execute(sa.select(c).where(c.c.deployment == deployment_id).order_by(c.c.id))
        return [
            Command(row.id, row.deployment, CommandKind(row.kind), row.argument, row.by, row.source, row.reason, row.at) for row in rows
        ]

    def events(self, after: int, deployment_id: str = "", limit: int = 1000) -> list[Event]:
        """Events with a higher number than `after`, oldest first."""
        e = tables.event
        query = sa.select(e).where(e.c.service == self._service, e.c.seq > after).order_by(e.c.seq).limit(limit)
        if deployment_id:
            query = query.where(e.c.deployment == deployment_id)
        return [
            Event(row.seq, row.at, row.name, row.actor, row.source, row.reason, row.deployment, row.body)
            for row in self._connection.execute(query)
        ]

    def _one(self, condition: sa.ColumnElement[bool]) -> Deployment | None:
        d = tables.deployment
        row = self._connection.execute(sa.select(d).where(d.c.service == self._service, condition)).first()
        return deployment_of(row) if row else None


_ACTIVE = sorted(status.value for status in ACTIVE)


def deployment_of(row: Any) -> Deployment:
    """A row of the deployment table as its dataclass."""
    return Deployment(
        id=row.id,
        service=row.service,
        release=Release.from_dict(row.release),
        candidate=Environment(row.candidate),
        baseline=Environment(row.baseline) if row.baseline else None,
        baseline_release=Release.from_dict(row.baseline_release) if row.baseline_release else None,
        plan=tuple(PlannedStep.from_dict(step) for step in row.plan),
        status=DeploymentStatus(row.status),
        paused=bool(row.paused),
        promote=row.promote,
        reason=row.reason,
        cause=row.cause,
        submitted_by=row.submitted_by,
        submitted_at=row.submitted_at,
        ended_at=row.ended_at,
        active_s=row.active_s,
        options=row.options,
        outcome=row.outcome,
    )
