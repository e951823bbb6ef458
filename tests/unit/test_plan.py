"""The plan: which steps a deployment has, in which phase and order."""

from __future__ import annotations

from typing import Any

import pytest

from bleen.config.schema import Config
from bleen.deployment.plan import DeployRequest, plan, protections_off
from bleen.deployment.steps import implementation
from bleen.model.deployment import Phase, PlannedStep
from bleen.model.release import Release

ALWAYS = ["preflight", "start", "wait-healthy", "verify-preview"]
LADDER = ["shift-10", "shift-25", "shift-50", "shift-75", "shift-100"]
END = ["bake", "final-verification", "record"]
CHECKS = {
    "pre_deployment_tests": "pre-deployment-tests",
    "database_migration": "database-migration",
    "cache_warming": "cache-warming",
    "post_deployment_tests": "post-deployment-tests",
    "load_test": "load-test",
}
SKIPS = {
    "skip_tests": {"pre-deployment-tests", "post-deployment-tests"},
    "skip_migration": {"database-migration"},
    "skip_cache_warming": {"cache-warming"},
    "skip_load_testing": {"load-test"},
}


def a_config(**sections: Any) -> Config:
    body = {
        "service": "payments",
        "environments": {"blue": {"endpoints": ["http://127.0.0.1:9001"]}, "green": {"endpoints": ["http://127.0.0.1:9002"]}},
        "runtime": {"type": "process", "command": ["serve"]},
    }
    return Config.model_validate(body | sections)


def a_request(**flags: bool) -> DeployRequest:
    return DeployRequest(Release("2.0.0"), **flags)


def all_checks(**changes: Any) -> dict[str, Any]:
    return {name: {"command": ["true"]} | changes for name in CHECKS}


def names(config: Config, *, first: bool = False, **flags: bool) -> list[str]:
    return [step.name for step in plan(config, a_request(**flags), first=first)]


def test_a_plan_without_checks_has_the_steps_that_every_deployment_has() -> None:
    assert names(a_config()) == ALWAYS + LADDER + END


def test_every_check_that_is_configured_has_its_place() -> None:
    found = names(a_config(checks=all_checks()))
    assert found == [
        *("preflight", "pre-deployment-tests", "database-migration"),
        *("start", "wait-healthy", "cache-warming", "verify-preview", "post-deployment-tests", "load-test"),
        *LADDER,
        *END,
    ]


@pytest.mark.parametrize(("key", "step"), CHECKS.items())
def test_a_check_is_in_the_plan_only_when_it_is_configured(key: str, step: str) -> None:
    assert set(names(a_config(checks={key: {"command": ["true"]}}))) - set(names(a_config())) == {step}


@pytest.mark.parametrize(("key", "step"), CHECKS.items())
def test_a_check_that_is_switched_off_is_not_in_the_plan(key: str, step: str) -> None:
    assert step not in names(a_config(checks={key: {"command": ["true"], "enabled": False}}))


@pytest.mark.parametrize(("flag", "left_out"), SKIPS.items())
def test_a_flag_of_the_call_leaves_its_checks_out_and_no_others(flag: str, left_out: set[str]) -> None:
    config = a_config(checks=all_checks())
    assert set(names(config)) - set(names(config, **{flag: True})) == left_out


def test_the_phases_follow_one_another() -> None:
    steps = plan(a_config(checks=all_checks()), a_request(), first=False)
    order = list(Phase)
    phases = [order.index(step.phase) for step in steps]
    assert phases == sorted(phases)
    assert set(phases) == set(range(4))


def test_migration_runs_before_the_release_is_started_and_tests_of_it_before_users_come() -> None:
    found = names(a_config(checks=all_checks()))
    assert found.index("database-migration") < found.index("start")
    assert found.index("wait-healthy") < found.index("cache-warming") < found.index("post-deployment-tests") < found.index("shift-10")


@pytest.mark.parametrize("gradual", [True, False])
def test_a_first_deployment_goes_to_everybody_at_once(gradual: bool) -> None:
    assert names(a_config(deployment={"gradual": gradual}), first=True) == [*ALWAYS, "shift-100", *END]


def test_without_the_gradual_switch_everybody_moves_at_once() -> None:
    assert names(a_config(deployment={"gradual": False})) == [*ALWAYS, "shift-100", *END]


def test_the_weights_are_those_of_the_configuration() -> None:
    steps = plan(a_config(deployment={"weights": [1, 30, 100]}), a_request(), first=False)
    assert [(step.name, step.arguments) for step in steps if step.kind == "shift"] == [
        ("shift-1", {"weight_pct": 1}),
        ("shift-30", {"weight_pct": 30}),
        ("shift-100", {"weight_pct": 100}),
    ]


def test_every_planned_step_is_implemented_and_has_a_name_of_its_own() -> None:
    steps = plan(a_config(checks=all_checks()), a_request(), first=False)
    assert all(implementation(step.kind) for step in steps)
    assert len({step.name for step in steps}) == len(steps)


def test_a_kind_that_nobody_knows_has_no_implementation() -> None:
    assert implementation("oven") is None


def test_a_planned_step_is_read_back_as_it_was_pinned() -> None:
    for step in plan(a_config(checks=all_checks()), a_request(), first=False):
        assert PlannedStep.from_dict(step.to_dict()) == step


def test_a_full_set_of_protections_is_nothing_to_warn_of() -> None:
    assert protections_off(a_config(checks=all_checks()), a_request(), first=False) == []


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ({"auto_rollback": False}, "automatic rollback is off"),
        ({"gradual": False}, "gradual traffic switch is off"),
        ({"step": {"min_requests": 0}}, "min_requests is 0"),
    ],
)
def test_each_protection_that_is_switched_off_is_named(deployment: dict[str, Any], said: str) -> None:
    (found,) = protections_off(a_config(deployment=deployment), a_request(), first=False)
    assert said in found


def test_a_first_deployment_says_that_there_is_no_way_back() -> None:
    (found,) = protections_off(a_config(), a_request(), first=True)
    assert "no baseline to compare with and no way back" in found


def test_checks_that_are_skipped_or_switched_off_are_named_with_who_did_it() -> None:
    config = a_config(checks={"load_test": {"command": ["true"], "enabled": False}, "cache_warming": {"command": ["true"]}})
    found = protections_off(config, a_request(skip_cache_warming=True), first=False)
    assert found == ["cache warming: configured, but skipped by this call", "load test: configured, but switched off"]


def test_a_check_that_was_never_configured_is_no_protection_that_is_off() -> None:
    assert protections_off(a_config(), a_request(skip_tests=True), first=False) == []


def test_the_flags_of_the_call_are_kept_for_the_record() -> None:
    assert a_request(skip_tests=True, redeploy=True).options() == {
        "skip_tests": True,
        "skip_migration": False,
        "skip_cache_warming": False,
        "skip_load_testing": False,
        "redeploy": True,
    }
