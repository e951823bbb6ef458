"""The sequential tests: expectation at most 1 under their null, false alarms below alpha, delay as measured before."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleen.analysis.sequential import AbsoluteErrors, RelativeErrors

ALPHA = 0.01
NEEDED = 1 / ALPHA
shares = st.floats(0.0, 1.0, allow_subnormal=False)
counts = st.integers(0, 4)


def binomial(n: int, p: float) -> list[float]:
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@settings(max_examples=150, deadline=None)
@given(ratio=st.floats(1.0, 3.0), batches=st.lists(st.tuples(counts, counts, shares, shares), min_size=1, max_size=2))
def test_the_relative_e_value_is_at_most_one_on_average_under_its_null_for_any_batches_and_weights(
    ratio: float, batches: list[tuple[int, int, float, float]]
) -> None:
    outcomes = []
    for candidates, baselines, p_baseline, within in batches:
        p_candidate = min(1.0, ratio * p_baseline) * within  # the null; the share drifts from batch to batch
        outcomes.append(
            [
                (candidates, x, baselines, y, p * q)
                for (x, p), (y, q) in itertools.product(
                    enumerate(binomial(candidates, p_candidate)), enumerate(binomial(baselines, p_baseline))
                )
            ]
        )
    expectation = 0.0
    for path in itertools.product(*outcomes):
        test = RelativeErrors(ratio)
        for candidates, x, baselines, y, _ in path:
            test.update(candidates, x, baselines, y)
        expectation += math.prod(step[4] for step in path) * test.e_value
    assert expectation <= 1 + 1e-9


@settings(max_examples=150, deadline=None)
@given(cap=st.floats(0.001, 0.9), batches=st.lists(st.tuples(st.integers(0, 7), shares), min_size=1, max_size=3))
def test_the_absolute_e_value_is_at_most_one_on_average_under_its_null(cap: float, batches: list[tuple[int, float]]) -> None:
    expectation = 0.0
    for path in itertools.product(*[enumerate(binomial(n, cap * within)) for n, within in batches]):
        test = AbsoluteErrors(cap)
        for (n, _), (failures, _) in zip(batches, path, strict=True):
            test.update(n, failures)
        expectation += math.prod(p for _, p in path) * test.e_value
    assert expectation <= 1 + 1e-9


def test_the_expectation_is_one_at_the_edge_of_the_absolute_null_so_the_tests_above_could_fail() -> None:
    at_edge = sum(p * one_batch(x) for x, p in enumerate(binomial(6, 0.1)))
    beyond = sum(p * one_batch(x) for x, p in enumerate(binomial(6, 0.11)))
    assert at_edge == pytest.approx(1.0)
    assert beyond > 1.001


def one_batch(failures: int) -> float:
    test = AbsoluteErrors(0.1)
    test.update(6, failures)
    return test.e_value


def failures_at(rng: random.Random, share: float) -> Iterator[int]:
    """Numbers of the requests that fail, when each fails with `share`: gaps are geometric."""
    at = -1
    while True:
        at += 1 + int(math.log(1.0 - rng.random()) / math.log1p(-share))
        yield at


def failing(rng: random.Random, share: float, batches: int, size: int) -> dict[int, int]:
    """Failures per batch, for the batches that have one."""
    found: dict[int, int] = {}
    for at in failures_at(rng, share):
        if at >= batches * size:
            return found
        found[at // size] = found.get(at // size, 0) + 1
    raise AssertionError


@pytest.mark.parametrize(("candidates", "baselines"), [(2, 18), (10, 10), (15, 5)])
@pytest.mark.parametrize("share", [0.002, 0.01, 0.1])
def test_an_hour_at_the_edge_of_the_null_alarms_in_fewer_runs_than_alpha(candidates: int, baselines: int, share: float) -> None:
    alarms, runs = 0, 150
    for seed in range(runs):
        rng = random.Random(seed)  # noqa: S311 - a simulation with a fixed seed
        batches = 2000 if share < 0.1 else 300
        x = failing(rng, 1.5 * share, batches, candidates)
        y = failing(rng, share, batches, baselines)
        test = RelativeErrors(1.5)
        for batch in sorted(x.keys() | y.keys()):
            test.update(candidates, x.get(batch, 0), baselines, y.get(batch, 0))
            if test.e_value >= NEEDED:
                alarms += 1
                break
    assert alarms <= 5  # at most 1 % of 150 is expected; six or more has a chance of 0.5 % at exactly alpha


def test_a_bake_at_exactly_the_cap_alarms_in_fewer_runs_than_alpha() -> None:
    alarms = 0
    for seed in range(150):
        rng = random.Random(seed)  # noqa: S311 - a simulation with a fixed seed
        x = failing(rng, 0.02, 1000, 10)
        test = AbsoluteErrors(0.02)
        for batch in range(1000):
            test.update(10, x.get(batch, 0))
            if test.e_value >= NEEDED:
                alarms += 1
                break
    assert alarms <= 5


def failures_until_seen(seed: int, before: float, after: float, healthy_requests: int = 0, weight: float = 0.1) -> int:
    """Failures of the candidate from the onset of the regression until it is seen, in batches of 20 requests."""
    rng = random.Random(seed)  # noqa: S311 - a simulation with a fixed seed
    test = RelativeErrors(1.5)
    since_onset = 0
    for start in itertools.count(0, 20):
        candidates = sum(rng.random() < weight for _ in range(20))
        share = after if start >= healthy_requests else before
        x = sum(rng.random() < share for _ in range(candidates))
        y = sum(rng.random() < before for _ in range(20 - candidates))
        test.update(candidates, x, 20 - candidates, y)
        since_onset += x if start >= healthy_requests else 0
        if test.e_value >= NEEDED:
            return since_onset
    raise AssertionError


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0.001, 0.005, 14), (0.005, 0.025, 14), (0.01, 0.05, 14), (0.001, 1.0, 3)],
)
def test_a_regression_is_seen_after_as_few_failures_as_were_measured(before: float, after: float, expected: int) -> None:
    median = statistics.median(failures_until_seen(seed, before, after) for seed in range(21))
    assert expected / 2 <= median <= expected * 2


def test_an_outage_after_a_long_time_of_health_is_seen_nearly_as_fast_as_one_at_the_beginning() -> None:
    early = statistics.median(failures_until_seen(seed, 0.005, 1.0) for seed in range(11))
    late = statistics.median(failures_until_seen(seed, 0.005, 1.0, healthy_requests=40_000) for seed in range(11))
    assert late <= early + 10


def test_an_outage_after_an_hour_of_a_healthy_bake_is_seen_after_a_handful_of_failures() -> None:
    test = AbsoluteErrors(0.005)
    for _ in range(3600 * 20):
        test.update(10, 0)
    failures = 0
    while test.e_value < NEEDED:
        test.update(1, 1)
        failures += 1
    assert failures <= 8


def test_evidence_never_overflows() -> None:
    relative, absolute = RelativeErrors(1.0), AbsoluteErrors(0.001)
    for _ in range(5000):
        relative.update(1, 1, 99, 0)
        absolute.update(1000, 1000)
    assert NEEDED < relative.e_value < math.inf
    assert NEEDED < absolute.e_value < math.inf


def test_batches_that_cannot_be_compared_say_nothing() -> None:
    test = RelativeErrors(1.5)
    test.update(10, 10, 0, 0)
    test.update(0, 0, 10, 10)
    test.update(5, 0, 5, 0)
    assert test.e_value == 1.0
    assert AbsoluteErrors(0.1).e_value == 1.0
