"""Drives one deployment: journal the intent, act, confirm, journal the result; drive and watch side by side."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import structlog

from bleen.deployment.context import CONTROLLER, Context, Control, FencedStore
from bleen.deployment.ports import Ports
from bleen.deployment.rollback import order_rollback, roll_back
from bleen.deployment.steps import implementation
from bleen.deployment.steps.step import Step
from bleen.deployment.watch import Harm, Watch
from bleen.errors import BleenError, DeadlineExceeded, Fenced, PreflightFailed, Refused, StepFailed, StoreUnavailable, Transient
from bleen.model.deployment import Deployment, DeploymentStatus, PlannedStep, StepState
from bleen.model.verdict import Verdict
from bleen.store.reader import Reader
from bleen.store.writer import Writer

TRANSIENT_ATTEMPTS = 3
RETRY_S = 0.5
CLOCK_S = 0.5
logger = structlog.get_logger()


class Engine:
    """Takes one deployment to its end, from wherever it stands."""

    def __init__(self, ports: Ports, store: FencedStore, control: Control) -> None:
        self._ports = ports
        self._store = store
        self._control = control

    async def run(self, deployment: Deployment) -> None:
        """The deployment has ended. Raises errors.Fenced and StoreUnavailable, after which somebody else drives it on."""
        deployment_id = deployment.id
        while deployment.status.active:
            context = await self._context(deployment)
            if deployment.status is DeploymentStatus.RUNNING:
                await self._go_forward(context)
            elif deployment.status is DeploymentStatus.ROLLING_BACK:
                await roll_back(context)
            else:
                await context.watch.run(act=False)  # frozen: shown, until a person's command fences this off
            found = await self._store.read(lambda reader: reader.deployment(deployment_id))
            if found is None:
                raise Fenced(f"deployment {deployment.id} is gone from the store")
            deployment = found
        logger.info("deployment.ended", deployment=deployment.id, status=deployment.status.value, reason=deployment.reason)

    async def _context(self, deployment: Deployment) -> Context:
        watch = Watch(self._ports, deployment, deployment.outcome.get("place"))
        watch.replay(await self._store.read(lambda reader: reader.journal(deployment.id)))
        return Context(deployment, self._ports, self._store, self._control, watch)

    async def _go_forward(self, context: Context) -> None:
        """The plan is through; or the deployment is refused, ordered back, or frozen."""
        try:
            await first_to_end(self._steps(context), context.watch.run(), self._clock(context))
        except (Fenced, StoreUnavailable):
            raise
        except PreflightFailed as error:
            await self._refuse(context, error)
        except Harm as harm:
            await self._take_back(context, harm.verdict.sentence, harm.verdict.cause, harm.verdict)
        except DeadlineExceeded as error:
            await self._take_back(context, error.message, "deadline")
        except BleenError as error:
            await self._take_back(context, error.message, "step failed", next_command=error.next_command)
        except Exception as error:
            logger.exception("engine.failed", deployment=context.deployment.id)
            await self._take_back(context, f"internal error: {type(error).__name__}: {error}", "internal error")

    async def _steps(self, context: Context) -> None:
        journal = await self._store.read(lambda reader: reader.journal(context.deployment.id))
        done = {entry.step for entry in journal if entry.kind == "do" and entry.state is StepState.DONE}
        for step in context.deployment.plan:
            if step.name in done:
                continue
            while context.control.paused:
                await context.control.wait(CLOCK_S)
            implemented = implementation(step.kind)
            if implemented is None:
                raise StepFailed(f"step {step.name} of kind {step.kind!r} is unknown to this version of bleen")
            context.watch.step = step.name
            await self._step(context, step, implemented)

    async def _step(self, context: Context, step: PlannedStep, implemented: Step) -> None:
        deployment, epoch = context.deployment.id, self._store.lease.epoch
        for tried in itertools.count(1):
            attempt = await self._store.write(lambda writer: _begin(writer, deployment, step, epoch))
            logger.info("step.started", deployment=deployment, step=step.name, attempt=attempt)
            limit_s = implemented.limit_s(context, step)
            try:
                async with asyncio.timeout(limit_s):
                    result = await implemented.do(context, step)
            except TimeoutError as error:
                raise DeadlineExceeded(f"{step.name} was not done within {limit_s:.0f} s") from error
            except StoreUnavailable:
                raise
            except Transient as error:
                if tried >= TRANSIENT_ATTEMPTS:
                    raise
                logger.warning("step.retried", deployment=deployment, step=step.name, evidence=error.message)
                await asyncio.sleep(RETRY_S * tried)
                continue
            break
        if step.kind != "record":  # the record ends itself in the same transaction as the deployment
            await self._store.write(lambda writer: _end(writer, deployment, step, result))

    async def _clock(self, context: Context) -> None:
        """Counts the time against the deadlines, and raises DeadlineExceeded at the end of one."""
        options, deployment = context.ports.config.deployment, context.deployment.id
        last = time.monotonic()
        while True:
            await asyncio.sleep(CLOCK_S)
            passed, last = time.monotonic() - last, time.monotonic()
            paused, baking = context.control.paused, context.watch.step in _AFTER_PROMOTION
            column = "paused_s" if paused else "" if baking else "active_s"
            if not column:
                continue
            await self._store.write(lambda writer, column=column, passed=passed: writer.add_clock(deployment, column, passed))  # type: ignore[misc]
            active_s, paused_s, _ = await self._store.read(lambda reader: reader.clocks(deployment))
            if active_s > options.timeout.total_seconds():
                said = f"not promoted within {options.timeout.total_seconds():.0f} s of active time"
                raise DeadlineExceeded(f"{said}, at {context.watch.step}: {context.watch.verdict.sentence}")
            if paused_s > options.pause_timeout.total_seconds():
                raise DeadlineExceeded(f"paused for longer than {options.pause_timeout.total_seconds():.0f} s at {context.watch.step}")

    async def _refuse(self, context: Context, error: PreflightFailed) -> None:
        await self._store.write(lambda writer: refuse(writer, context.deployment, error))

    async def _take_back(self, context: Context, reason: str, cause: str, verdict: Verdict | None = None, next_command: str = "") -> None:
        """Ordered back in one transaction; or frozen, where automatic rollback is switched off or would move users to an ill release."""
        deployment = context.deployment
        figures = _figures(context, verdict or context.watch.verdict) | ({"next": next_command} if next_command else {})

        def write(writer: Writer) -> None:
            if writer.glance().status != DeploymentStatus.RUNNING:
                return  # its last write has landed, and it was this that came too late
            writer.add_outcome(deployment.id, figures)
            why_not = _why_not_back(context, writer)
            if not why_not:
                order_rollback(writer, deployment, reason, cause, replace(CONTROLLER, reason=reason))
                return
            said = f"{reason}; {why_not}: traffic stays as it is"
            writer.set_status(deployment.id, DeploymentStatus.FROZEN, reason=said, cause=cause)
            writer.add_event("deployment.frozen", CONTROLLER, deployment.id, {"reason": said, "cause": cause})

        await self._store.write(write)


def _why_not_back(context: Context, reader: Reader) -> str:
    """Why a person must decide; empty where going back helps users or moves nobody."""
    baseline, config = context.deployment.baseline, context.ports.config
    if not config.deployment.auto_rollback:
        return "automatic rollback is off"
    tally = context.watch.verdict.tallies.get(baseline) if baseline else None
    moves_users = baseline is not None and reader.route().split.weight_of(baseline) < 100
    if tally is not None and moves_users and tally.probes_failed_in_a_row >= config.health.failures:
        return f"{baseline}, the way back, fails its own health checks"
    return ""


_AFTER_PROMOTION = ("bake", "final-verification", "record")


def refuse(writer: Writer, deployment: Deployment, error: Refused) -> None:
    """The deployment has ended before it changed anything."""
    writer.add_outcome(deployment.id, {"next": error.next_command} if error.next_command else {})
    writer.set_status(deployment.id, DeploymentStatus.REFUSED, reason=error.message, cause="preflight")
    writer.add_event("deployment.ended", CONTROLLER, deployment.id, {"status": "refused", "reason": error.message})


def _begin(writer: Writer, deployment: str, step: PlannedStep, epoch: int) -> int:
    attempt = writer.begin_step(deployment, step.name, "do", epoch)
    writer.add_event("step.started", CONTROLLER, deployment, {"step": step.name, "phase": step.phase.value, "attempt": attempt})
    return attempt


def _end(writer: Writer, deployment: str, step: PlannedStep, result: dict[str, Any]) -> None:
    writer.end_step(deployment, step.name, "do", StepState.DONE, result)
    writer.add_event("step.done", CONTROLLER, deployment, {"step": step.name, "phase": step.phase.value, "result": result})


def _figures(context: Context, verdict: Verdict) -> dict[str, Any]:
    tally = verdict.tallies.get(context.deployment.candidate)
    return {
        "verdict": verdict.to_dict(),
        "verdict_at": time.time(),
        "first_failure_at": verdict.first_failure_at,
        "requests": tally.requests if tally else 0,
        "failed_requests": tally.failures if tally else 0,
    }


async def first_to_end(drive: Coroutine[Any, Any, None], *companions: Coroutine[Any, Any, None]) -> None:
    """`drive` ran to its end with its companions beside it; whichever fails first ends them all and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in (drive, *companions)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        error = task.exception()
        if isinstance(error, BaseExceptionGroup):
            raise _root(error)
        if error is not None:
            raise error


def _root(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of tasks failed by; Fenced before anything else, because then nothing may be written."""
    found = [_root(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in found if isinstance(error, Fenced)), found[0])
