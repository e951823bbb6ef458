"""Preflight: the world is ready, or the deployment is refused and nothing has changed."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil

from bleen.deployment.context import Context
from bleen.deployment.detect import detect
from bleen.deployment.steps.step import ReadOnly
from bleen.errors import PreflightFailed, Refused, RouterUnavailable, StepFailed
from bleen.model.deployment import PlannedStep
from bleen.model.environment import Environment
from bleen.runtime.runtime import Ownership, RunState
from bleen.traffic.router import Severity

MIN_DISK_BYTES = 256 * 1024 * 1024  # the access log of a busy deployment, the release's own log, the store
MIN_MEMORY_BYTES = 128 * 1024 * 1024  # a second release beside the first


class Preflight(ReadOnly):
    """Proxy reachable, active environment as recorded and healthy, standby free, headroom."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return 60.0

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        del step
        try:
            await _proxy_serves(context)
            detected = await _active_environment(context)
            await _standby_free(context)
            headroom = await asyncio.to_thread(_headroom, context)
        except PreflightFailed:
            raise
        except (Refused, RouterUnavailable, StepFailed) as error:  # whoever refuses: nothing was begun, so there is nothing to take back
            raise PreflightFailed(error.message, next_command=error.next_command or "bleen check") from error
        return {"detected": detected, **headroom}


async def _proxy_serves(context: Context) -> None:
    proxy = context.ports.proxy
    errors = [finding for finding in await proxy.installer.check() if finding.severity is Severity.ERROR]
    if errors:
        raise PreflightFailed("; ".join(f"{finding.subject}: {finding.message}" for finding in errors), next_command="bleen check")
    await proxy.installer.install()


async def _active_environment(context: Context) -> str:
    """Told by the proxy and the health checks; the record must agree with them."""
    deployment, ports = context.deployment, context.ports
    route = await context.store.read(lambda reader: reader.route())
    reading = await ports.proxy.router.read()
    probes = {environment: await ports.ask(environment) for environment in Environment}
    detection = detect(route, reading, probes)
    if not detection.agrees or detection.active is not deployment.baseline:
        raise PreflightFailed(
            f"{detection.evidence}; the deployment would start from {deployment.baseline or 'nothing'}", next_command="bleen status"
        )
    return detection.evidence


async def _standby_free(context: Context) -> None:
    """Nothing runs in the standby but a release that bleen put there and may retire."""
    ports, candidate = context.ports, context.deployment.candidate
    residents = await context.store.read(lambda reader: reader.residents())
    resident = residents.get(candidate)
    proof = await ports.runtime.prove_listener(candidate)
    status = await ports.runtime.status(candidate)
    if proof.ownership is Ownership.FOREIGN:
        held = "the adopted release that was active before" if resident and resident.adopted else "somebody else"
        raise PreflightFailed(
            f"{candidate.value} is not free: its port is held by {held}: {proof.evidence}",
            next_command="stop it, or give the environment another port",
        )
    known = resident is not None and status.token in ("", resident.deployment, context.token)
    if status.state is RunState.RUNNING and not known:
        raise PreflightFailed(f"{candidate.value} is not free: {status.evidence}", next_command=f"bleen logs {candidate.value}")
    answer = await ports.ask(candidate)
    if status.state is RunState.STOPPED and answer.ok:
        raise PreflightFailed(
            f"{candidate.value} is not free: nothing of ours runs there, but it answers its health check: {answer.evidence}"
        )


def _headroom(context: Context) -> dict[str, Any]:
    disk = psutil.disk_usage(str(context.ports.state_dir)).free
    memory = psutil.virtual_memory().available
    if disk < MIN_DISK_BYTES:
        raise PreflightFailed(f"{disk >> 20} MB are free on the disk of {context.ports.state_dir}, {MIN_DISK_BYTES >> 20} MB are needed")
    if memory < MIN_MEMORY_BYTES:
        raise PreflightFailed(f"{memory >> 20} MB of memory are available, {MIN_MEMORY_BYTES >> 20} MB are needed for a second release")
    return {"disk_free_mb": disk >> 20, "memory_available_mb": memory >> 20}
