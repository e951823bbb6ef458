"""The judge: which evidence leads to which verdict, and that it does not depend on how it was handed over."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleen.analysis.judge import Judge
from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult, Sample
from bleen.model.verdict import Judgement, Policy, Stage, Verdict

BLUE, GREEN = Environment.BLUE, Environment.GREEN
T0 = 1_760_000_000.0


def sample(at: float, environment: Environment | None, failed: bool = False, took_s: float = 0.02) -> Sample:
    status = 502 if failed else 200
    return Sample(at, environment, status, status, took_s, took_s, "GET", "/api/v1/payments")


def probe(at: float, environment: Environment, ok: bool, kind: ProbeKind = ProbeKind.HEALTH, late: bool = False) -> ProbeResult:
    return ProbeResult(at, environment, kind, ok, "200 in 3 ms" if ok else "no answer in 500 ms", 0.003 if ok else 0.5, late=late)


def traffic(seed: int, start: float, seconds: float, weight: float, blue_share: float, green_share: float, rate: int = 200) -> list[Sample]:
    rng = random.Random(seed)  # noqa: S311 - a simulation with a fixed seed
    samples = []
    for number in range(int(seconds * rate)):
        environment = GREEN if rng.random() < weight else BLUE
        share = green_share if environment is GREEN else blue_share
        samples.append(sample(round(start + number / rate, 3), environment, rng.random() < share, rng.random() / 10))
    return samples


def comparing(weight_pct: int = 10, policy: Policy | None = None) -> Judge:
    judge = Judge(policy or Policy(), GREEN, BLUE)
    judge.enter(Stage.STANDBY, 0, T0 - 100)
    judge.enter(Stage.COMPARE, weight_pct, T0)
    return judge


def test_an_outage_at_ten_percent_fails_within_a_few_requests() -> None:
    judge = comparing()
    seen: list[Sample] = []
    for each in traffic(1, T0, 10, 0.1, 0.001, 1.0):
        judge.note_samples([each])
        seen.append(each)
        verdict = judge.verdict(each.at)
        if verdict.judgement is Judgement.FAIL:
            break
    failures = [each for each in seen if each.environment is GREEN]
    assert verdict.judgement is Judgement.FAIL
    assert verdict.cause == "error rates"
    assert len(failures) <= 8
    assert verdict.first_failure_at == failures[0].at
    assert verdict.sentence.startswith(f"green fails 100.0 % of requests, blue 0.0 %; {len(failures)} failures; evidence ")
    assert verdict.sentence.endswith(" of 100 needed")


@pytest.mark.parametrize("weight_pct", [25, 50, 75])
def test_an_outage_at_higher_weights_fails_within_a_second_of_traffic(weight_pct: int) -> None:
    judge = comparing(weight_pct)
    judge.note_samples(traffic(2, T0, 1, weight_pct / 100, 0.001, 1.0))
    assert judge.verdict(T0 + 1).judgement is Judgement.FAIL


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1])
def test_a_candidate_that_is_as_good_as_the_baseline_passes(share: float) -> None:
    judge = comparing(25)
    judge.note_samples(traffic(3, T0, 60, 0.25, share, share))
    verdict = judge.verdict(T0 + 60)
    assert verdict.judgement is Judgement.PASS
    assert "of requests, blue" in verdict.sentence


def test_a_candidate_that_is_relatively_worse_but_below_the_floor_passes() -> None:
    judge = comparing(50)
    judge.note_samples(traffic(4, T0, 600, 0.5, 0.0001, 0.003))
    assert judge.verdict(T0 + 600).judgement is Judgement.PASS


def test_a_share_far_above_the_floor_that_the_baseline_has_too_passes() -> None:
    judge = comparing(50)
    judge.note_samples(traffic(5, T0, 60, 0.5, 0.3, 0.3))
    assert judge.verdict(T0 + 60).judgement is Judgement.PASS


def test_false_rollbacks_are_rarer_than_alpha_over_a_whole_deployment() -> None:
    failed = 0
    for seed in range(25):
        judge = Judge(Policy(), GREEN, BLUE)
        at = T0
        for weight in (10, 25, 50, 75):
            judge.enter(Stage.COMPARE, weight, at)
            judge.note_samples(traffic(seed * 100 + weight, at, 20, weight / 100, 0.01, 0.01))
            at += 20
        judge.enter(Stage.ABSOLUTE, 100, at)
        judge.note_samples(traffic(seed * 100, at, 20, 1.0, 0.01, 0.01))
        failed += judge.verdict(at + 20).judgement is Judgement.FAIL
    assert failed <= 2


def test_too_few_requests_are_inconclusive_and_counted_from_the_step() -> None:
    judge = comparing(10)
    judge.note_samples([sample(T0 + n, GREEN) for n in range(60)])
    assert judge.verdict(T0 + 60).judgement is Judgement.PASS
    judge.enter(Stage.COMPARE, 25, T0 + 60)
    judge.note_samples([sample(T0 + 59.9, GREEN)])  # of the step before
    judge.note_samples([sample(T0 + 61 + n, GREEN) for n in range(12)])
    verdict = judge.verdict(T0 + 80)
    assert verdict.judgement is Judgement.INCONCLUSIVE
    assert verdict.sentence == "12 of 50 requests of green seen at 25 %"
    assert verdict.tallies[GREEN].requests == 73


def test_evidence_that_was_enough_once_is_not_taken_back() -> None:
    judge = comparing(10)
    judge.note_samples(traffic(1, T0, 1, 0.1, 0.001, 1.0))
    judge.note_samples(traffic(2, T0 + 1, 600, 0.1, 0.01, 0.001))
    assert judge.verdict(T0 + 601).judgement is Judgement.FAIL


def test_evidence_carries_from_step_to_step() -> None:
    judge = comparing(10)
    at = T0
    for weight in (10, 11, 12, 13, 14):  # one candidate failure in each: too little for any step alone
        judge.enter(Stage.COMPARE, weight, at)
        judge.note_samples([sample(at + 0.1 * n, BLUE) for n in range(1, 10)] + [sample(at + 1, GREEN, failed=True)])
        at += 2
    judge.note_samples([sample(at + 0.1 * n, BLUE) for n in range(1, 10)] + [sample(at + 1, GREEN)])
    assert judge.verdict(at + 2).judgement is Judgement.FAIL


def test_samples_from_before_the_comparison_and_without_environment_do_not_count_for_the_tests() -> None:
    judge = comparing(10)
    early = [sample(T0 - 50 + n / 10, GREEN if n % 10 == 0 else BLUE, failed=n % 10 == 0) for n in range(400)]
    nobodys = [sample(T0 + n / 10, None, failed=True) for n in range(400)]
    judge.note_samples([sample(T0, BLUE)])
    judge.note_samples(early)
    judge.note_samples(nobodys)
    judge.note_samples([sample(T0 + 41, BLUE)] * 10 + [sample(T0 + 41, GREEN)])
    verdict = judge.verdict(T0 + 41)
    assert verdict.judgement is Judgement.INCONCLUSIVE
    assert verdict.evidence <= 1.0
    assert verdict.first_failure_at == 0.0


def test_a_client_that_left_counts_only_when_it_waited_for_the_limit() -> None:
    def left(at: float, waited_s: float) -> Sample:
        return Sample(at, GREEN, 499, 0, waited_s, 0.0, "GET", "/")

    judge = comparing(10, Policy(latency_limit_s=2.0))
    judge.note_samples([left(T0 + 1, 1.9), left(T0 + 2, 2.0)])
    assert judge.verdict(T0 + 3).tallies[GREEN].failures == 1


def test_a_bad_bake_fails_against_the_cap_of_the_baseline() -> None:
    judge = comparing(50)
    judge.note_samples(traffic(6, T0, 60, 0.5, 0.001, 0.001))
    judge.enter(Stage.ABSOLUTE, 100, T0 + 60)
    judge.note_samples(traffic(7, T0 + 60, 60, 1.0, 0.0, 0.001))
    assert judge.verdict(T0 + 120).judgement is Judgement.PASS
    judge.note_samples(traffic(8, T0 + 120, 1, 1.0, 0.0, 0.5))
    verdict = judge.verdict(T0 + 121)
    assert verdict.judgement is Judgement.FAIL
    assert verdict.cause == "error rates"
    assert "% allowed" in verdict.sentence


def test_a_bake_at_the_share_of_a_bad_baseline_passes() -> None:
    judge = comparing(50)
    judge.note_samples(traffic(9, T0, 30, 0.5, 0.05, 0.05))
    judge.enter(Stage.ABSOLUTE, 100, T0 + 30)
    judge.note_samples(traffic(10, T0 + 30, 60, 1.0, 0.0, 0.05))
    assert judge.verdict(T0 + 90).judgement is Judgement.PASS


def test_a_first_deployment_is_judged_by_the_floor_alone() -> None:
    judge = Judge(Policy(), GREEN, None)
    judge.enter(Stage.ABSOLUTE, 100, T0)
    judge.note_samples(traffic(11, T0, 10, 1.0, 0.0, 0.002))
    assert judge.verdict(T0 + 10).judgement is Judgement.PASS
    judge.note_samples(traffic(12, T0 + 10, 5, 1.0, 0.0, 0.1))
    verdict = judge.verdict(T0 + 15)
    assert verdict.judgement is Judgement.FAIL
    assert "0.5 % allowed" in verdict.sentence
    assert set(verdict.tallies) == {GREEN}


def test_late_requests_of_the_baseline_after_promotion_are_tallied_and_judge_nothing() -> None:
    judge = comparing(50)
    judge.note_samples(traffic(13, T0, 30, 0.5, 0.001, 0.001))
    judge.enter(Stage.ABSOLUTE, 100, T0 + 30)
    judge.note_samples([sample(T0 + 31 + n / 100, BLUE, failed=True) for n in range(100)])
    verdict = judge.verdict(T0 + 33)
    assert verdict.judgement is Judgement.PASS
    assert verdict.tallies[BLUE].failures >= 100


def test_probes_failed_in_a_row_fail_the_candidate() -> None:
    judge = comparing(10)
    judge.note_probe(probe(T0, GREEN, ok=True))
    judge.note_probe(probe(T0 + 1, GREEN, ok=False))
    judge.note_probe(probe(T0 + 2, GREEN, ok=False))
    assert judge.verdict(T0 + 2).judgement is not Judgement.FAIL
    judge.note_probe(probe(T0 + 3, GREEN, ok=False))
    verdict = judge.verdict(T0 + 3)
    assert verdict.judgement is Judgement.FAIL
    assert verdict.cause == "health checks"
    assert verdict.sentence == "green failed 3 health checks in a row: no answer in 500 ms"
    assert verdict.first_failure_at == T0 + 1
    judge.note_probe(probe(T0 + 4, GREEN, ok=True))
    assert judge.verdict(T0 + 4).judgement is not Judgement.FAIL


def test_a_question_that_is_answered_does_not_hide_another_that_is_not() -> None:
    judge = comparing(10)
    for n in range(3):
        judge.note_probe(probe(T0 + n, GREEN, ok=False, kind=ProbeKind.READY))
        judge.note_probe(probe(T0 + n, GREEN, ok=True, kind=ProbeKind.HEALTH))
    assert judge.verdict(T0 + 3).judgement is Judgement.FAIL


def test_late_probes_say_nothing() -> None:
    judge = comparing(10)
    for n in range(10):
        judge.note_probe(probe(T0 + n, GREEN, ok=False, late=True))
    assert judge.verdict(T0 + 10).tallies[GREEN].probes_failed_in_a_row == 0


def test_a_release_that_is_starting_is_inconclusive_until_it_was_healthy_once() -> None:
    judge = Judge(Policy(), GREEN, BLUE)
    judge.enter(Stage.STANDBY, 0, T0)
    assert judge.verdict(T0).sentence == "green is starting: not asked yet"
    for n in range(20):
        judge.note_probe(probe(T0 + n, GREEN, ok=False))
    verdict = judge.verdict(T0 + 20)
    assert verdict.judgement is Judgement.INCONCLUSIVE
    assert verdict.sentence == "green is starting: no answer in 500 ms"
    judge.note_probe(probe(T0 + 21, GREEN, ok=True))
    assert judge.verdict(T0 + 21).judgement is Judgement.PASS
    for n in range(3):
        judge.note_probe(probe(T0 + 22 + n, GREEN, ok=False))
    assert judge.verdict(T0 + 25).judgement is Judgement.FAIL


@pytest.mark.parametrize("candidate_fails_too", [True, False])
def test_a_baseline_that_fails_its_own_probes_is_no_reason_to_go_back_to_it(candidate_fails_too: bool) -> None:
    judge = comparing(10)
    judge.note_samples([sample(T0 + n / 10, GREEN) for n in range(60)])
    for n in range(4):
        judge.note_probe(probe(T0 + n, BLUE, ok=False))
        judge.note_probe(probe(T0 + n, GREEN, ok=not candidate_fails_too))
    verdict = judge.verdict(T0 + 7)
    assert verdict.judgement is Judgement.INCONCLUSIVE
    assert verdict.sentence.startswith("blue itself fails")
    assert ("green failed 4" in verdict.sentence) is candidate_fails_too


def test_a_baseline_that_fails_at_the_same_time_holds_the_candidate_until_it_answers_again() -> None:
    judge = comparing(10)
    for n in range(3):
        judge.note_probe(probe(T0 + n, GREEN, ok=False))
    judge.note_probe(probe(T0 + 3, BLUE, ok=False))
    verdict = judge.verdict(T0 + 3)
    assert verdict.judgement is Judgement.INCONCLUSIVE
    assert "but blue failed its last health check" in verdict.sentence
    judge.note_probe(probe(T0 + 4, BLUE, ok=True))
    assert judge.verdict(T0 + 4).judgement is Judgement.FAIL


def a_deployment(judge: Judge, cuts: list[int], enter_early: bool) -> Verdict:
    """The same log, cut differently; steps entered when they began, or all before the log is read again."""
    steps = [
        (Stage.STANDBY, 0, T0 - 5),
        (Stage.COMPARE, 10, T0),
        (Stage.COMPARE, 50, T0 + 10),
        (Stage.ABSOLUTE, 100, T0 + 20),
    ]
    log = (
        traffic(20, T0 - 5, 5, 0.0, 0.01, 0.01)
        + traffic(21, T0, 10, 0.1, 0.01, 0.02)
        + traffic(22, T0 + 10, 10, 0.5, 0.01, 0.02)
        + traffic(23, T0 + 20, 10, 1.0, 0.01, 0.02)
    )
    edges = sorted({0, *(cut % len(log) for cut in cuts), len(log)})
    for begin, end in itertools.pairwise(edges):
        while steps and (enter_early or steps[0][2] <= log[end - 1].at):
            judge.enter(*steps.pop(0))
        judge.note_samples(log[begin:end])
        judge.verdict(log[end - 1].at)
    return judge.verdict(T0 + 30)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 10**6), max_size=200), enter_early=st.booleans())
def test_the_verdict_is_the_same_however_the_log_is_cut_and_read_again(cuts: list[int], enter_early: bool) -> None:
    whole = a_deployment(Judge(Policy(), GREEN, BLUE), [], enter_early=True)
    assert a_deployment(Judge(Policy(), GREEN, BLUE), cuts, enter_early) == whole


def test_tallies_have_rate_and_percentile_of_the_last_seconds() -> None:
    judge = comparing(50)
    judge.note_samples(traffic(30, T0, 20, 0.5, 0.0, 0.0))
    tally = judge.verdict(T0 + 20).tallies[BLUE]
    assert tally.requests_per_s == pytest.approx(100, rel=0.15)
    assert tally.p95_s == pytest.approx(0.095, rel=0.1)


def test_a_judge_that_was_told_nothing_is_inconclusive() -> None:
    assert Judge(Policy(), GREEN, BLUE).verdict(T0).judgement is Judgement.INCONCLUSIVE
