"""The port that moves users, and the ladder of weights behind it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from bleen.deployment.context import Context
from bleen.deployment.route import hold_route
from bleen.errors import Fenced, ProofFailed
from bleen.model.deployment import DeploymentStatus
from bleen.model.environment import Environment
from bleen.model.traffic import CLOSED, Route, TrafficSplit
from bleen.model.verdict import Judgement, Stage
from bleen.store.writer import Writer

POLL_S = 0.05
PAUSED_S = 1.0  # a resume ends the wait at once


@dataclass(frozen=True, slots=True)
class Held:
    """A weight that the proxy has confirmed."""

    stage: Stage  # what the candidate is compared with from now on
    weight_pct: int
    since: float  # seconds since the epoch
    took_ms: float  # from the write to the confirmation


class Switch(Protocol):
    """Moves users from the baseline to the candidate. The way back is the route itself (`rollback.py`)."""

    async def begin(self, weight_pct: int) -> Held:
        """The candidate takes `weight_pct` of new requests, confirmed. Raises ProofFailed, RouterUnavailable."""

    async def resume(self, held: Held) -> None:
        """What was begun before a restart holds again."""

    async def observe(self, held: Held) -> str:
        """The weight has held long enough and the verdict is a pass, or a person sent it on. Returns why it ended."""


class Ladder:
    """Weights step by step on the service's own proxy."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def begin(self, weight_pct: int) -> Held:
        deployment, ports = self._context.deployment, self._context.ports
        probe = await ports.ask(deployment.candidate)
        if not probe.ok:  # never a route without a healthy backend
            raise ProofFailed(f"{deployment.candidate.value} is not healthy before {weight_pct}%: {probe.evidence}")
        compared = deployment.baseline is not None and weight_pct < 100
        took_s = await self._hold(weight_pct)
        held = Held(Stage.COMPARE if compared else Stage.ABSOLUTE, weight_pct, time.time(), round(took_s * 1000, 2))
        self._context.watch.enter(held.stage, weight_pct, held.since)
        return held

    async def resume(self, held: Held) -> None:
        await self._hold(held.weight_pct)

    async def observe(self, held: Held) -> str:
        control, step = self._context.control, self._context.ports.config.deployment.step
        while True:
            if control.promote:
                return "a person promoted it"
            verdict = self._context.watch.verdict
            long_enough = time.time() - held.since >= step.dwell.total_seconds()
            if long_enough and not control.paused and verdict.judgement is Judgement.PASS:
                return verdict.sentence
            await control.wait(POLL_S)

    async def _hold(self, weight_pct: int) -> float:
        split = TrafficSplit.with_weight(self._context.deployment.candidate, weight_pct)
        epoch = self._context.store.lease.epoch
        deployment = self._context.deployment.id

        def intend(writer: Writer) -> Route | None:
            glance = writer.glance()
            if glance.status != DeploymentStatus.RUNNING:
                raise Fenced(f"deployment {deployment} is not running any more: its weights are not raised")
            if glance.paused and writer.route().split != split:
                return None
            return writer.set_route(epoch, split)

        while (route := await self._context.store.write(intend)) is None:  # paused since the last look
            await self._context.control.wait(PAUSED_S)
        return await hold_route(self._context.ports, self._context.store, route, self._context.deployment.id)


def rollback_split(baseline: Environment | None) -> TrafficSplit:
    """Where users go when the candidate is taken back; nowhere when there never was another release."""
    return TrafficSplit.all_to(baseline) if baseline else CLOSED
