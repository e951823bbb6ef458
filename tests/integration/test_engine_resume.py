"""A controller that dies at any point: the next one goes on from the journal, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bleen.deployment.context import FencedStore
from bleen.deployment.steps.checks import CheckCommandStep
from bleen.deployment.steps.release import Start
from bleen.errors import Fenced
from bleen.model.deployment import Deployment, DeploymentStatus, Phase, PlannedStep, StepState
from bleen.model.sample import ProbeKind
from bleen.model.traffic import TrafficSplit
from bleen.store.live import read_live
from bleen.store.writer import Writer
from tests.engine_world import BLUE, GREEN, World, hold_step, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until

T = TypeVar("T")
TWO_WEIGHTS = {"weights": [50, 100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms"}
CHECKS: dict[str, Any] = {"database_migration": {"command": ["migrate"], "undo": ["undo-migrate"]}}
STEPS = ["preflight", "database-migration", "start", "wait-healthy", "verify-preview"]
STEPS += ["shift-50", "shift-100", "bake", "final-verification"]


def assert_promoted_once(world: World) -> None:
    """Every step is done, the release was started once, and the route is right."""
    ended = world.newest()
    assert (ended.status, ended.reason) == (DeploymentStatus.PROMOTED, "2.0.0 holds 100% in green")
    done = [entry.step for entry in world.journal() if (entry.kind, entry.state) == ("do", StepState.DONE)]
    assert sorted(done) == sorted(step.name for step in ended.plan)
    assert world.runtime.starts == 1
    assert world.runtime.runs[GREEN].token == ended.id
    assert world.route().split == world.proxy.split == TrafficSplit.all_to(GREEN)
    assert world.weights(GREEN) == sorted(world.weights(GREEN))
    assert world.residents()[BLUE].retire_at > 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [*STEPS, "record"])
async def test_a_controller_that_dies_in_a_step_is_followed_by_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """Before: the intent is in the journal, nothing was done. After: it was done, the journal has no result."""
    async with world_in(tmp_path, deployment=TWO_WEIGHTS, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        held = hold_step(monkeypatch, step, when)
        await world.submit()
        world.ensure_controller()
        await asyncio.wait_for(held.reached.wait(), 20)
        await die(world)
        assert world.journal()[-1].step == step
        world.start_controller()
        await world.ended()
        await world.stop_controllers()
        assert_promoted_once(world)
        attempts = {entry.step: entry.attempt for entry in world.journal()}
        again = {} if (step, when) == ("record", "after") else {step: 2}  # the record's result is the deployment's end
        assert attempts == dict.fromkeys(attempts, 1) | again


@pytest.mark.parametrize(("number", "landed"), [(number, landed) for number in range(1, 30, 4) for landed in (False, True)])
async def test_a_controller_that_dies_at_any_of_its_writes_is_followed_by_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, landed: bool
) -> None:
    write, count, dead = FencedStore.write, 0, asyncio.Event()
    async with world_in(tmp_path, deployment=TWO_WEIGHTS, checks=CHECKS) as world:

        async def dies(self: FencedStore, change: Callable[[Writer], T]) -> T:
            nonlocal count
            count += 1
            if count != number:
                return await write(self, change)
            if landed:
                await write(self, change)
            world.take_over()  # from here on nothing of the dead one can land
            dead.set()
            raise asyncio.CancelledError

        monkeypatch.setattr(FencedStore, "write", dies)
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.start_controller()
        await until(lambda: dead.is_set() or not world.status().active)
        await die(world)
        monkeypatch.setattr(FencedStore, "write", write)
        world.start_controller()
        await world.ended()
        await world.stop_controllers()
        assert_promoted_once(world)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("undo", ["migrate", "start"])
async def test_a_controller_that_dies_while_it_rolls_back_is_followed_by_one_that_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undo: str, when: str
) -> None:
    async with world_in(tmp_path, deployment=TWO_WEIGHTS | {"step": {"dwell": "1h", "min_requests": 0}}, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(50)
        reached = _hold_undo(world, monkeypatch, undo, when)
        world.health.down.add(GREEN)
        await asyncio.wait_for(reached.wait(), 20)
        await die(world)
        assert world.status() is DeploymentStatus.ROLLING_BACK
        world.health.down.clear()  # well again, but the way back was taken
        world.start_controller()
        ended = await world.ended()
        assert (ended.status, ended.cause) == (DeploymentStatus.ROLLED_BACK, "health checks")
        assert world.proxy.split == TrafficSplit.all_to(BLUE)
        assert world.weights(GREEN) == [0, 50, 0]
        assert GREEN not in world.runtime.runs


async def test_a_dead_controllers_writes_that_land_late_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped while its step was under way, and wakes after another took over and the deployment was aborted."""
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        zombie = world.take_over("zombie")
        held = hold_step(monkeypatch, "shift-50", "before")
        engine = await world.engine(zombie)
        driving = asyncio.create_task(engine.run(world.newest()))
        await asyncio.wait_for(held.reached.wait(), 20)
        world.start_controller()
        await until(lambda: world.glance().epoch > zombie.lease.epoch)
        assert (await world.manager.abort()).outcome == "rolled_back"
        router = engine._ports.proxy.router
        with pytest.raises(Fenced):
            await router.apply(replace(world.route(), epoch=zombie.lease.epoch, split=TrafficSplit(blue=0, green=100)))
        with pytest.raises(Fenced):
            await router.fence(zombie.lease.epoch)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_an_engine_that_was_overtaken_stops_at_its_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        first = world.take_over("first")
        held = hold_step(monkeypatch, "wait-healthy", "before")
        engine = await world.engine(first)
        driving = asyncio.create_task(engine.run(world.newest()))
        await asyncio.wait_for(held.reached.wait(), 20)
        world.take_over("second")
        journal = world.journal()
        with pytest.raises(Fenced):  # the clock's write is the next
            await asyncio.wait_for(driving, 20)
        assert world.journal() == journal
        assert world.status() is DeploymentStatus.RUNNING


