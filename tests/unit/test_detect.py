"""Which environment is active, as the proxy, the health checks and the record tell it."""

from __future__ import annotations

import pytest

from bleen.deployment.detect import Detection, detect
from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult
from bleen.model.traffic import CLOSED, ReadingState, Route, RouteReading, TrafficSplit

BLUE, GREEN = Environment.BLUE, Environment.GREEN
ALL_BLUE, ALL_GREEN = TrafficSplit.all_to(BLUE), TrafficSplit.all_to(GREEN)


def told(record: TrafficSplit, proxy: TrafficSplit, *ill: Environment, state: ReadingState = ReadingState.CONFIRMED) -> Detection:
    probes = {
        environment: ProbeResult(0.0, environment, ProbeKind.HEALTH, environment not in ill, "503" if environment in ill else "200", 0.0)
        for environment in Environment
    }
    return detect(Route(1, 1, record), RouteReading(state, "2 of 2 workers", proxy), probes)


@pytest.mark.parametrize(("split", "active"), [(ALL_BLUE, BLUE), (ALL_GREEN, GREEN)])
def test_the_environment_that_holds_everybody_and_is_healthy_is_active(split: TrafficSplit, active: Environment) -> None:
    found = told(split, split)
    assert (found.active, found.agrees) == (active, True)
    assert found.evidence == f"{active} holds 100% and is healthy: 200"


def test_the_health_of_the_standby_says_nothing() -> None:
    assert told(ALL_BLUE, ALL_BLUE, GREEN).agrees


def test_an_active_environment_that_is_ill_does_not_agree() -> None:
    found = told(ALL_BLUE, ALL_BLUE, BLUE)
    assert (found.active, found.agrees) == (BLUE, False)
    assert "sends everybody to blue, which is not healthy: 503" in found.evidence


def test_a_proxy_that_holds_something_else_than_the_record_is_believed_and_does_not_agree() -> None:
    found = told(ALL_BLUE, ALL_GREEN)
    assert (found.active, found.agrees) == (GREEN, False)
    assert found.evidence == "the proxy holds blue 0% green 100%, the record says blue 100% green 0%"


@pytest.mark.parametrize("state", [state for state in ReadingState if state is not ReadingState.CONFIRMED])
def test_a_proxy_that_cannot_tell_leaves_the_active_environment_unknown(state: ReadingState) -> None:
    found = told(ALL_BLUE, ALL_BLUE, state=state)
    assert (found.active, found.agrees) == (None, False)
    assert "cannot tell what the proxy holds: 2 of 2 workers" in found.evidence


def test_before_the_first_deployment_nobody_is_served_and_that_agrees() -> None:
    found = told(CLOSED, CLOSED)
    assert (found.active, found.agrees, found.evidence) == (None, True, "nobody is served yet")


def test_split_traffic_has_no_active_environment_and_no_deployment_may_begin() -> None:
    split = TrafficSplit(blue=90, green=10)
    found = told(split, split)
    assert (found.active, found.agrees, found.evidence) == (None, False, "traffic is split: blue 90% green 10%")
