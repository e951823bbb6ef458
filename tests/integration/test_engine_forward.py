"""The way forward: every step in order, each in the journal, the route from weight to weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bleen.errors import RouterUnavailable
from bleen.model.deployment import DeploymentStatus, StepState
from bleen.model.traffic import TrafficSplit
from bleen.store.live import read_live
from bleen.traffic.fake import FakeRouter
from tests.engine_world import BLUE, GREEN, quick, world_in  # noqa: F401 - `quick` is a fixture that is used by being here
from tests.rig import until

LADDER = [10, 25, 50, 75, 100]
WAY = ["preflight", "start", "wait-healthy", "verify-preview", *(f"shift-{weight}" for weight in LADDER)]
END = ["bake", "final-verification", "record"]


async def test_a_good_deployment_walks_every_step_in_order_and_ends_promoted(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert (ended.status, ended.reason) == (DeploymentStatus.PROMOTED, "2.0.0 holds 100% in green")
        journal = world.journal()
        assert [entry.step for entry in journal] == [step.name for step in ended.plan] == WAY + END
        assert {(entry.kind, entry.state, entry.attempt) for entry in journal} == {("do", StepState.DONE, 1)}
        assert all(entry.ended_at >= entry.started_at > 0 for entry in journal)


async def test_the_weights_go_up_one_after_another_and_each_is_confirmed_before_the_next(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        await world.deploy("2.0.0")
        assert world.weights(GREEN) == [0, *LADDER]
        shifted = [(event.body["green"], event.body["revision"]) for event in world.events("traffic.shifted")]
        assert shifted[-5:] == list(zip(LADDER, range(2, 7), strict=True))
        assert world.route().split == TrafficSplit(blue=0, green=100) == world.proxy.split


async def test_the_intent_of_each_step_is_recorded_before_its_result(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        await world.deploy("2.0.0")
        told = [(event.name, event.body["step"]) for event in world.events() if event.name in ("step.started", "step.done")]
        expected = [pair for step in WAY + END for pair in (("step.started", step), ("step.done", step))]
        assert told == expected[:-1]  # the record ends in the event of the deployment's end
        assert world.events("deployment.ended")[-1].body["status"] == "promoted"


async def test_after_the_promotion_the_old_environment_stands_until_its_window_ends(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        token = await world.stands("1.0.0", BLUE)
        await world.deploy("2.0.0")
        old = world.residents()[BLUE]
        left_s = old.retire_at - world.read(lambda reader: reader.now())
        assert (old.deployment, old.wanted, 3000 < left_s <= 3600) == (token, True, True)
        assert world.residents()[GREEN].retire_at == 0.0
        assert world.runtime.runs[BLUE].alive


async def test_a_first_deployment_goes_from_nobody_to_everybody_at_once(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        ended = await world.deploy("1.0.0")
        assert (ended.status, ended.candidate, ended.baseline) == (DeploymentStatus.PROMOTED, BLUE, None)
        assert [step.name for step in ended.plan if step.kind == "shift"] == ["shift-100"]
        assert world.proxy.split == TrafficSplit(blue=100, green=0)


async def test_without_the_gradual_switch_everybody_moves_at_once(tmp_path: Path) -> None:
    deployment = {"gradual": False, "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.PROMOTED
        assert world.weights(GREEN) == [0, 100]


async def test_the_next_deployment_goes_back_to_the_other_environment_and_retires_what_stood_there(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        await world.deploy("2.0.0")
        ended = await world.deploy("3.0.0")
        assert (ended.status, ended.candidate, ended.baseline) == (DeploymentStatus.PROMOTED, BLUE, GREEN)
        start = next(entry for entry in world.journal() if entry.step == "start")
        assert start.result["retired"] == "1.0.0: drained"
        assert {run.release.version for run in world.runtime.runs.values()} == {"2.0.0", "3.0.0"}


async def test_a_weight_is_held_for_its_dwell_time(tmp_path: Path) -> None:
    deployment = {"weights": [50, 100], "step": {"dwell": "400ms", "min_requests": 0}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        await world.deploy("2.0.0")
        at = {event.body["green"]: event.at for event in world.events("traffic.shifted")}
        assert at[100] - at[50] >= 0.39


async def test_a_weight_is_held_until_enough_requests_were_seen(tmp_path: Path) -> None:
    deployment = {"weights": [50, 100], "step": {"dwell": "1ms", "min_requests": 30}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(50)
        world.requests(GREEN, 29)
        world.requests(BLUE, 29)
        await until(lambda: "29 of 30 requests" in str(read_live(world.state).get("verdict", {})), what="29 requests were counted")
        assert world.proxy.split.green == 50
        world.requests(GREEN, 1)
        assert (await world.ended()).status is DeploymentStatus.PROMOTED


async def test_the_record_of_the_end_counts_the_users_requests(tmp_path: Path) -> None:
    deployment = {"weights": [50, 100], "step": {"dwell": "1ms", "min_requests": 10}, "bake": "300ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        async with world.users():
            ended = await world.deploy("2.0.0")
        assert ended.outcome["requests"] >= 10
        assert ended.outcome["failed_requests"] == 0


CHECKS: dict[str, Any] = {
    name: {"command": [name], "undo": [f"undo-{name}"]}
    for name in ("pre_deployment_tests", "database_migration", "cache_warming", "post_deployment_tests", "load_test")
}


async def test_checks_run_in_their_phase_in_the_order_of_the_plan(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.PROMOTED
        assert world.checks.ran == ["pre_deployment_tests", "database_migration", "cache_warming", "post_deployment_tests", "load_test"]
        names = [entry.step for entry in world.journal()]
        assert names[:4] == ["preflight", "pre-deployment-tests", "database-migration", "start"]
        assert names[4:9] == ["wait-healthy", "cache-warming", "verify-preview", "post-deployment-tests", "load-test"]
        assert names[9] == "shift-10"


async def test_a_failing_check_rolls_back_and_runs_the_undos_in_reverse_order(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.failing.add("post_deployment_tests")
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert "post-deployment-tests failed, post_deployment_tests: exit status 1: it said why" in ended.reason
        undone = [name for name in world.checks.ran if name.startswith("undo-")]
        order = ["post_deployment_tests", "cache_warming", "database_migration", "pre_deployment_tests"]
        assert undone == [f"undo-{name}" for name in order]
        assert world.weights(GREEN) == [0]
        assert GREEN not in world.runtime.runs


async def test_a_failing_check_before_the_start_never_starts_the_release(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.failing.add("database_migration")
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert world.runtime.starts == 0
        assert [name for name in world.checks.ran if name.startswith("undo-")] == ["undo-database_migration", "undo-pre_deployment_tests"]


async def test_a_migration_without_an_undo_is_kept_and_the_record_says_so(tmp_path: Path) -> None:
    checks = {"database_migration": {"command": ["migrate"]}, "load_test": {"command": ["load"]}}
    async with world_in(tmp_path, checks=checks) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.failing.add("load")
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert ended.outcome["kept"] == {"database-migration": "no undo is configured"}


async def test_an_undo_that_fails_ends_in_failed_and_the_others_are_still_undone(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.failing |= {"load_test", "undo-cache_warming"}
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.FAILED
        assert "traffic is back, but cache-warming: failed: its undo" in ended.reason
        assert world.checks.ran[-1] == "undo-pre_deployment_tests"
        assert GREEN not in world.runtime.runs


async def test_skipped_checks_are_not_run(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0", skip_tests=True, skip_migration=True, skip_load_testing=True)
        assert ended.status is DeploymentStatus.PROMOTED
        assert world.checks.ran == ["cache_warming"]


async def test_a_proxy_that_fails_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transient error is tried again within the step; the journal counts the attempts."""
    apply, failures = FakeRouter.apply, [1, 1]

    async def stumbles(self: FakeRouter, route: Any) -> None:
        if route.split.green == 50 and failures:
            failures.pop()
            raise RouterUnavailable("the proxy was busy")
        await apply(self, route)

    monkeypatch.setattr(FakeRouter, "apply", stumbles)
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.PROMOTED
        assert next(entry.attempt for entry in world.journal() if entry.step == "shift-50") > 1
