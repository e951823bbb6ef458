"""Every hard deadline: what its expiry does, and that time which does not count is not counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bleen.deployment.steps.checks import CheckCommandStep
from bleen.deployment.steps.release import Start
from bleen.model.deployment import DeploymentStatus
from bleen.model.traffic import ReadingState, TrafficSplit
from bleen.runtime.fake import FakeRuntime
from tests.engine_world import BLUE, GREEN, World, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until


def timed(**values: Any) -> dict[str, Any]:
    """A ladder whose first weight is never left by itself."""
    return {"weights": [25, 100], "step": {"dwell": "1h", "min_requests": 0}, "bake": "1ms"} | values


async def test_a_deployment_that_is_not_promoted_in_time_goes_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(timeout="1500ms")) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "deadline")
        assert "active time, at shift-25" in ended.reason
        assert ended.active_s > 1.5
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_paused_time_does_not_count_against_the_deployments_deadline(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(timeout="1h30m")) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        await until(lambda: clocks(world)[1] > 0, what="the pause is noticed")
        before = world.newest().active_s
        await until(lambda: clocks(world)[1] > 0.8, what="it was paused for a while")
        assert world.newest().active_s == before
        await world.manager.resume()
        await until(lambda: world.newest().active_s > before, what="the time goes on")
        with world.store.write() as writer:  # as much as the deployment has
            writer.add_clock(submitted.id, "active_s", 5400.0)
        assert (await world.ended()).cause == "deadline"


async def test_the_active_time_outlives_a_controller(tmp_path: Path) -> None:
    """A controller that dies every now and then does not stretch the deadline."""
    async with world_in(tmp_path, deployment=timed(timeout="1h30m")) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.stop_controllers()
        with world.store.write() as writer:  # as much as the deployment has
            writer.add_clock(submitted.id, "active_s", 5400.0)
        world.start_controller()
        assert (await world.ended()).cause == "deadline"


async def test_the_bake_does_not_count_against_the_deployments_deadline(tmp_path: Path) -> None:
    deployment = {"weights": [100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1500ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.reaches("bake")
        before = world.newest().active_s
        ended = await world.ended()
        assert ended.status is DeploymentStatus.PROMOTED
        assert ended.active_s - before < 0.8


async def test_a_pause_that_lasts_too_long_goes_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(pause_timeout="300ms")) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "deadline")
        assert "paused for longer than" in ended.reason
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_a_second_pause_has_its_own_time(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(pause_timeout="1h")) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        with world.store.write() as writer:
            writer.add_clock(submitted.id, "paused_s", 3000.0)
        await world.manager.resume()
        await world.manager.pause()
        assert clocks(world)[1] < 60
        assert world.status() is DeploymentStatus.RUNNING


async def test_a_release_that_never_becomes_healthy_goes_back_without_having_had_users(tmp_path: Path) -> None:
    async with world_in(tmp_path, health={"timeout": "300ms", "interval": "10ms"}) as world:
        await world.stands("1.0.0", BLUE)
        world.health.down.add(GREEN)
        ended = await world.deploy("2.0.0")
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "deadline")
        assert ended.reason.startswith("wait-healthy was not done within")
        assert world.weights(GREEN) == [0]
        assert GREEN not in world.runtime.runs


async def test_a_release_that_ends_while_it_starts_is_not_waited_for(tmp_path: Path) -> None:
    async with world_in(tmp_path, health={"timeout": "1h", "interval": "10ms"}, deployment={"timeout": "2h"}) as world:
        await world.stands("1.0.0", BLUE)
        world.runtime.crashes_at_start.add(GREEN)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert "2.0.0 ended while it was starting" in ended.reason or "process of green has ended" in ended.reason


async def test_a_check_that_hangs_goes_back_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckCommandStep, "limit_s", lambda *_: 0.2)
    async with world_in(tmp_path, checks={"load_test": {"command": ["load"], "undo": ["undo-load"]}}) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.hanging.add("load")
        ended = await world.deploy("2.0.0")
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "deadline")
        assert ended.reason.startswith("load-test was not done within")
        assert world.checks.ran == ["load", "undo-load"]


async def test_a_checks_limit_is_its_own_timeout_and_some_time_to_end_it(tmp_path: Path) -> None:
    checks = {"load_test": {"command": ["load"], "timeout": "90s"}}
    async with world_in(tmp_path, checks=checks) as world:
        submitted = await world.submit()
        step = submitted.step("load-test")
        context: Any = SimpleNamespace(ports=world.wire(world.config))
        assert step is not None
        assert CheckCommandStep().limit_s(context, step) == 120.0


async def test_a_start_that_is_stuck_goes_back_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        monkeypatch.setattr(Start, "limit_s", lambda *_: 0.2)
        monkeypatch.setattr(FakeRuntime, "start", _never)
        ended = await world.deploy("2.0.0")
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "deadline")
        assert ended.reason.startswith("start was not done within")


async def test_a_rollback_that_the_proxy_never_confirms_ends_as_failed_for_a_person(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(rollback_timeout="500ms")) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.proxy.reading = ReadingState.MIXED
        world.health.down.add(GREEN)
        ended = await world.ended()
        assert ended.status is DeploymentStatus.FAILED
        assert ended.reason.startswith("the rollback did not end within")
        assert ended.status.exit_code == 3
        assert world.events("rollback.retried")
        assert world.route().split == TrafficSplit.all_to(BLUE)
        assert world.weights(GREEN) == [0, 25, 0]
        assert world.runtime.runs[GREEN].alive  # users may still be on it: nobody knows


async def test_after_a_failed_rollback_the_candidate_gets_no_traffic_when_the_proxy_is_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(rollback_timeout="300ms")) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.proxy.reading = ReadingState.UNKNOWN
        assert (await world.manager.abort()).outcome == "failed"
        world.proxy.split = TrafficSplit(blue=75, green=25)  # a proxy that was put back by hand
        world.proxy.reading = ReadingState.CONFIRMED
        await until(lambda: world.proxy.split == TrafficSplit.all_to(BLUE), what="the route holds again")
        assert world.weights(GREEN) == [0, 25, 0]


async def test_a_proxy_that_cannot_be_written_does_not_keep_a_rollback_from_ending(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(rollback_timeout="300ms")) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.proxy.writable = False
        assert (await world.manager.abort()).outcome == "failed"


async def test_the_time_of_a_rollback_outlives_a_controller(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=timed(rollback_timeout="30s")) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.proxy.reading = ReadingState.MIXED
        with world.store.write() as writer:  # as much as an earlier controller spent
            writer.add_clock(submitted.id, "rollback_s", 29.5)
        result = await world.manager.abort()
        ordered = world.events("rollback.ordered")[-1].at
        assert result.outcome == "failed"
        assert world.newest().ended_at - ordered < 15


def clocks(world: World) -> tuple[float, float, float]:
    """Active, paused and rollback time of the newest deployment in the store."""
    found: tuple[float, float, float] = world.read(lambda reader: reader.clocks(world.newest().id))
    return found


async def _never(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()
