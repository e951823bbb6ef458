"""The upper bound of a failure share."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bleen.analysis.bounds import upper_share


def at_most(requests: int, failures: int, share: float) -> float:
    """P(X <= failures) for independent requests."""
    return sum(math.comb(requests, k) * share**k * (1 - share) ** (requests - k) for k in range(failures + 1))


@given(requests=st.integers(1, 150), part=st.floats(0, 1), error=st.sampled_from([0.05, 0.01, 0.001]))
def test_so_few_failures_are_as_unlikely_at_the_bound_as_promised(requests: int, part: float, error: float) -> None:
    failures = int(requests * part)
    bound = upper_share(requests, failures, error)
    assert failures / requests <= bound <= 1
    if failures < requests:
        assert at_most(requests, failures, bound) <= error * (1 + 1e-6)


def test_without_failures_the_bound_is_the_exact_one() -> None:
    assert upper_share(300, 0, 0.05) == pytest.approx(1 - 0.05 ** (1 / 300))


def test_much_traffic_makes_the_bound_tight_and_none_makes_it_one() -> None:
    assert upper_share(0, 0, 0.01) == 1.0
    assert 0.001 < upper_share(1_000_000, 1000, 0.001) < 0.00115
