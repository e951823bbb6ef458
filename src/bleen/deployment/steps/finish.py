"""The post-deployment phase: bake, final verification, record."""

from __future__ import annotations

import time
from typing import Any

from bleen.deployment.context import CONTROLLER, Context
from bleen.deployment.steps.step import ReadOnly
from bleen.errors import ProofFailed
from bleen.model.deployment import DeploymentStatus, PlannedStep, StepState
from bleen.model.traffic import TrafficSplit
from bleen.store.writer import Writer

POLL_S = 0.05


class Bake(ReadOnly):
    """The release has held 100 % for the bake time, watched absolutely; or a person ended the bake."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return None

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        journal = await context.store.read(lambda reader: reader.journal(context.deployment.id))
        began = next(entry.started_at for entry in journal if entry.step == step.name)
        bake_s = context.ports.config.deployment.bake.total_seconds()
        while time.time() - began < bake_s or context.control.paused:
            if context.control.promote:
                return {"left": "a person promoted it", "baked_s": round(time.time() - began, 1)}
            await context.control.wait(POLL_S)
        return {"baked_s": round(time.time() - began, 1)}


class FinalVerification(ReadOnly):
    """The proxy confirms 100 %, and the release is healthy and is the one that was deployed."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return 30.0

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        del step
        candidate, version = context.deployment.candidate, context.deployment.release.version
        reading = await context.ports.proxy.router.read()
        if not reading.confirms(TrafficSplit.all_to(candidate)):
            raise ProofFailed(f"the proxy does not confirm 100% on {candidate.value}: {reading.evidence}")
        answer = await context.ports.ask(candidate)
        if not answer.ok or (answer.version and answer.version != version):
            raise ProofFailed(f"{candidate.value} does not answer as {version}: {answer.evidence} {answer.version}".rstrip())
        return {"reading": reading.evidence, "health": answer.evidence}


class Record(ReadOnly):
    """The deployment is promoted, and the old environment's rollback window runs."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return 30.0

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        deployment, options = context.deployment, context.ports.config.deployment
        tally = context.watch.verdict.tallies.get(deployment.candidate)
        figures = {"requests": tally.requests, "failed_requests": tally.failures} if tally else {}
        reason = f"{deployment.release.version} holds 100% in {deployment.candidate.value}"

        def write(writer: Writer) -> None:
            if deployment.baseline is not None:
                writer.retire_at(deployment.baseline, writer.now() + options.rollback_window.total_seconds())
            writer.add_outcome(deployment.id, figures)
            writer.end_step(deployment.id, step.name, "do", StepState.DONE, {})
            writer.set_status(deployment.id, DeploymentStatus.PROMOTED, reason=reason)
            writer.add_event("deployment.ended", CONTROLLER, deployment.id, {"status": "promoted", "reason": reason})

        await context.store.write(write)
        return {}
