"""What enters the store when somebody submits a deployment or adopts a running service."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bleen.config.schema import Config
from bleen.deployment.plan import DeployRequest, plan
from bleen.errors import Refused, WrongState
from bleen.model.deployment import Deployment, DeploymentStatus, PlannedStep
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.model.traffic import TrafficSplit
from bleen.store.reader import Reader, Resident
from bleen.store.writer import Who, Writer


@dataclass(frozen=True, slots=True)
class Places:
    """Where the next release goes, and what users are on (None before the first deployment)."""

    candidate: Environment
    baseline: Environment | None


def places(reader: Reader) -> Places:
    """Told by the route that should hold; the preflight asks the proxy and the health checks whether it does.

    Raises DeploymentActive, naming the holder, when a deployment is under way.
    """
    reader.refuse_active()
    split = reader.route().split
    baseline = split.holder()
    if baseline is None and not split.closed:
        raise WrongState(f"traffic is split ({split}) and no deployment may begin", next_command="bleen status")
    return Places(baseline.other, baseline) if baseline else Places(Environment.BLUE, None)


def active_already(reader: Reader, release: Release) -> str:
    """Why nothing has to be done for the release; empty when it is not active. Raises Refused for another one of its version."""
    current = _current(reader)
    if current is None or current.release.version != release.version:
        return ""
    if current.release.digest == release.digest:
        return f"{release.version} is active in {current.environment} already"
    raise Refused(
        f"{release.version} is active in {current.environment} with another configuration or commit; nothing changed",
        next_command=f"bleen deploy --version {release.version} --redeploy, or give the release its own version",
    )


def submit(writer: Writer, config: Config, request: DeployRequest, who: Who) -> Deployment:
    """The deployment is active, its plan and its configuration pinned. Raises DeploymentActive, WrongState."""
    where, current = places(writer), _current(writer)
    deployment = replace(
        _new(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", config, request.release, where, who),
        baseline_release=current.release if current else None,
        plan=plan(config, request, first=where.baseline is None),
        options=request.options(),
    )
    writer.insert_deployment(deployment, _pinned(config))
    body = {"version": request.release.version, "candidate": where.candidate.value, "baseline": (where.baseline or "")}
    writer.add_event("deployment.submitted", who, deployment.id, body)
    return deployment


def adopt(writer: Writer, config: Config, environment: Environment, release: Release, who: Who) -> str:
    """The running service is the active release, and a deployment that ended promoted tells of it. Returns its id."""
    writer.refuse_active()
    if not writer.route().split.closed:
        raise WrongState("a release is active already; nothing changed", next_command="bleen status")
    name = f"adopt-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    deployment = replace(_new(name, config, release, Places(environment, None), who), options={"adopted": True})
    writer.insert_deployment(deployment, _pinned(config))
    writer.set_status(name, DeploymentStatus.PROMOTED, reason=f"{release.version} was adopted as it ran in {environment.value}")
    writer.set_resident(environment, release, name, adopted=True)
    writer.set_route(writer.raise_epoch(), TrafficSplit.all_to(environment))
    writer.add_event("release.adopted", who, name, {"version": release.version, "environment": environment.value})
    return name


def _current(reader: Reader) -> Resident | None:
    """What users are on."""
    baseline = places(reader).baseline
    return reader.residents().get(baseline) if baseline else None


def _pinned(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _new(name: str, config: Config, release: Release, where: Places, who: Who) -> Deployment:
    no_steps: tuple[PlannedStep, ...] = ()
    return Deployment(
        id=name,
        service=config.service,
        release=release,
        candidate=where.candidate,
        baseline=where.baseline,
        baseline_release=None,
        plan=no_steps,
        status=DeploymentStatus.RUNNING,
        paused=False,
        promote="",
        reason="submitted",
        cause="",
        submitted_by=who.actor,
        submitted_at=0.0,  # the store's clock sets it
        ended_at=0.0,
        active_s=0.0,
        options={},
        outcome={},
    )
