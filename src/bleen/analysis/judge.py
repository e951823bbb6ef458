"""The judge: samples and probes in, a verdict with its evidence out. It reads no clock and no file, so a replay judges alike."""

from __future__ import annotations

from collections.abc import Sequence

from bleen.analysis.evidence import Evidence, Step
from bleen.analysis.window import Window
from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult, Sample
from bleen.model.verdict import Judgement, Policy, Stage, Tally, Verdict


class Judge:
    """Judges one candidate, beside its baseline where there is one, over all steps of a deployment.

    Samples belong to the step in which they ended, whenever they are handed over. After a restart a new judge that is
    given the same steps and the same log comes to the same verdict, however the log is cut into batches.
    """

    def __init__(self, policy: Policy, candidate: Environment, baseline: Environment | None) -> None:
        self._policy = policy
        self._candidate = candidate
        self._baseline = baseline
        self._steps: list[Step] = []
        self._evidence = Evidence(policy, has_baseline=baseline is not None)
        self._requests = {environment: _Requests() for environment in Environment}
        self._probes = {environment: _Probes() for environment in Environment}
        self._first_failure_at = 0.0

    def enter(self, stage: Stage, weight_pct: int, now: float) -> None:
        """From `now` on the candidate is in this stage at this weight: counts since the step restart, evidence carries."""
        self._steps.append(Step(len(self._steps) + 1, stage, weight_pct, now))
        for requests in self._requests.values():
            requests.begin_step()

    def note_samples(self, batch: Sequence[Sample]) -> None:
        """The requests are counted, in the order of the log. Those that ended before the watch, or have no environment, are not."""
        limit_s = self._policy.latency_limit_s
        present = self._steps[-1] if self._steps else None
        for sample in batch:
            step = present if present and sample.at >= present.start else self._step_at(sample.at)
            if step is None or sample.environment is None:
                continue
            failed = sample.failed(limit_s)
            of_candidate = sample.environment is self._candidate
            self._requests[sample.environment].add(sample, failed, in_present_step=step is present)
            self._evidence.add(step, sample.at, of_candidate, failed)
            if failed and of_candidate and not self._first_failure_at and step.stage is not Stage.STANDBY:
                self._first_failure_at = sample.at

    def note_probe(self, result: ProbeResult) -> None:
        """The answer is counted, unless this process was too busy to time it."""
        if not result.late:
            self._probes[result.environment].add(result)

    def verdict(self, now: float) -> Verdict:
        """What all of this says. Asking changes nothing."""
        judgement, sentence, cause = self._judgement()
        since = self._steps[0].start if self._steps else now
        watched = [self._candidate, *([self._baseline] if self._baseline else [])]
        return Verdict(
            judgement=judgement,
            sentence=sentence,
            cause=cause,
            evidence=self._evidence.e_value,
            needed=self._policy.evidence_needed,
            tallies={environment: self._tally(environment, now, since) for environment in watched},
            first_failure_at=self._first_failure_at or self._probes[self._candidate].failing_since,
        )

    def _judgement(self) -> tuple[Judgement, str, str]:
        """Judgement, sentence and cause. What cannot be helped by going back comes first, then harm, then patience."""
        probes = self._probes[self._candidate]
        limit = self._policy.probe_failures
        baseline_row = self._probes[self._candidate.other].in_a_row if self._baseline else 0
        starting = self._stage is Stage.STANDBY and not probes.worst_was_healthy
        unhealthy = probes.in_a_row >= limit and not starting
        if baseline_row >= limit:
            return Judgement.INCONCLUSIVE, self._about_a_failing_baseline(unhealthy), ""
        if unhealthy and not baseline_row:
            return Judgement.FAIL, self._about_probes(self._candidate), "health checks"
        if self._evidence.enough:
            return Judgement.FAIL, f"{self._about_requests()}; {self._about_evidence()}", "error rates"
        if unhealthy:
            both = f"{self._about_probes(self._candidate)}; but {self._about_probes(self._candidate.other)}"
            return Judgement.INCONCLUSIVE, both, ""
        if starting:
            return Judgement.INCONCLUSIVE, f"{self._candidate} is starting: {probes.evidence or 'not asked yet'}", ""
        seen = self._requests[self._candidate].in_step
        if self._stage is Stage.COMPARE and seen < self._policy.min_requests:
            needed = self._policy.min_requests
            return Judgement.INCONCLUSIVE, f"{seen} of {needed} requests of {self._candidate} seen at {self._steps[-1].weight_pct} %", ""
        if self._stage is Stage.STANDBY:
            return Judgement.PASS, f"{self._candidate} answers its health checks: {probes.evidence}", ""
        return Judgement.PASS, f"{self._about_requests()}; {self._about_evidence()}", ""

    @property
    def _stage(self) -> Stage:
        return self._steps[-1].stage if self._steps else Stage.STANDBY

    def _step_at(self, at: float) -> Step | None:
        """The step in which a request ended; None before the watch began."""
        return next((step for step in reversed(self._steps) if step.start <= at), None)

    def _tally(self, environment: Environment, now: float, since: float) -> Tally:
        requests = self._requests[environment]
        rate, p95_s = requests.window.rate_and_p95(now, since)
        return Tally(requests.ever, requests.ever_failed, rate, p95_s, self._probes[environment].in_a_row)

    def _about_requests(self) -> str:
        """green fails 4.9 % of requests, blue 0.1 %; 9 failures: since the step began."""
        candidate = self._requests[self._candidate]
        if self._stage is Stage.COMPARE and self._baseline:
            beside = f"{self._baseline} {self._requests[self._baseline].share_in_step}"
        else:
            beside = f"{_percent(self._evidence.cap)} allowed"
        failures = "1 failure" if candidate.in_step_failed == 1 else f"{candidate.in_step_failed} failures"
        return f"{self._candidate} fails {candidate.share_in_step} of requests, {beside}; {failures}"

    def _about_evidence(self) -> str:
        evidence, needed = self._evidence.e_value, self._policy.evidence_needed
        shown = "over a million" if evidence > 1e6 else f"{evidence:.0f}" if evidence >= 10 else f"{evidence:.1f}"
        return f"evidence {shown} of {needed:.0f} needed"

    def _about_probes(self, environment: Environment) -> str:
        probes = self._probes[environment]
        times = "its last health check" if probes.in_a_row == 1 else f"{probes.in_a_row} health checks in a row"
        return f"{environment} failed {times}: {probes.evidence}"

    def _about_a_failing_baseline(self, unhealthy: bool) -> str:
        baseline = self._candidate.other
        sentence = f"{baseline} itself fails, so {self._candidate} cannot be judged against it: {self._about_probes(baseline)}"
        if unhealthy:
            sentence += f"; {self._about_probes(self._candidate)}"
        if self._evidence.enough:
            sentence += f"; {self._about_requests()}; {self._about_evidence()}"
        return sentence


