"""Deployment: one attempt to make a release active, its plan, its journal, its commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bleen.model.environment import Environment
from bleen.model.release import Release


class Phase(StrEnum):
    PRE_DEPLOYMENT = "pre-deployment"
    DEPLOYMENT = "deployment"
    TRAFFIC_SWITCHING = "traffic switching"
    POST_DEPLOYMENT = "post-deployment"


class DeploymentStatus(StrEnum):
    RUNNING = "running"  # active: the plan is driven, or waits while paused
    FROZEN = "frozen"  # active: evidence of harm, but automatic rollback is off; a person is needed
    ROLLING_BACK = "rolling_back"  # active: the traffic goes back, then the steps are undone
    PROMOTED = "promoted"  # ended: the release is active, the bake is over
    ROLLED_BACK = "rolled_back"  # ended: users are on the old release
    REFUSED = "refused"  # ended: preflight refused, nothing changed
    FAILED = "failed"  # ended: a person is needed

    @property
    def active(self) -> bool:
        return self in ACTIVE

    @property
    def exit_code(self) -> int:
        """The exit status of `bleen deploy` for a deployment that stands here."""
        return {"promoted": 0, "rolled_back": 1, "refused": 4}.get(self.value, 3)


ACTIVE = frozenset({DeploymentStatus.RUNNING, DeploymentStatus.FROZEN, DeploymentStatus.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One verb of a phase as it was pinned when the deployment began."""

    name: str  # unique in the plan: "preflight", "shift-25"
    kind: str  # which implementation runs it: "preflight", "shift"
    phase: Phase
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "phase": self.phase.value, "arguments": self.arguments}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> PlannedStep:
        return cls(body["name"], body["kind"], Phase(body["phase"]), body["arguments"])


@dataclass(frozen=True, slots=True)
class Deployment:
    """One row of the store's deployment table."""

    id: str
    service: str
    release: Release
    candidate: Environment  # where the release goes
    baseline: Environment | None  # what users are on; None on a first deployment
    baseline_release: Release | None  # what runs there, where it is known
    plan: tuple[PlannedStep, ...]
    status: DeploymentStatus
    paused: bool
    promote: str  # "", "step" (leave the present step early) or "full" (straight to 100 %)
    reason: str  # why it is where it is, one sentence
    cause: str  # of a rollback: "health checks", "error rates", "deadline", "command", ...
    submitted_by: str
    submitted_at: float  # seconds since the epoch
    ended_at: float  # 0 while active
    active_s: float  # time that counts against DEPLOYMENT_TIMEOUT
    options: dict[str, Any]  # flags of the call: skip_tests, redeploy, ...
    outcome: dict[str, Any]  # figures recorded at the end: requests, failed requests, evidence

    def step(self, name: str) -> PlannedStep | None:
        return next((step for step in self.plan if step.name == name), None)


class StepState(StrEnum):
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What was intended and what came of it, for one step in one direction."""

    deployment: str
    step: str
    kind: str  # "do" or "undo"
    state: StepState
    attempt: int
    started_at: float
    ended_at: float  # 0 while started
    result: dict[str, Any]
    epoch: int


class CommandKind(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody asked of a deployment: who, when, from where and why."""

    id: int
    deployment: str
    kind: CommandKind
    argument: str
    by: str
    source: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, append-only, read by cursor."""

    seq: int
    at: float
    name: str  # "traffic.shifted"
    actor: str
    source: str
    reason: str
    deployment: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for a service until it expires; each taking raises the epoch."""

    service: str
    holder: str
    epoch: int
