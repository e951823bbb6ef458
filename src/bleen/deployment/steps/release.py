"""The deployment phase: the release runs in the standby, is the one that answers, is healthy, and can be seen through the preview."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bleen.deployment.context import Context
from bleen.deployment.steps.step import ReadOnly
from bleen.errors import ProofFailed, RouterUnavailable, RuntimeFailed
from bleen.model.deployment import PlannedStep
from bleen.model.sample import ProbeKind, ProbeResult
from bleen.model.verdict import Stage
from bleen.runtime.runtime import Ownership, RunState
from bleen.store.writer import Writer

POLL_S = 0.1
PREVIEW_QUESTIONS = 3
RESUMED_S = 1.0  # for a wait whose time passed while no controller was there


class Start:
    """The release was started in the standby, after whatever stood there was retired."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return 120.0

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        deployment, runtime = context.deployment, context.ports.runtime
        residents = await context.store.read(lambda reader: reader.residents())
        before = residents.get(deployment.candidate)
        result: dict[str, Any] = {}
        if before is not None and before.deployment != context.token:
            await _take_no_traffic(context)
            result["retired"] = f"{before.release.version}: {(await runtime.stop(deployment.candidate, before.deployment)).value}"
        since = time.time()

        def intend(writer: Writer) -> None:
            writer.set_resident(deployment.candidate, deployment.release, context.token)
            writer.note_step(deployment.id, step.name, {"stage": Stage.STANDBY.value, "weight_pct": 0, "since": since})
            writer.add_outcome(deployment.id, {"place": context.watch.place()})

        await context.store.write(intend)
        await runtime.start(deployment.release, deployment.candidate, context.token)
        context.watch.enter(Stage.STANDBY, 0, since)
        return result | {"stage": Stage.STANDBY.value, "weight_pct": 0, "since": since}

    async def undo(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        """The candidate is stopped, once the proxy confirms that nobody is sent there."""
        del step
        candidate = context.deployment.candidate
        await _take_no_traffic(context)
        outcome = await context.ports.runtime.stop(candidate, context.token)
        await context.store.write(lambda writer: writer.clear_resident(candidate))
        return {"stopped": outcome.value}


class WaitHealthy(ReadOnly):
    """Startup, readiness and health answer, and what answers is the release that was started."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del step
        return context.ports.config.health.timeout.total_seconds()

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        journal = await context.store.read(lambda reader: reader.journal(context.deployment.id))
        began = next(entry.started_at for entry in journal if entry.step == step.name)  # of the first attempt: a restart gives no new time
        left_s = context.ports.config.health.timeout.total_seconds() - (time.time() - began)
        result: dict[str, Any] = {}
        async with asyncio.timeout(max(left_s, RESUMED_S)):
            for kind in (ProbeKind.STARTUP, ProbeKind.READY, ProbeKind.HEALTH):
                answer = await _until_ok(context, kind)
                result[kind.value] = answer.evidence
        result["identity"] = await prove_identity(context, answer)
        return result


class VerifyPreview(ReadOnly):
    """The release answers through the proxy's preview, where users cannot come by chance."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return 30.0

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        del step
        for _ in range(PREVIEW_QUESTIONS):
            answer = await context.ports.ask_preview(context.deployment.candidate)
            if not answer.ok:
                raise ProofFailed(f"{context.deployment.candidate.value} does not answer through the preview: {answer.evidence}")
            _same_version(context, answer)
        return {"preview": answer.evidence}


async def _until_ok(context: Context, kind: ProbeKind) -> ProbeResult:
    """Asks until the answer is good; a process that has ended meanwhile is not waited for."""
    candidate, runtime = context.deployment.candidate, context.ports.runtime
    while True:
        answer = await context.ports.ask(candidate, kind)
        if answer.ok:
            return answer
        if runtime.restarts_after_crash():
            status = await runtime.status(candidate)
            if status.state is RunState.STOPPED:
                version = context.deployment.release.version
                raise RuntimeFailed(
                    f"{version} ended while it was starting: {status.evidence}", next_command=f"bleen logs {candidate.value}"
                )
        await asyncio.sleep(POLL_S)


async def prove_identity(context: Context, answer: ProbeResult) -> str:
    """What answers is what was started: its listener belongs to the process, or its answer names the version."""
    candidate, version = context.deployment.candidate, context.deployment.release.version
    proof = await context.ports.runtime.prove_listener(candidate)
    _same_version(context, answer)
    if proof.ownership is Ownership.OURS or (proof.ownership is Ownership.UNKNOWN and answer.version == version):
        return proof.evidence if proof.ownership is Ownership.OURS else f"the answer names {answer.version}"
    raise ProofFailed(
        f"what answers in {candidate.value} cannot be shown to be {version}: {proof.evidence}, and the health answer names "
        f"{answer.version or 'no version'}; users are where they were",
        next_command=f"bleen logs {candidate.value}",
    )


def _same_version(context: Context, answer: ProbeResult) -> None:
    version = context.deployment.release.version
    if answer.version and answer.version != version:
        raise ProofFailed(f"{context.deployment.candidate.value} says it is {answer.version}, not {version}; users are where they were")


async def _take_no_traffic(context: Context) -> None:
    """The proxy itself says that the candidate's environment gets no requests. Raises RouterUnavailable otherwise."""
    reading = await context.ports.proxy.router.read()
    candidate = context.deployment.candidate
    if not reading.confirms(reading.split) or reading.split.weight_of(candidate) > 0:
        raise RouterUnavailable(f"{candidate.value} is not stopped: the proxy may still send users there: {reading.evidence}")
