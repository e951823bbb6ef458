"""What changed between one status report and the next: the events that lines, JSON and the live view are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bleen.records.status import DeploymentView, StatusReport


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to a deployment, as `deploy --json` names it."""

    event: str
    body: dict[str, Any] = field(default_factory=dict)


class Tracker:
    """Remembers the report before, and tells what is new in the next one."""

    def __init__(self, before: StatusReport | None = None) -> None:
        self._before = before
        self._route = before.route if before and before.route_applied else None

    def see(self, report: StatusReport) -> list[Change]:
        """Everything of the newest deployment that is not as it was, in the order in which it happened."""
        before, self._before = self._before, report
        now = report.deployment
        if now is None:
            return []
        old = before.deployment if before and before.deployment and before.deployment.id == now.id else None
        forwards, backwards = _steps(old, now)
        return [
            *_course(old, now),
            *forwards,
            *self._shift(report, now, first=before is None),
            *backwards,  # a rollback moves the traffic first
            *_verdict(before, report, now),
            *_controller(before, report),
        ]

    def _shift(self, report: StatusReport, now: DeploymentView, *, first: bool) -> list[Change]:
        """A shift counts when the proxy has confirmed it; the split at the beginning is no shift."""
        if not report.route_applied or report.route == self._route:
            return []
        self._route = report.route
        if first:
            return []
        body = {"deployment": now.id, "candidate": now.candidate, "weight_pct": report.route.get(now.candidate, 0), **report.route}
        return [Change("traffic.shifted", body)]


def live_of(report: StatusReport) -> dict[str, Any]:
    """The controller's figures, {} when they are of another deployment than the newest."""
    about = report.live.get("deployment", "")
    if about and report.deployment and about != report.deployment.id:
        return {}
    return report.live


def _course(old: DeploymentView | None, now: DeploymentView) -> list[Change]:
    changes = []
    was_paused, was = (old.paused, old.status) if old else (False, "running")
    if now.active and now.paused != was_paused:
        changes.append(Change("deployment.paused" if now.paused else "deployment.resumed", {"deployment": now.id}))
    backwards = ("rolling_back", "rolled_back")
    if now.status in backwards and was not in backwards:
        changes.append(Change("deployment.rolling_back", {"deployment": now.id, "reason": now.reason, "cause": now.cause}))
    return changes


def _steps(old: DeploymentView | None, now: DeploymentView) -> tuple[list[Change], list[Change]]:
    """What was done, and what was undone."""
    states = {step.name: step.state for step in old.steps} if old else {}
    forwards: list[Change] = []
    backwards: list[Change] = []
    for step in now.steps:
        was = states.get(step.name, "waiting")
        if step.state == was:
            continue
        body = {"deployment": now.id, "step": step.name, "phase": step.phase}
        if step.state in ("started", "done", "failed"):
            if was == "waiting":
                forwards.append(Change("step.started", body))
            if step.state != "started":
                forwards.append(Change(f"step.{step.state}", body))
        elif step.state == "undone":
            backwards.insert(0, Change("step.undone", body))
    return forwards, backwards


def _verdict(before: StatusReport | None, report: StatusReport, now: DeploymentView) -> list[Change]:
    verdict = live_of(report).get("verdict")
    if not verdict or not now.active or (before is not None and live_of(before).get("verdict") == verdict):
        return []
    return [Change("verdict", {"deployment": now.id, "step": live_of(report).get("step", ""), **verdict})]


def _controller(before: StatusReport | None, report: StatusReport) -> list[Change]:
    alive = bool(report.controller.get("alive"))
    if before is None or bool(before.controller.get("alive")) == alive:
        return []
    return [Change("controller.alive" if alive else "controller.lost", {"holder": report.controller.get("holder", "")})]
