"""The one loop that feeds signals to the judge at every event, and shows what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from bleen.analysis.judge import Judge
from bleen.deployment.ports import Ports
from bleen.errors import BleenError
from bleen.model.deployment import Deployment, JournalEntry, StepState
from bleen.model.verdict import Judgement, Policy, Stage, Verdict
from bleen.runtime.runtime import RunState
from bleen.signals.signal import Observation, SampleBatch
from bleen.store.live import write_live

TICK_S = 0.05
PUBLISH_S = 0.25
ASK_RUNTIME_S = 0.1


class Harm(BleenError):
    """The verdict is a fail: the traffic must go back."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict


class Watch:
    """Watches candidate and baseline of one deployment, from the start of the candidate to the end of the bake."""

    def __init__(self, ports: Ports, deployment: Deployment, place: dict[str, Any] | None) -> None:
        self._ports = ports
        self._deployment = deployment
        self._judge = Judge(policy_of(ports), deployment.candidate, deployment.baseline)
        self._follower = ports.follower(place)
        self._noticed = asyncio.Event()
        self._candidate_started = False
        self.step = ""
        self.requests_lost = 0
        self.verdict = self._judge.verdict(time.time())

    def place(self) -> dict[str, Any]:
        """The place in the access log up to which samples were judged."""
        return self._follower.place()

    def enter(self, stage: Stage, weight_pct: int, at: float) -> None:
        """From `at` (seconds since the epoch) on, samples are judged as of that stage."""
        self._judge.enter(stage, weight_pct, at)
        self.verdict = self._judge.verdict(time.time())  # that of the stage before lets nothing pass in this one
        self._candidate_started = True

    def replay(self, journal: Sequence[JournalEntry]) -> None:
        """The stages that the journal tells of are entered at the times at which they began."""
        for entry in journal:
            step = self._deployment.step(entry.step)
            if step is None or entry.kind != "do" or not entry.result.get("stage"):
                continue
            self._judge.enter(Stage(entry.result["stage"]), int(entry.result["weight_pct"]), float(entry.result["since"]))
            # The start notes its stage before it starts anything: until it is done, nothing that runs is no harm.
            self._candidate_started = self._candidate_started or entry.state is StepState.DONE

    async def run(self, *, act: bool = True) -> None:
        """Raises Harm at the first evidence of harm; with `act` off only shows it. Ends by cancellation."""
        pair = [self._deployment.candidate] + ([self._deployment.baseline] if self._deployment.baseline else [])
        prober = self._ports.prober(pair, self._ports.config.health.interval.total_seconds())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.observe(self._see))
            group.create_task(prober.observe(self._see))
            if act and self._ports.runtime.restarts_after_crash():
                group.create_task(self._ask_runtime())
            await self._decide(act=act)

    def _see(self, observation: Observation) -> None:
        if isinstance(observation, SampleBatch):
            self.requests_lost += observation.lost
            self._judge.note_samples(observation.samples)
        elif observation.environment is not self._deployment.candidate or self._candidate_started:
            self._judge.note_probe(observation)  # before its start, the answers of the standby are those of an older release
        self._noticed.set()

    async def _decide(self, *, act: bool) -> None:
        published = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._noticed.wait()
            self._noticed.clear()
            now = time.time()
            self.verdict = self._judge.verdict(now)
            if now - published > PUBLISH_S:
                published = now
                self._publish()
            if act and self.verdict.judgement is Judgement.FAIL:
                raise Harm(self.verdict)

    async def _ask_runtime(self) -> None:
        """A candidate whose process ends is harm, without waiting for a user to meet it."""
        candidate = self._deployment.candidate
        while True:
            await asyncio.sleep(ASK_RUNTIME_S)
            if not self._candidate_started:
                continue
            status = await self._ports.runtime.status(candidate)
            if status.state is RunState.STOPPED:
                self.verdict = self._judge.verdict(time.time())
                sentence = f"the process of {candidate.value} has ended: {status.evidence}"
                raise Harm(
                    Verdict(
                        Judgement.FAIL,
                        sentence,
                        "health checks",
                        tallies=self.verdict.tallies,
                        first_failure_at=self.verdict.first_failure_at,
                    )
                )

    def _publish(self) -> None:
        step = self._deployment.step(self.step)
        write_live(
            self._ports.state_dir,
            {
                "deployment": self._deployment.id,
                "step": self.step,
                "phase": step.phase.value if step else "",
                "verdict": self.verdict.to_dict(),
                "requests_lost": self.requests_lost,
                "way_back": self._way_back(),
            },
        )

    def _way_back(self) -> dict[str, Any]:
        baseline = self._deployment.baseline
        if baseline is None:
            return {}
        failed = self.verdict.tallies[baseline].probes_failed_in_a_row if baseline in self.verdict.tallies else 0
        ok = failed < self._ports.config.health.failures
        return {"ok": ok, "environment": baseline.value, "evidence": "healthy" if ok else f"{failed} probes failed in a row"}


def policy_of(ports: Ports) -> Policy:
    """The judge's policy as the configuration has it."""
    config = ports.config
    return Policy(
        alpha=config.evidence.alpha,
        ratio=config.evidence.ratio,
        floor=config.evidence.floor,
        min_requests=config.deployment.step.min_requests,
        latency_limit_s=config.evidence.latency_limit.total_seconds(),
        probe_failures=config.health.failures,
    )
