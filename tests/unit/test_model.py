"""Facts and rules: releases, environments, splits, samples, deployments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bleen.errors import UsageError
from bleen.model.deployment import ACTIVE, DeploymentStatus
from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release, digest_of
from bleen.model.sample import Sample
from bleen.model.traffic import CLOSED, ReadingState, RouteReading, TrafficSplit
from bleen.model.verdict import Judgement, Policy, Tally, Verdict

BLUE, GREEN = Environment.BLUE, Environment.GREEN


@pytest.mark.parametrize("version", ["1.0.0", "2026-11-23_a", "v1", "1.0.0+build.7", "_", "a" * 128])
def test_a_version_that_a_container_tag_accepts_is_accepted(version: str) -> None:
    assert Release(version).version == version


@pytest.mark.parametrize("version", ["", "-rf", ".hidden", "a b", "a;b", "a/b", "a\n", "ä", "$(id)", "{x}", "a" * 129])
def test_a_version_that_could_mean_something_else_somewhere_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match=r"version .* is not allowed; allowed: letters, digits"):
        Release(version)


@pytest.mark.parametrize(("commit", "branch"), [("", ""), ("abc123", "main"), ("0" * 64, "feature/a-b_c.d+e#1@f")])
def test_commits_and_branches_as_git_has_them_are_accepted(commit: str, branch: str) -> None:
    assert Release("1", commit, branch).branch == branch


@pytest.mark.parametrize("commit", ["abc 123", "abc;", "-n", "0" * 65, "abc\n"])
def test_a_commit_hash_is_letters_and_digits(commit: str) -> None:
    with pytest.raises(UsageError, match="commit hash"):
        Release("1", commit)


@pytest.mark.parametrize("branch", ["a b", "a\nb", "a'b", 'a"b', "a$b", "a`b`", "b" * 256])
def test_a_branch_that_a_shell_would_read_is_refused(branch: str) -> None:
    with pytest.raises(UsageError, match="branch"):
        Release("1", branch=branch)


def test_a_long_wrong_name_is_shown_shortened() -> None:
    with pytest.raises(UsageError, match=r"version '!{57}\.\.\.' \(5000 characters\)"):
        Release("!" * 5000)


def test_a_release_is_read_back_as_it_was_written() -> None:
    release = Release("1.0.0", "abc", "main", "d" * 64)
    assert Release.from_dict(release.to_dict()) == release


def test_a_digest_does_not_depend_on_the_order_of_keys_and_changes_with_the_content() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert len(digest_of({})) == 64


def test_each_environment_is_the_other_of_the_other() -> None:
    assert (BLUE.other, GREEN.other) == (GREEN, BLUE)


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [(Endpoint("http", "127.0.0.1", 80), "http://127.0.0.1:80"), (Endpoint("https", "::1", 8443), "https://[::1]:8443")],
)
def test_an_endpoint_reads_as_a_url(endpoint: Endpoint, shown: str) -> None:
    assert str(endpoint) == shown


@pytest.mark.parametrize(("blue", "green"), [(50, 49), (101, -1), (-1, 1), (100, 100), (0, 1), (10, 0)])
def test_a_split_that_does_not_sum_to_100_is_refused(blue: int, green: int) -> None:
    with pytest.raises(ValueError, match="sums to 100"):
        TrafficSplit(blue, green)


@given(weight=st.integers(0, 100), environment=st.sampled_from(Environment))
def test_a_weight_is_what_its_environment_has_and_the_other_has_the_rest(weight: int, environment: Environment) -> None:
    split = TrafficSplit.with_weight(environment, weight)
    assert split.weight_of(environment) == weight
    assert split.weight_of(environment.other) == 100 - weight
    assert split.holder() is ({0: environment.other, 100: environment}.get(weight))
    assert not split.closed


def test_a_closed_split_serves_nobody() -> None:
    assert CLOSED.closed
    assert CLOSED.holder() is None
    assert (str(CLOSED), str(TrafficSplit.all_to(GREEN))) == ("closed", "blue 0% green 100%")


@pytest.mark.parametrize("state", ReadingState)
def test_only_a_confirmed_reading_confirms_a_split(state: ReadingState) -> None:
    reading = RouteReading(state, "", TrafficSplit(90, 10))
    assert reading.confirms(TrafficSplit(90, 10)) is (state is ReadingState.CONFIRMED)
    assert not reading.confirms(TrafficSplit(10, 90))


def a_sample(status: int, first_status: int, took_s: float = 0.01) -> Sample:
    return Sample(0.0, GREEN, status, first_status, took_s, took_s, "GET", "/")


@pytest.mark.parametrize(
    ("sample", "failed"),
    [
        (a_sample(200, 200), False),
        (a_sample(404, 404), False),
        (a_sample(500, 500), True),
        (a_sample(504, 504), True),
        (a_sample(200, 502), True),  # the user was saved by the other environment
        (a_sample(200, 0), True),  # no connection, saved likewise
        (a_sample(499, 200, 4.9), False),  # a client that left by itself
        (a_sample(499, 0, 5.0), True),  # a client that gave up waiting
        (a_sample(499, 0, 0.1), False),
    ],
)
def test_a_request_is_judged_by_what_its_environment_did(sample: Sample, failed: bool) -> None:
    assert sample.failed(latency_limit_s=5.0) is failed


def test_the_active_states_are_those_in_which_somebody_drives() -> None:
    assert {status for status in DeploymentStatus if status.active} == set(ACTIVE)
    assert {status.value for status in ACTIVE} == {"running", "frozen", "rolling_back"}


def test_the_exit_status_of_a_deployment_tells_where_the_users_are() -> None:
    codes = {status.value: status.exit_code for status in DeploymentStatus}
    ended = {"promoted": 0, "rolled_back": 1, "refused": 4, "failed": 3}
    assert codes == ended | {"running": 3, "frozen": 3, "rolling_back": 3}


def test_the_evidence_that_is_needed_follows_from_alpha() -> None:
    assert Policy(alpha=0.01).evidence_needed == pytest.approx(100.0)


def test_a_verdict_is_recorded_with_its_figures() -> None:
    verdict = Verdict(Judgement.FAIL, "green fails", "error rates", 123.4567, tallies={GREEN: Tally(10, 2, 1.23, 0.0456, 1)})
    assert verdict.to_dict() == {
        "judgement": "fail",
        "sentence": "green fails",
        "cause": "error rates",
        "evidence": 123.457,
        "needed": 100.0,
        "first_failure_at": 0.0,
        "environments": {"green": {"requests": 10, "failures": 2, "requests_per_s": 1.2, "p95_ms": 45.6, "probes_failed_in_a_row": 1}},
    }
