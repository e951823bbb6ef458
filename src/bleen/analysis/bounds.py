"""A bound of a failure share from counts."""

from __future__ import annotations

import math

_BISECTIONS = 50  # halvings of [0, 1]: far below any share that could matter


def upper_share(requests: int, failures: int, error: float) -> float:
    """The share of failures is at most this, with a chance of being wrong of at most `error`. No requests: 1.

    The largest p with N KL(x/N, p) <= ln(1/error), where KL(q, p) = q ln(q/p) + (1-q) ln[(1-q)/(1-p)]. Chernoff (1952):
    P(X <= x) <= exp(-N KL(x/N, p)) for x/N <= p; Hoeffding (1963, theorem 1) for requests whose shares differ, p being
    their mean. Equal to Clopper and Pearson's exact bound at x = 0, a little wider above.
    """
    if not requests:
        return 1.0
    share = failures / requests
    allowed = math.log(1.0 / error) / requests
    low, high = share, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _divergence(share, middle) <= allowed:
            low = middle
        else:
            high = middle
    return high


def _divergence(q: float, p: float) -> float:
    """KL(q, p) in nats for q <= p."""
    if q >= 1.0:
        return 0.0
    if p >= 1.0:
        return math.inf
    from_failures = q * math.log(q / p) if q else 0.0
    return from_failures + (1.0 - q) * math.log((1.0 - q) / (1.0 - p))
