"""Verdict: what the evidence says about a candidate, in one sentence and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bleen.model.environment import Environment


class Judgement(StrEnum):
    PASS = "pass"  # noqa: S105 - a judgement, no password. Nothing speaks against it, and enough was seen
    FAIL = "fail"  # take the traffic back
    INCONCLUSIVE = "inconclusive"  # hold: not enough was seen, or the two environments cannot be told apart


class Stage(StrEnum):
    """What the candidate may be compared with."""

    STANDBY = "standby"  # no users yet: probes only
    COMPARE = "compare"  # both take traffic: relative and absolute tests
    ABSOLUTE = "absolute"  # first deployment, or the bake: no baseline takes traffic


@dataclass(frozen=True, slots=True)
class Policy:
    """When evidence is enough. Shares are fractions of 1."""

    alpha: float = 0.01  # chance of a false rollback over a whole deployment
    ratio: float = 1.5  # r0: the candidate may fail this many times as often as the baseline
    floor: float = 0.005  # F3: failure share below which nothing is rolled back
    min_requests: int = 50  # candidate requests before a step may pass
    latency_limit_s: float = 5.0  # a client that left after this long counts as a failure
    probe_failures: int = 3  # consecutive failed probes that fail an environment

    @property
    def evidence_needed(self) -> float:
        return 1.0 / self.alpha


@dataclass(frozen=True, slots=True)
class Tally:
    """What one environment did since the watch began (or the stage, where it says so)."""

    requests: int = 0
    failures: int = 0
    requests_per_s: float = 0.0
    p95_s: float = 0.0
    probes_failed_in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement with its evidence. `evidence` is an e-value: at `needed` and above the traffic goes back."""

    judgement: Judgement
    sentence: str
    cause: str = ""  # of a FAIL: "health checks" or "error rates"
    evidence: float = 1.0
    needed: float = 100.0
    tallies: dict[Environment, Tally] = field(default_factory=dict)
    first_failure_at: float = 0.0  # of the candidate, seconds since the epoch; 0: none

    def to_dict(self) -> dict[str, Any]:
        return {
            "judgement": self.judgement.value,
            "sentence": self.sentence,
            "cause": self.cause,
            "evidence": round(self.evidence, 3),
            "needed": self.needed,
            "first_failure_at": self.first_failure_at,
            "environments": {
                environment.value: {
                    "requests": tally.requests,
                    "failures": tally.failures,
                    "requests_per_s": round(tally.requests_per_s, 1),
                    "p95_ms": round(tally.p95_s * 1000, 1),
                    "probes_failed_in_a_row": tally.probes_failed_in_a_row,
                }
                for environment, tally in self.tallies.items()
            },
        }
