"""The way back: the order that moves the traffic in one transaction, then the undoing of what is safe to undo."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import structlog

from bleen.deployment.context import CONTROLLER, Context
from bleen.deployment.route import hold_route
from bleen.deployment.steps import implementation
from bleen.deployment.steps.step import Step
from bleen.deployment.switch import rollback_split
from bleen.errors import BleenError, Fenced, StoreUnavailable, Transient
from bleen.model.deployment import Deployment, DeploymentStatus, JournalEntry, PlannedStep, StepState
from bleen.store.writer import Who, Writer

RETRY_S = 0.2
UNDO_ATTEMPTS = 5
logger = structlog.get_logger()


def order_rollback(writer: Writer, deployment: Deployment, reason: str, cause: str, who: Who) -> None:
    """The deployment rolls back, and the route that should hold is the baseline alone: from here on nothing restores the candidate."""
    writer.set_status(deployment.id, DeploymentStatus.ROLLING_BACK, reason=reason, cause=cause)
    if deployment.baseline is not None:
        writer.retire_at(deployment.baseline, 0.0)
    route = writer.set_route(writer.glance().epoch, rollback_split(deployment.baseline))
    body = {"reason": reason, "cause": cause, "blue": route.split.blue, "green": route.split.green}
    writer.add_event("rollback.ordered", who, deployment.id, body)


async def roll_back(context: Context) -> None:
    """Users are on the baseline, every step that was begun is undone in reverse, and the deployment has ended.

    At ROLLBACK_TIMEOUT it ends as failed, for a person; the candidate never gets traffic again.
    """
    limit_s = context.ports.config.deployment.rollback_timeout.total_seconds()
    _, _, used_s = await context.store.read(lambda reader: reader.clocks(context.deployment.id))
    started = time.monotonic()
    try:
        async with asyncio.timeout(max(0.0, limit_s - used_s)):
            await _move_traffic(context)
            kept = await _undo_steps(context)
    except TimeoutError:
        reason = f"the rollback did not end within {limit_s:.0f} s; traffic stays off {context.deployment.candidate.value}"
        await _end(context, DeploymentStatus.FAILED, reason, {})
        return
    finally:
        spent_s = time.monotonic() - started
        await context.store.write(lambda writer: writer.add_clock(context.deployment.id, "rollback_s", spent_s))
    failed = [name for name, said in kept.items() if said.startswith("failed")]
    if failed:
        reason = f"{context.deployment.reason}; traffic is back, but {', '.join(f'{name}: {kept[name]}' for name in failed)}"
        await _end(context, DeploymentStatus.FAILED, reason, {"kept": kept})
    else:
        await _end(context, DeploymentStatus.ROLLED_BACK, context.deployment.reason, {"kept": kept})


async def _move_traffic(context: Context) -> None:
    """Traffic first; tried again until the proxy confirms it."""
    while True:
        try:
            route = await context.store.read(lambda reader: reader.route())
            took_s = await hold_route(context.ports, context.store, route, context.deployment.id)
        except StoreUnavailable:
            raise
        except Transient as error:
            await context.store.event("rollback.retried", context.deployment.id, {"evidence": error.message})
            await asyncio.sleep(RETRY_S)
        else:
            figures = _restored(context.deployment.outcome, time.time()) | {"restore_took_ms": round(took_s * 1000, 2)}
            if "restored_at" not in context.deployment.outcome:
                await context.store.write(partial(_add_outcome, deployment=context.deployment.id, figures=figures))
            return


def _restored(outcome: dict[str, Any], restored_at: float) -> dict[str, Any]:
    """When users were back, and how long after the candidate's first failure that and the verdict came, in seconds."""
    first = float(outcome.get("first_failure_at") or 0)
    if not first:
        return {"restored_at": restored_at}
    detected_after_s = round(float(outcome["verdict_at"]) - first, 3)
    return {"restored_at": restored_at, "detected_after_s": detected_after_s, "restored_after_s": round(restored_at - first, 3)}


def _add_outcome(writer: Writer, deployment: str, figures: dict[str, Any]) -> None:
    writer.add_outcome(deployment, figures)


async def _undo_steps(context: Context) -> dict[str, str]:
    """Returns what was kept and why, by step."""
    journal = await context.store.read(lambda reader: reader.journal(context.deployment.id))
    begun = {entry.step for entry in journal if entry.kind == "do"}
    undone = {entry.step for entry in journal if entry.kind == "undo" and entry.state is StepState.DONE}
    kept: dict[str, str] = {}
    for step in reversed(context.deployment.plan):
        if step.name not in begun or step.name in undone:
            continue
        result = await _undo(context, step, journal)
        if "kept" in result:
            kept[step.name] = str(result["kept"])
    return kept


async def _undo(context: Context, step: PlannedStep, journal: list[JournalEntry]) -> dict[str, Any]:
    deployment, store = context.deployment.id, context.store
    undo = implementation(step.kind)
    if undo is None:  # this bleen does not know the step any more: nothing of it can be undone by us
        return {"kept": f"failed: step kind {step.kind!r} is unknown to this version"}
    await store.write(lambda writer: writer.begin_step(deployment, step.name, "undo", store.lease.epoch))
    result = await _tried(context, step, undo)
    state = StepState.FAILED if str(result.get("kept", "")).startswith("failed") else StepState.DONE
    await store.write(lambda writer: writer.end_step(deployment, step.name, "undo", state, result))
    return result


async def _tried(context: Context, step: PlannedStep, undo: Step) -> dict[str, Any]:
    """The undo's result; one that cannot be done says so, and the others are still undone."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await undo.undo(context, step)
        except (Fenced, StoreUnavailable):
            raise
        except BleenError as error:
            if not isinstance(error, Transient) or attempt == UNDO_ATTEMPTS:
                return {"kept": f"failed: {error.message}"}
            await asyncio.sleep(RETRY_S * attempt)
        except Exception as error:
            logger.exception("undo.failed", deployment=context.deployment.id, step=step.name)
            return {"kept": f"failed: internal error: {type(error).__name__}: {error}"}


async def _end(context: Context, status: DeploymentStatus, reason: str, figures: dict[str, Any]) -> None:
    deployment = context.deployment

    def write(writer: Writer) -> None:
        writer.add_outcome(deployment.id, figures)
        writer.set_status(deployment.id, status, reason=reason)
        writer.add_event(
            "deployment.ended", CONTROLLER, deployment.id, {"status": status.value, "reason": reason, "cause": deployment.cause}
        )

    await context.store.write(write)