class _Requests:
    """Requests of one environment: since the watch began, since the step began, in the last seconds."""

    __slots__ = ("ever", "ever_failed", "in_step", "in_step_failed", "window")

    def __init__(self) -> None:
        self.ever = self.ever_failed = self.in_step = self.in_step_failed = 0
        self.window = Window()

    def begin_step(self) -> None:
        self.in_step = self.in_step_failed = 0

    def add(self, sample: Sample, failed: bool, in_present_step: bool) -> None:
        self.ever += 1
        self.ever_failed += failed
        if in_present_step:
            self.in_step += 1
            self.in_step_failed += failed
        self.window.add(sample.at, sample.request_time_s)

    @property
    def share_in_step(self) -> str:
        return _percent(self.in_step_failed / self.in_step if self.in_step else 0.0)


class _Probes:
    """The health of one environment: each kind of question has its own row of failures, the longest counts."""

    __slots__ = ("_first_failed_at", "_healthy", "_last", "_rows")

    def __init__(self) -> None:
        self._rows = dict.fromkeys(ProbeKind, 0)
        self._first_failed_at = dict.fromkeys(ProbeKind, 0.0)
        self._healthy: set[ProbeKind] = set()  # kinds that were ever answered well
        self._last: dict[ProbeKind, str] = {}

    def add(self, result: ProbeResult) -> None:
        kind = result.kind
        self._last[kind] = result.evidence
        if result.ok:
            self._rows[kind] = 0
            self._healthy.add(kind)
            return
        if not self._rows[kind]:
            self._first_failed_at[kind] = result.at
        self._rows[kind] += 1

    @property
    def _worst(self) -> ProbeKind:
        """The question that fails most; among those that fail alike, one that was asked."""
        return max(ProbeKind, key=lambda kind: (self._rows[kind], kind in self._last))

    @property
    def in_a_row(self) -> int:
        return self._rows[self._worst]

    @property
    def worst_was_healthy(self) -> bool:
        return self._worst in self._healthy

    @property
    def failing_since(self) -> float:
        """When the present row of failures began; 0: the last answer was well, or it was never healthy."""
        return self._first_failed_at[self._worst] if self.in_a_row and self.worst_was_healthy else 0.0

    @property
    def evidence(self) -> str:
        return self._last.get(self._worst, "")


def _percent(share: float) -> str:
    """A share for people: 4.9 %, 0.1 %, 0.012 %, 100 %."""
    percent = share * 100
    return f"{percent:.1f} %" if percent >= 0.1 or not percent else f"{percent:.2g} %"
