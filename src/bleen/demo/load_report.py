"""What the load client saw, counted without mercy: no request is repeated and none is left out."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAILURES_LISTED = 10_000
SECONDS_LISTED = 3600
BUCKETS_PER_E_FOLD = 50  # latencies are kept in buckets 2 % wide: bounded memory, percentiles right to 1 %
SMALLEST_LATENCY_S = 1e-6


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request and what came of it."""

    request: str  # "GET /api/v1/accounts/acc-001"
    status: int  # 0: no whole answer came
    latency_s: float
    version: str = ""  # what the answer said of itself
    environment: str = ""
    reason: str = ""  # why there is no whole answer
    broken: bool = False  # the connection was closed after the request was sent and before the whole answer was there

    @property
    def failed(self) -> bool:
        return self.status == 0 or self.status >= 500


@dataclass(slots=True)
class Second:
    """What ended within one second of the wall clock."""

    second: int
    requests: int = 0
    failed: int = 0
    broken: int = 0
    environments: Counter[str] = field(default_factory=Counter)


class Latencies:
    """Of answered requests, from sending to the last byte, as a histogram whose buckets grow with the latency."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._largest_s = 0.0

    def add(self, latency_s: float) -> None:
        self._buckets[int(math.log(max(latency_s, SMALLEST_LATENCY_S) / SMALLEST_LATENCY_S) * BUCKETS_PER_E_FOLD)] += 1
        self._largest_s = max(self._largest_s, latency_s)

    def to_dict(self) -> dict[str, float]:
        """p50, p95, p99 (nearest rank, middle of the bucket) and the largest, in milliseconds; zeros without any."""
        figures = {f"p{percent}": self._percentile_s(percent) for percent in (50, 95, 99)}
        return {name: round(seconds * 1000, 3) for name, seconds in {**figures, "max": self._largest_s}.items()}

    def _percentile_s(self, percent: int) -> float:
        rank = math.ceil(self._buckets.total() * percent / 100)
        seen = 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            if seen >= rank:
                return min(SMALLEST_LATENCY_S * math.exp((bucket + 0.5) / BUCKETS_PER_E_FOLD), self._largest_s)
        return 0.0


class Record:
    """Counts outcomes as they come; `to_dict` is the report."""

    def __init__(self) -> None:
        self.requests = self.failed = self.broken = self.not_sent = 0
        self.started_at = time.time()
        self._latencies = Latencies()
        self._statuses: Counter[int] = Counter()
        self._answered_by: Counter[tuple[str, str]] = Counter()
        self._failed_by: Counter[tuple[str, str]] = Counter()
        self._seconds: deque[Second] = deque(maxlen=SECONDS_LISTED)
        self._failures: list[dict[str, Any]] = []
        self._first_failure_at = self._last_failure_at = 0.0

    def add(self, outcome: Outcome) -> None:
        at = time.time()
        second = self._second(int(at))
        who = (outcome.version, outcome.environment)
        self.requests += 1
        second.requests += 1
        second.environments[outcome.environment] += 1
        self._statuses[outcome.status] += 1
        self._answered_by[who] += 1
        if outcome.status:
            self._latencies.add(outcome.latency_s)
        if outcome.broken:
            self.broken += 1
            second.broken += 1
        if outcome.failed:
            self.failed += 1
            second.failed += 1
            self._failed_by[who] += 1
            self._list_failure(outcome, at)

    def to_dict(self) -> dict[str, Any]:
        return {
            "started_at": self.started_at,
            "updated_at": time.time(),
            "requests": self.requests,
            "failed": self.failed,
            "broken_connections": self.broken,
            "not_sent": self.not_sent,
            "statuses": {str(status): count for status, count in sorted(self._statuses.items())},
            "latency_ms": self._latencies.to_dict(),
            "versions": [
                {"version": who[0], "environment": who[1], "requests": count, "failed": self._failed_by[who]}
                for who, count in sorted(self._answered_by.items())
            ],
            "first_failure_at": self._first_failure_at,
            "last_failure_at": self._last_failure_at,
            "failures": self._failures,
            "failures_not_listed": self.failed - len(self._failures),
            "timeline": [
                {
                    "second": second.second,
                    "requests": second.requests,
                    "failed": second.failed,
                    "broken": second.broken,
                    "environments": second.environments,
                }
                for second in self._seconds
            ],
        }

    def _second(self, at: int) -> Second:
        if not self._seconds or self._seconds[-1].second != at:
            self._seconds.append(Second(at))
        return self._seconds[-1]

    def _list_failure(self, outcome: Outcome, at: float) -> None:
        self._first_failure_at = self._first_failure_at or at
        self._last_failure_at = at
        if len(self._failures) < FAILURES_LISTED:
            self._failures.append(
                {
                    "at": at,
                    "request": outcome.request,
                    "status": outcome.status,
                    "version": outcome.version,
                    "environment": outcome.environment,
                    "reason": outcome.reason or f"answered {outcome.status}",
                }
            )


def write_report(path: Path, report: dict[str, Any]) -> None:
    """The file holds this report; a reader sees the one before or this one, never a part. Raises OSError."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(report))
    staged.replace(path)
