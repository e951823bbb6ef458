"""Evidence of user requests: samples go into batches, batches into the sequential tests."""

from __future__ import annotations

from dataclasses import dataclass

from bleen.analysis.bounds import upper_share
from bleen.analysis.sequential import AbsoluteErrors, RelativeErrors
from bleen.model.verdict import Policy, Stage

BATCH_S = 0.05  # the least time of a batch: bounds the work, and is the delay that it costs at high rates
# How alpha is shared out where there is a baseline; the shares sum to 1, so alpha holds for the whole deployment.
COMPARING_SHARE = 0.5
BAKING_SHARE = 0.4
BOUND_SHARE = 0.1  # the chance that the bound of the baseline's failure share is wrong
LENIENT_CAP = 0.1  # little knowledge of the baseline excuses no release that fails one request in ten
_LARGEST_CAP = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """What the candidate was asked to bear from `start` on."""

    number: int
    stage: Stage
    weight_pct: int
    start: float  # seconds since the epoch

    def batch(self) -> tuple[int, int]:
        """Requests of the candidate and of the baseline that a batch has at least: about one turn of the split."""
        if self.stage is Stage.ABSOLUTE:
            return 1, 0
        weight = min(max(self.weight_pct, 1), 99)
        return max(1, round(weight / (100 - weight))), max(1, round((100 - weight) / weight))


class Evidence:
    """The e-value of "the candidate must go", from the requests of all steps.

    While both environments take traffic the candidate must fail both more than `policy.ratio` times as often as the
    baseline and more than `policy.floor`: the smaller of the two e-values counts, valid as soon as one null holds. At 100 %
    it must fail more than `cap`. Each counts with its share of alpha; a weighted mean of e-values is one.

    Batches end by the requests' times and environments only, never by what failed nor by how the log was read: feeding the
    same log again gives the same evidence.
    """

    def __init__(self, policy: Policy, has_baseline: bool) -> None:
        self._policy = policy
        self._has_baseline = has_baseline
        self._relative = RelativeErrors(policy.ratio)
        self._above_floor = AbsoluteErrors(policy.floor)
        self._baking: AbsoluteErrors | None = None
        self._step = Step(0, Stage.STANDBY, 0, 0.0)
        self._least_candidate, self._least_baseline = 1, 0
        self._closed_at = 0.0
        self._candidate = self._candidate_failed = self._baseline = self._baseline_failed = 0
        self._baseline_ever = self._baseline_ever_failed = 0
        self.e_value = 1.0  # at the end of the last batch; stays where it reached what is needed
        self.cap = policy.floor  # of the bake

    @property
    def enough(self) -> bool:
        return self.e_value >= self._policy.evidence_needed

    def add(self, step: Step, at: float, of_candidate: bool, failed: bool) -> None:
        """One request of `step` is counted, in the order of the log."""
        if step.number > self._step.number:
            self._begin(step)
        if not of_candidate:
            self._baseline_ever += 1
            self._baseline_ever_failed += failed
        if step.stage is Stage.STANDBY:
            return
        if of_candidate:
            self._candidate += 1
            self._candidate_failed += failed
        else:
            self._baseline += 1
            self._baseline_failed += failed
        # A clock that was set back must not keep a batch open, hence abs().
        full = self._candidate >= self._least_candidate and self._baseline >= self._least_baseline
        if full and abs(at - self._closed_at) >= BATCH_S:
            self._close(at)

    def _begin(self, step: Step) -> None:
        self._close(step.start)
        self._step = step
        self._least_candidate, self._least_baseline = step.batch()
        if step.stage is Stage.ABSOLUTE and self._baking is None:
            self.cap = self._cap_of_the_bake() if self._has_baseline else self._policy.floor
            self._baking = AbsoluteErrors(self.cap)

    def _cap_of_the_bake(self) -> float:
        """`ratio` times what the baseline fails at most, within the floor and what no release may do."""
        policy = self._policy
        share = self._baseline_ever_failed / self._baseline_ever if self._baseline_ever else 0.0
        at_most = upper_share(self._baseline_ever, self._baseline_ever_failed, policy.alpha * BOUND_SHARE)
        lenient = max(policy.ratio * share, min(policy.ratio * at_most, LENIENT_CAP))
        return min(max(policy.floor, lenient), _LARGEST_CAP)

    def _close(self, at: float) -> None:
        """The open batch is in the tests, a new one is open."""
        if self._step.stage is Stage.COMPARE:
            self._relative.update(self._candidate, self._candidate_failed, self._baseline, self._baseline_failed)
            self._above_floor.update(self._candidate, self._candidate_failed)
        elif self._baking:
            self._baking.update(self._candidate, self._candidate_failed)
        self._candidate = self._candidate_failed = self._baseline = self._baseline_failed = 0
        self._closed_at = at
        if not self.enough:
            self.e_value = self._combined()

    def _combined(self) -> float:
        baking = self._baking.e_value if self._baking else 1.0
        if not self._has_baseline:
            return baking
        return COMPARING_SHARE * min(self._relative.e_value, self._above_floor.e_value) + BAKING_SHARE * baking
