"""Changes to the store, made over one transaction that has its lock already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bleen.model.deployment import CommandKind, Deployment, DeploymentStatus, StepState
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.model.traffic import Route, TrafficSplit
from bleen.store import tables
from bleen.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Who:
    """Who acts, from where, and why: kept with every command and event."""

    actor: str  # "alice@host" or "controller"
    source: str  # "cli", "python", "controller"
    reason: str = ""


class Writer(Reader):
    """Changes rows within one transaction; all of them hold, or none."""

    def set_route(self, epoch: int, split: TrafficSplit) -> Route:
        """The route that should hold is `split`; an unchanged one keeps its revision."""
        before = self.route()
        if before.split == split and before.revision:
            return before
        row = {"epoch": epoch, "revision": before.revision + 1, "blue": split.blue, "green": split.green}
        if before.revision:
            self._connection.execute(sa.update(tables.route).where(tables.route.c.service == self._service).values(row))
        else:
            self._connection.execute(sa.insert(tables.route).values(service=self._service, **row))
        return Route(epoch, before.revision + 1, split)

    def set_applied(self, proxy: str, revision: int) -> None:
        """The proxy has confirmed the route of that revision."""
        a = tables.applied
        where = (a.c.service == self._service) & (a.c.proxy == proxy)
        self._upsert(a, where, {"service": self._service, "proxy": proxy, "revision": revision, "at": self.now()})

    def set_resident(self, environment: Environment, release: Release, deployment: str, *, adopted: bool = False) -> None:
        """The release should run in the environment from now on."""
        e = tables.environment
        where = (e.c.service == self._service) & (e.c.environment == environment.value)
        row = {"service": self._service, "environment": environment.value, "release": release.to_dict(), "deployment": deployment}
        self._upsert(e, where, row | {"wanted": "running", "adopted": adopted, "retire_at": 0.0})

    def clear_resident(self, environment: Environment) -> None:
        """Nothing should run in the environment from now on."""
        e = tables.environment
        where = (e.c.service == self._service) & (e.c.environment == environment.value)
        self._connection.execute(sa.update(e).where(where).values(wanted="stopped", retire_at=0.0))

    def retire_at(self, environment: Environment, at: float) -> None:
        """The environment's rollback window ends at `at`, seconds since the epoch; 0: it is not to be retired."""
        e = tables.environment
        where = (e.c.service == self._service) & (e.c.environment == environment.value)
        self._connection.execute(sa.update(e).where(where).values(retire_at=at))

    def begin_retirement(self, environment: Environment) -> bool:
        """The environment is no way back any more, and is to be stopped. False when it has become one again meanwhile."""
        resident = self.residents().get(environment)
        if resident is None or not resident.retire_at or resident.retire_at > self.now() or self.active() is not None:
            return False
        e = tables.environment
        where = (e.c.service == self._service) & (e.c.environment == environment.value)
        self._connection.execute(sa.update(e).where(where).values(wanted="stopped"))
        return True

    def insert_deployment(self, deployment: Deployment, config: dict[str, Any]) -> None:
        """The deployment is active. Raises DeploymentActive, naming the holder, when the service has one already."""
        self.refuse_active()
        row = {
            "id": deployment.id,
            "service": self._service,
            "release": deployment.release.to_dict(),
            "candidate": deployment.candidate.value,
            "baseline": deployment.baseline.value if deployment.baseline else None,
            "baseline_release": deployment.baseline_release.to_dict() if deployment.baseline_release else None,
            "plan": [step.to_dict() for step in deployment.plan],
            "config": config,
            "status": deployment.status.value,
            "paused": deployment.paused,
            "promote": deployment.promote,
            "reason": deployment.reason,
            "cause": deployment.cause,
            "submitted_by": deployment.submitted_by,
            "submitted_at": self.now(),
            "ended_at": 0.0,
            "active_s": 0.0,
            "paused_s": 0.0,
            "rollback_s": 0.0,
            "options": deployment.options,
            "outcome": deployment.outcome,
        }
        self._connection.execute(sa.insert(tables.deployment).values(row))

    def set_status(self, deployment: str, status: DeploymentStatus, *, reason: str, cause: str = "") -> None:
        """The deployment stands at `status`; an ended one carries the time of its end."""
        ended = 0.0 if status.active else self.now()
        d = tables.deployment
        values: dict[str, Any] = {"status": status.value, "reason": reason, "ended_at": ended, "paused": False, "promote": ""}
        if cause:
            values["cause"] = cause
        self._connection.execute(sa.update(d).where(d.c.id == deployment).values(values))

    def set_control(self, deployment: str, *, paused: bool | None = None, promote: str | None = None) -> None:
        """What people asked of a running deployment is in its row."""
        values: dict[str, Any] = {}
        if paused is not None:
            values |= {"paused": paused, "paused_s": 0.0}
        if promote is not None:
            values["promote"] = promote
        d = tables.deployment
        self._connection.execute(sa.update(d).where(d.c.id == deployment).values(values))

    def add_outcome(self, deployment: str, figures: dict[str, Any]) -> None:
        """The figures are part of the deployment's record."""
        d = tables.deployment
        before = self._connection.execute(sa.select(d.c.outcome).where(d.c.id == deployment)).scalar_one()
        self._connection.execute(sa.update(d).where(d.c.id == deployment).values(outcome=before | figures))

    def add_clock(self, deployment: str, column: str, seconds: float) -> None:
        """`active_s`, `paused_s` or `rollback_s` of the deployment grew."""
        d = tables.deployment
        self._connection.execute(sa.update(d).where(d.c.id == deployment).values({column: d.c[column] + seconds}))

    def begin_step(self, deployment: str, step: str, kind: str, epoch: int) -> int:
        """The intent is in the journal. Returns the attempt, from 1."""
        j = tables.journal
        where = (j.c.deployment == deployment) & (j.c.step == step) & (j.c.kind == kind)
        row = self._connection.execute(sa.select(j.c.attempt, j.c.state).where(where)).first()
        if row is None:
            self._connection.execute(
                sa.insert(j).values(
                    deployment=deployment,
                    step=step,
                    kind=kind,
                    state=StepState.STARTED.value,
                    attempt=1,
                    started_at=self.now(),
                    ended_at=0.0,
                    result={},
                    epoch=epoch,
                )
            )
            return 1
        values = {"state": StepState.STARTED.value, "attempt": row.attempt + 1, "epoch": epoch}
        self._connection.execute(sa.update(j).where(where).values(values))
        return int(row.attempt) + 1

    def note_step(self, deployment: str, step: str, result: dict[str, Any]) -> None:
        """What is known of a step that is under way is in the journal, for whoever resumes it."""
        j = tables.journal
        where = (j.c.deployment == deployment) & (j.c.step == step) & (j.c.kind == "do")
        self._connection.execute(sa.update(j).where(where).values(result=result))

    def end_step(self, deployment: str, step: str, kind: str, state: StepState, result: dict[str, Any]) -> None:
        """What came of the step is in the journal."""
        j = tables.journal
        where = (j.c.deployment == deployment) & (j.c.step == step) & (j.c.kind == kind)
        self._connection.execute(sa.update(j).where(where).values(state=state.value, ended_at=self.now(), result=result))

    def add_command(self, deployment: str, kind: CommandKind, argument: str, who: Who) -> None:
        """The command is recorded with who asked for it."""
        row = {"deployment": deployment, "kind": kind.value, "argument": argument, "by": who.actor, "source": who.source}
        self._connection.execute(sa.insert(tables.command).values(service=self._service, reason=who.reason, at=self.now(), **row))

    def raise_epoch(self) -> int:
        """Every write in flight under an earlier epoch is refused from now on; nobody holds the lease. Returns the epoch."""
        held = tables.lease
        epoch = self.glance().epoch + 1
        row = {"holder": "", "epoch": epoch, "expires": 0.0}
        self._upsert(held, held.c.service == self._service, row | {"service": self._service})
        return epoch

    def add_event(self, name: str, who: Who, deployment: str = "", body: dict[str, Any] | None = None) -> None:
        """The event is at the end of the record."""
        row = {"name": name, "actor": who.actor, "source": who.source, "reason": who.reason, "deployment": deployment, "body": body or {}}
        self._connection.execute(sa.insert(tables.event).values(at=self.now(), service=self._service, **row))

    def _upsert(self, table: sa.Table, where: sa.ColumnElement[bool], row: dict[str, Any]) -> None:
        if self._connection.execute(sa.update(table).where(where).values(row)).rowcount == 0:
            self._connection.execute(sa.insert(table).values(row))
