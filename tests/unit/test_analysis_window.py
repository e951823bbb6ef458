"""Rates and percentiles of the last seconds."""

from __future__ import annotations

import sys

import pytest

from bleen.analysis.window import Window


def test_the_rate_is_that_of_the_last_seconds() -> None:
    window = Window()
    for number in range(2000):
        window.add(1000 + number / 100, 0.02)
    rate, _ = window.rate_and_p95(now=1020.0, since=0.0)
    assert rate == pytest.approx(100, rel=0.01)
    assert window.rate_and_p95(now=1030.0, since=0.0) == (0.0, 0.0)


def test_the_rate_of_a_watch_that_just_began_is_not_diluted() -> None:
    window = Window()
    for number in range(200):
        window.add(1000.5 + number / 100, 0.02)
    assert window.rate_and_p95(now=1002.5, since=1000.5)[0] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("latency_s", [0.002, 0.05, 1.3, 20.0, 500.0])
def test_the_95th_percentile_is_close_to_the_true_one(latency_s: float) -> None:
    window = Window()
    for number in range(1000):
        window.add(1000.0, latency_s if number < 60 else latency_s / 10)
    assert window.rate_and_p95(1000.5, 0.0)[1] == pytest.approx(latency_s, rel=0.045)


def test_latencies_out_of_range_are_kept_at_the_edges() -> None:
    window = Window()
    window.add(1000.0, 0.0)
    assert window.rate_and_p95(1000.0, 0.0)[1] == pytest.approx(0.001, rel=0.05)
    window.add(1001.0, 1e9)
    assert 600 <= window.rate_and_p95(1001.0, 0.0)[1] < 660


def test_memory_does_not_grow_with_the_requests() -> None:
    window = Window()

    def size() -> int:
        return sum(sys.getsizeof(slot.histogram) for slot in window._slots)

    before = size()
    for number in range(20_000):
        window.add(1000 + number / 50, number % 700)
    assert size() == before


def test_a_request_that_is_older_than_the_ring_changes_nothing() -> None:
    window = Window()
    window.add(1006.0, 0.01)
    window.add(1000.0, 0.01)
    assert window.rate_and_p95(1006.0, 0.0)[0] == pytest.approx(1 / 5)
