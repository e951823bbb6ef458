"""Evidence of harm in every stage, and what is done about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bleen.model.deployment import DeploymentStatus
from bleen.model.environment import Environment
from bleen.model.traffic import TrafficSplit
from bleen.runtime.fake import FakeRuntime
from bleen.runtime.runtime import StopOutcome
from bleen.store.live import read_live
from tests.engine_world import BLUE, GREEN, World, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until


def slow(**values: Any) -> dict[str, Any]:
    """A ladder that stays at 25 % until somebody acts."""
    return {"weights": [25, 100], "step": {"dwell": "1h", "min_requests": 0}, "bake": "1h"} | values


FAST = {"weights": [25, 100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1h"}


def assert_users_are_on_blue(world: World) -> None:
    assert world.route().split == world.proxy.split == TrafficSplit.all_to(BLUE)
    assert GREEN not in world.runtime.runs
    assert world.runtime.runs[BLUE].alive


async def test_a_candidate_that_falls_ill_before_it_has_users_is_taken_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks={"load_test": {"command": ["load"]}}) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.hanging.add("load")
        await world.submit()
        world.ensure_controller()
        await world.reaches("load-test")
        await until(lambda: "green answers its health checks" in str(read_live(world.state)), what="the watch has seen it well")
        world.health.down.add(GREEN)
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "health checks")
        assert world.weights(GREEN) == [0]
        assert_users_are_on_blue(world)


async def test_a_candidate_whose_process_ends_before_it_has_users_is_taken_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks={"load_test": {"command": ["load"]}}) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.hanging.add("load")
        await world.submit()
        world.ensure_controller()
        await world.reaches("load-test")
        world.health.answers[GREEN] = "2.0.0"  # something answers still: only the runtime knows
        world.runtime.crash(GREEN)
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "health checks")
        assert "the process of green has ended" in ended.reason


async def test_a_candidate_that_fails_its_users_is_taken_back_and_the_evidence_is_recorded(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow()) as world:
        await world.stands("1.0.0", BLUE)
        async with world.users(failing=GREEN):
            ended = await world.deploy("2.0.0")
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "error rates")
        assert "green fails" in ended.reason
        assert ended.outcome["verdict"]["evidence"] >= ended.outcome["verdict"]["needed"]
        assert 0 < ended.outcome["first_failure_at"] <= ended.outcome["verdict_at"] <= ended.outcome["restored_at"]
        assert ended.outcome["failed_requests"] > 0
        assert_users_are_on_blue(world)


async def test_a_candidate_whose_health_checks_fail_under_traffic_is_taken_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down.add(GREEN)
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "health checks")
        assert_users_are_on_blue(world)


async def test_a_candidate_whose_process_ends_under_traffic_is_taken_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.answers[GREEN] = "2.0.0"
        world.runtime.crash(GREEN)
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "health checks")
        assert "the process of green has ended" in ended.reason
        assert world.runtime.starts == 1  # a candidate is judged, never started again


async def test_the_traffic_goes_back_before_the_candidate_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, seen = FakeRuntime.stop, []
    async with world_in(tmp_path, deployment=slow()) as world:

        async def stop_and_look(runtime: FakeRuntime, environment: Environment, *token: str) -> StopOutcome:
            seen.append((environment, world.proxy.split))
            return await stop(runtime, environment, *token)

        monkeypatch.setattr(FakeRuntime, "stop", stop_and_look)
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down.add(GREEN)
        await world.ended()
        assert seen == [(GREEN, TrafficSplit.all_to(BLUE))]


async def test_harm_in_the_bake_takes_a_promoted_release_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.reaches("bake")
        async with world.users(failing=GREEN):
            ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "error rates")
        assert_users_are_on_blue(world)
        assert world.residents()[BLUE].retire_at == 0.0


async def test_a_first_release_that_fails_in_its_bake_leaves_nobody_served(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.submit("1.0.0")
        world.ensure_controller()
        await world.reaches("bake")
        world.health.down.add(BLUE)
        ended = await world.ended()
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert world.route().split.closed
        assert world.proxy.split.closed
        assert BLUE not in world.runtime.runs


async def test_without_automatic_rollback_harm_freezes_the_deployment_and_the_traffic_stays(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow(auto_rollback=False)) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down.add(GREEN)
        frozen = await world.ended()
        assert (frozen.status, frozen.cause, frozen.status.exit_code) == (DeploymentStatus.FROZEN, "health checks", 3)
        assert "automatic rollback is off" in frozen.reason
        assert world.proxy.split == TrafficSplit(blue=75, green=25)
        assert world.runtime.runs[GREEN].alive
        result = await world.manager.abort("enough")
        assert (result.outcome, result.cause) == ("rolled_back", "command")
        assert_users_are_on_blue(world)


async def test_a_frozen_deployment_is_still_shown_and_the_baseline_still_kept_up(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow(auto_rollback=False)) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down.add(GREEN)
        frozen = await world.ended()
        assert frozen.status is DeploymentStatus.FROZEN
        await until(lambda: read_live(world.state).get("verdict", {}).get("judgement") == "fail", what="the verdict is shown")
        world.runtime.crash(BLUE)
        await until(lambda: world.runtime.runs[BLUE].alive, what="the baseline runs again")


async def test_a_frozen_deployment_whose_candidate_ends_stays_frozen_under_the_same_lease(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow(auto_rollback=False)) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.runtime.crash(GREEN)
        assert (await world.ended()).status is DeploymentStatus.FROZEN
        epoch = world.read(lambda reader: reader.glance()).epoch
        published = read_live(world.state).get("at", 0.0)
        await until(lambda: read_live(world.state).get("at", 0.0) > published + 0.5, what="it was watched for a while")
        assert world.read(lambda reader: reader.glance()).epoch == epoch
        assert world.status() is DeploymentStatus.FROZEN


async def test_a_deadline_freezes_too_where_automatic_rollback_is_off(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=slow(auto_rollback=False, timeout="400ms")) as world:
        await world.stands("1.0.0", BLUE)
        frozen = await world.deploy("2.0.0")
        assert (frozen.status, frozen.cause) == (DeploymentStatus.FROZEN, "deadline")


async def test_a_failing_baseline_holds_the_deployment_where_it_is(tmp_path: Path) -> None:
    deployment = {"weights": [25, 50, 100], "step": {"dwell": "300ms", "min_requests": 0}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down.add(BLUE)
        await until(lambda: "blue itself fails" in str(read_live(world.state)), what="the verdict says so")
        held = world.proxy.split.green
        held_since = next(event.at for event in world.events("traffic.shifted") if event.body["green"] == held)
        await until(lambda: world.read(lambda reader: reader.now()) - held_since > 1.0, what="more than the dwell time has passed")
        assert world.proxy.split.green == held
        assert world.status() is DeploymentStatus.RUNNING
        world.health.down.clear()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED


async def test_users_are_never_moved_back_to_a_baseline_that_is_ill(tmp_path: Path) -> None:
    """The time of the deployment is over while blue itself fails: a person decides, green goes on serving."""
    async with world_in(tmp_path, deployment=slow(timeout="2h")) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down.add(BLUE)
        await until(lambda: "blue itself fails" in str(read_live(world.state)), what="the verdict says so")
        with world.store.write() as writer:
            writer.add_clock(submitted.id, "active_s", 7200.0)
        frozen = await world.ended()
        assert frozen.status is DeploymentStatus.FROZEN
        assert "blue, the way back, fails its own health checks: traffic stays as it is" in frozen.reason
        assert world.proxy.split.green == 25
        assert world.runtime.runs[GREEN].alive


async def test_both_failing_at_once_is_no_reason_to_go_back(tmp_path: Path) -> None:
    """A broken database takes both down: going back would help nobody."""
    async with world_in(tmp_path, deployment=slow()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.health.down |= {BLUE, GREEN}
        await until(lambda: "blue itself fails" in str(read_live(world.state)), what="the verdict says so")
        asked = len(world.health.asked)
        await until(lambda: len(world.health.asked) > asked + 20, what="both were asked many times more")
        assert world.status() is DeploymentStatus.RUNNING
        assert world.proxy.split.green == 25


async def test_a_release_that_is_not_what_was_started_gets_no_users(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.runtime.never_listens.add(GREEN)
        world.ensure_controller()
        ended = await world.ended()
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert "cannot be shown to be 2.0.0" in ended.reason
        assert world.weights(GREEN) == [0]


async def test_an_answer_of_another_version_gets_no_users(tmp_path: Path) -> None:
    async with world_in(tmp_path, checks={"cache_warming": {"command": ["warm"]}}) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.acts["warm"] = lambda: world.health.answers.update({GREEN: "1.9.9"})
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert "green says it is 1.9.9, not 2.0.0" in ended.reason
        assert world.weights(GREEN) == [0]


@pytest.mark.parametrize("preview_down", [True, False])
async def test_a_release_that_does_not_answer_through_the_preview_gets_no_users(tmp_path: Path, preview_down: bool) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.health.preview_down = preview_down
        ended = await world.deploy("2.0.0")
        assert ended.status is (DeploymentStatus.ROLLED_BACK if preview_down else DeploymentStatus.PROMOTED)
        assert ("green does not answer through the preview" in ended.reason) is preview_down


async def test_a_proxy_that_does_not_hold_100_percent_at_the_end_goes_back(tmp_path: Path) -> None:
    deployment = {"weights": [100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "500ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.reaches("bake")
        world.proxy.readable = False
        world.proxy.writable = False  # the supervisor cannot put it right
        await world.reaches("final-verification")
        await until(lambda: world.status() is not DeploymentStatus.RUNNING)
        world.proxy.writable = True
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "step failed")
        assert "the proxy does not confirm 100% on green" in ended.reason