async def test_the_users_requests_of_before_the_death_count_after_it(tmp_path: Path) -> None:
    """The next controller reads the log on from the candidate's start: evidence is not forgotten."""
    deployment = {"weights": [50, 100], "step": {"dwell": "1ms", "min_requests": 40}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(50)
        world.requests(GREEN, 30)
        world.requests(BLUE, 30)
        await until(lambda: _seen(world) >= 30, what="the first controller has seen them")
        await die(world)
        world.start_controller()
        world.requests(GREEN, 10)
        ended = await world.ended()
        assert (ended.status, ended.outcome["requests"]) == (DeploymentStatus.PROMOTED, 40)


async def test_a_step_that_a_later_version_does_not_know_leads_to_a_rollback(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)

        def with_a_step_that_is_gone(deployment: Deployment) -> Deployment:
            gone = PlannedStep("warm-the-oven", "oven", Phase.DEPLOYMENT)
            return replace(deployment, plan=(*deployment.plan[:4], gone, *deployment.plan[4:]))

        await world.submit_with(with_a_step_that_is_gone)
        world.start_controller()
        ended = await world.ended()
        assert ended.status is DeploymentStatus.ROLLED_BACK
        assert "step warm-the-oven of kind 'oven' is unknown to this version" in ended.reason
        assert world.weights(GREEN) == [0]
        assert GREEN not in world.runtime.runs


async def test_a_begun_step_that_a_later_version_does_not_know_cannot_be_undone_and_a_person_is_asked(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)

        def with_a_step_that_is_gone(deployment: Deployment) -> Deployment:
            return replace(deployment, plan=(PlannedStep("heat", "oven", Phase.PRE_DEPLOYMENT), *deployment.plan))

        submitted = await world.submit_with(with_a_step_that_is_gone)
        with world.store.write() as writer:
            writer.begin_step(submitted.id, "heat", "do", 1)
            writer.end_step(submitted.id, "heat", "do", StepState.DONE, {})
        world.health.down.add(GREEN)
        world.start_controller()
        await world.reaches("wait-healthy")
        assert (await world.manager.abort()).outcome == "failed"
        assert "heat: failed: step kind 'oven' is unknown to this version" in world.newest().reason
        assert GREEN not in world.runtime.runs


async def test_a_step_that_a_later_version_added_is_left_out_of_running_deployments(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)

        def of_an_older_version(deployment: Deployment) -> Deployment:
            return replace(deployment, plan=tuple(step for step in deployment.plan if step.kind != "verify-preview"))

        await world.submit_with(of_an_older_version)
        world.start_controller()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED
        assert "verify-preview" not in [entry.step for entry in world.journal()]


async def test_a_deployment_runs_with_the_configuration_that_it_was_submitted_with(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        with sqlite3.connect(world.state / "store.db") as connection:
            connection.execute("UPDATE deployment SET config = json_set(config, '$.health.timeout', '250ms') WHERE id = ?", (submitted.id,))
        connection.close()
        world.health.down.add(GREEN)
        world.start_controller()
        assert (await world.ended()).cause == "deadline"


async def test_an_undo_that_breaks_unexpectedly_does_not_keep_the_rollback_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = CHECKS | {"load_test": {"command": ["load"], "undo": ["undo-load"]}}
    async with world_in(tmp_path, deployment=TWO_WEIGHTS, checks=checks) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.failing.add("load")
        world.checks.acts["undo-load"] = lambda: 1 / 0  # type: ignore[assignment, return-value]
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.FAILED
        assert "load-test: failed: internal error: ZeroDivisionError" in ended.reason
        assert world.checks.ran[-1] == "undo-migrate"
        assert GREEN not in world.runtime.runs


async def test_harm_at_the_moment_of_the_end_does_not_reopen_a_promoted_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has landed, the engine has not noticed yet, and the watch fails: the deployment stays ended."""
    async with world_in(tmp_path, deployment=TWO_WEIGHTS) as world:
        await world.stands("1.0.0", BLUE)
        held = hold_step(monkeypatch, "record", "after")
        await world.submit()
        world.ensure_controller()
        await asyncio.wait_for(held.reached.wait(), 20)
        assert world.status() is DeploymentStatus.PROMOTED
        world.health.down.add(GREEN)
        await asyncio.wait_for(held.left.wait(), 20)
        world.health.asked.clear()
        await until(lambda: (BLUE, ProbeKind.HEALTH) in world.health.asked, what="the controller goes on with the way back")
        assert world.status() is DeploymentStatus.PROMOTED
        assert len(world.events("deployment.ended")) == 1
        assert not world.events("rollback.ordered")


async def die(world: World) -> None:
    """The running controller is gone as by SIGKILL: nothing that it would still have written can land."""
    world.take_over()
    for _, task in world.controllers:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    world.controllers.clear()


def _hold_undo(world: World, monkeypatch: pytest.MonkeyPatch, undo: str, when: str) -> asyncio.Event:
    """The undo of that step stands still once, before or after it acted."""
    owner = Start if undo == "start" else CheckCommandStep
    original, reached = owner.undo, asyncio.Event()

    async def held(self: Any, context: Any, step: PlannedStep) -> dict[str, Any]:
        holding = not reached.is_set()
        result = {} if holding and when == "before" else await original(self, context, step)
        if holding:
            reached.set()
            await asyncio.Event().wait()
        return result

    monkeypatch.setattr(owner, "undo", held)
    return reached


def _seen(world: World) -> int:
    tallies = read_live(world.state).get("verdict", {}).get("environments", {})
    return int(tallies.get("green", {}).get("requests", 0))
