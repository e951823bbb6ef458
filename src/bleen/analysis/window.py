"""Rate and 95th percentile of the last seconds, in memory that does not grow with the traffic."""

from __future__ import annotations

import math

WINDOW_S = 5  # whole seconds that are looked back, beside the present one
_SHORTEST_S = 0.001
_BUCKETS_PER_E = 12  # buckets for a factor of e: each is 8.7 % wide
_LAST = math.ceil(math.log(600 / _SHORTEST_S) * _BUCKETS_PER_E)  # this bucket holds ten minutes and more


class Window:
    """One slot per second in a ring, each with a histogram of latencies."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots = [_Slot() for _ in range(WINDOW_S + 1)]

    def add(self, at: float, latency_s: float) -> None:
        """One request that ended at `at` is counted, unless the ring has moved on."""
        second = int(at)
        slot = self._slots[second % len(self._slots)]
        if slot.second != second:
            if slot.second > second:
                return
            slot.begin(second)
        slot.requests += 1
        slot.histogram[min(int(math.log(latency_s / _SHORTEST_S) * _BUCKETS_PER_E), _LAST) if latency_s > _SHORTEST_S else 0] += 1

    def rate_and_p95(self, now: float, since: float) -> tuple[float, float]:
        """Requests per second and the 95th percentile of their latency in seconds, in the window before `now` but not before `since`.

        The percentile is off by 4.3 % at most, half a bucket.
        """
        oldest = int(now) - WINDOW_S
        slots = [slot for slot in self._slots if oldest <= slot.second <= now]
        requests = sum(slot.requests for slot in slots)
        if not requests:
            return 0.0, 0.0
        covered_s = max(1.0, now - max(oldest, since))
        return requests / covered_s, _percentile([slot.histogram for slot in slots], math.ceil(requests * 0.95))


class _Slot:
    """The requests of one second."""

    __slots__ = ("histogram", "requests", "second")

    def __init__(self) -> None:
        self.begin(-1)

    def begin(self, second: int) -> None:
        self.second = second
        self.requests = 0
        self.histogram = [0] * (_LAST + 1)


def _percentile(histograms: list[list[int]], rank: int) -> float:
    """The middle of the bucket that holds the request of this rank."""
    seen = 0
    for bucket, counts in enumerate(zip(*histograms, strict=True)):
        seen += sum(counts)
        if seen >= rank:
            return _SHORTEST_S * math.exp((bucket + 0.5) / _BUCKETS_PER_E)
    raise ValueError(f"rank {rank} of {seen} requests")
