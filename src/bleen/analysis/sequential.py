"""Sequential tests of failure shares: evidence that may be looked at after every request.

An e-process E starts at 1 (or below) and, while its null hypothesis holds, is bounded by a process whose expectation
never exceeds 1. So (Ville 1939) P(E ever reaches 1/alpha) <= alpha, however often one looks and whenever one stops:
reject the null at E >= 1/alpha. Sources: Lindon, Sanden, Shirikian, "Rapid regression detection in software
deployments through sequential testing" (KDD 2022, arXiv 2205.14762) for tests of this kind on counts; Howard, Ramdas,
McAuliffe, Sekhon (Annals of Statistics 2021) for mixtures as confidence sequences. The bounds are derived below.

Assumed, and no more: given which environment took each request, requests fail independently of one another. Bursts
of failures with one cause break this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

# Alternatives, as multiples of the null's bound: from a slight regression to a total failure.
MULTIPLES = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
_LARGEST_LOG = 690.0  # exp() of more overflows; nobody needs an e-value above 1e299


class RelativeErrors:
    """Evidence that the candidate fails more than `ratio` times as often as the baseline. H0: p_c <= ratio * p_b.

    For a batch with N_c and N_b requests, x_c and x_b of them failed, n = x_c + x_b, and an alternative r > r0 = ratio:

        ln LR = x_c ln(r/r0) - n ln[(r N_c + N_b) / (r0 N_c + N_b)]

    With D = (r0 N_c + N_b)/(r N_c + N_b) <= 1 and a = (r/r0) D >= 1 this is LR = a^x_c D^x_b, so with independent failures
    E[LR] = (1 + p_c (a-1))^N_c (1 + p_b (D-1))^N_b <= exp{N_c p_c (a-1) + N_b p_b (D-1)}, as 1 + y <= e^y. Under H0,
    N_c p_c (a-1) <= N_c r0 p_b (a-1), so the exponent is at most p_b [D (r N_c + N_b) - (r0 N_c + N_b)] = 0: E[LR] <= 1.
    That is exact for any batch size and any p_b of the batch, because N_c and N_b are the realised counts: nothing is
    assumed of the weights. It holds batch by batch, so p_b may drift from one to the next. It does not hold in the
    middle of a batch: the end of a batch may depend on the order of the environments, never on what failed.
    """

    __slots__ = ("_alternatives", "_mixture", "ratio")

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self._alternatives = [(ratio * multiple, math.log(multiple)) for multiple in MULTIPLES]
        self._mixture = _OnsetMixture(len(MULTIPLES))

    def update(self, candidate_requests: int, candidate_failures: int, baseline_requests: int, baseline_failures: int) -> None:
        """One more batch is counted. A batch without a failure, or with one environment only, says nothing (LR = 1)."""
        failures = candidate_failures + baseline_failures
        if not failures or not candidate_requests or not baseline_requests:
            return
        null = math.log(self.ratio * candidate_requests + baseline_requests)
        self._mixture.update(
            candidate_failures * gain - failures * (math.log(r * candidate_requests + baseline_requests) - null)
            for r, gain in self._alternatives
        )

    @property
    def e_value(self) -> float:
        return self._mixture.e_value


class AbsoluteErrors:
    """Evidence that more than the share `cap` of the requests fails. H0: p <= cap.

    For N requests, x of them failed, and an alternative q > c = cap:

        ln LR = x ln(q/c) + (N-x) ln[(1-q)/(1-c)]

    One request has E[LR] = p q/c + (1-p)(1-q)/(1-c), which grows with p and is 1 at p = c: at most 1 under H0.
    This holds request by request, so batches may end anywhere. The alternatives multiply the odds of c: always below 1.
    """

    __slots__ = ("_alternatives", "_mixture", "cap")

    def __init__(self, cap: float) -> None:
        if not 0.0 < cap < 1.0:
            raise ValueError(f"a cap lies between 0 and 1, not {cap}")
        self.cap = cap
        odds = [multiple * cap / (1.0 - cap) for multiple in MULTIPLES]
        self._alternatives = [(math.log(odd / (1.0 + odd) / cap), -math.log1p(odd) - math.log1p(-cap)) for odd in odds]
        self._mixture = _OnsetMixture(len(MULTIPLES))

    def update(self, requests: int, failures: int) -> None:
        """One more batch is counted."""
        if requests:
            self._mixture.update(failures * gain + (requests - failures) * loss for gain, loss in self._alternatives)

    @property
    def e_value(self) -> float:
        return self._mixture.e_value


class _OnsetMixture:
    """Mean over the alternatives of likelihood ratios, mixed over the batch at which the regression began.

    A release that was well for an hour has gathered evidence in its favour, which a plain likelihood ratio would have to
    spend before it can see a late regression. So a fresh process starts before each update: the k-th with the stake
    w_k = 1/(k (k+1)), worth its stake until then. The stakes sum to 1 and each stake times a supermartingale is one:

        E = mean_j sum_k w_k prod_{i >= k} LR_j(i)  +  (stakes that have not started: 1/(K+1))

    is an e-process. The sum over k obeys A_j <- (A_j + w) LR_j, so an update costs one pass over the grid. The price: a
    factor of 2 at the first batch, of k (k+1) at the k-th; in logarithms, a failure or two of the candidate.
    """

    __slots__ = ("_logs", "_started")

    def __init__(self, size: int) -> None:
        self._logs = [-math.inf] * size
        self._started = 0

    def update(self, log_ratios: Iterable[float]) -> None:
        self._started += 1
        stake = -math.log(self._started * (self._started + 1))
        self._logs = [_log_sum(log, stake) + log_ratio for log, log_ratio in zip(self._logs, log_ratios, strict=True)]

    @property
    def e_value(self) -> float:
        waiting = 1.0 / (self._started + 1)
        return waiting + sum(math.exp(min(log, _LARGEST_LOG)) for log in self._logs) / len(self._logs)


def _log_sum(a: float, b: float) -> float:
    """ln(e^a + e^b) without overflow; b is finite."""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a))
