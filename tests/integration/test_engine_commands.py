"""What people ask of a deployment that is under way, in every step of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from bleen.deployment import controller as controller_module
from bleen.errors import Fenced, WrongState
from bleen.model.deployment import CommandKind, DeploymentStatus
from bleen.model.traffic import ReadingState, TrafficSplit
from bleen.store.writer import Writer
from tests.engine_world import BLUE, GREEN, hold_step, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until

CHECKS: dict[str, Any] = {
    "pre_deployment_tests": {"command": ["test"], "undo": ["undo-test"]},
    "cache_warming": {"command": ["warm"], "undo": ["undo-warm"]},
}


def ladder(dwell: str = "1h", bake: str = "1h") -> dict[str, Any]:
    return {"weights": [25, 50, 75, 100], "step": {"dwell": dwell, "min_requests": 0}, "bake": bake}


async def test_a_pause_holds_the_weight_and_a_resume_goes_on(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder("300ms", "1ms")) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        paused = await world.manager.pause("lunch")
        assert (paused.status, paused.paused) == (DeploymentStatus.RUNNING, True)
        held = world.proxy.split.green
        asked = world.read(lambda reader: reader.now())
        await until(lambda: world.read(lambda reader: reader.now()) - asked > 1.0, what="three dwell times have passed")
        assert world.proxy.split.green == held < 100
        await world.manager.resume()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED
        (command, *_) = world.read(lambda reader: reader.commands(world.newest().id))
        assert (command.kind, command.by, command.reason) == (CommandKind.PAUSE, "alice@host", "lunch")


async def test_once_a_pause_was_confirmed_no_weight_rises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the controller has not looked yet: the weight's own transaction sees the pause."""
    monkeypatch.setattr(controller_module, "GLANCE_S", 0.8)
    async with world_in(tmp_path, deployment=ladder("300ms", "1ms")) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        held = world.route()
        asked = world.read(lambda reader: reader.now())
        await until(lambda: world.read(lambda reader: reader.now()) - asked > 1.2, what="the dwell time has passed")
        assert world.route() == held
        await world.manager.resume()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED


async def test_a_paused_deployment_still_goes_back_at_evidence_of_harm(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        world.health.down.add(GREEN)
        assert (await world.ended()).cause == "health checks"


async def test_a_pause_before_the_traffic_lets_the_step_end_and_nothing_more(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder("1ms", "1ms"), checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        world.checks.hanging.add("warm")
        await world.submit()
        world.ensure_controller()
        await world.reaches("cache-warming")
        await world.manager.pause()
        await world.stop_controllers()
        world.checks.hanging.clear()
        world.ensure_controller()  # a pause outlives a controller
        at = world.events()[-1].seq
        await until(lambda: world.read(lambda reader: reader.clocks(world.newest().id))[1] > 0.3, what="it was paused for a while")
        assert not [event for event in world.events("step.started") if event.seq > at and event.body["step"] != "cache-warming"]
        await world.manager.resume()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED


async def test_a_promotion_leaves_the_present_weight_and_only_that(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.promote()
        await world.at_weight(50)
        left = next(entry for entry in world.journal() if entry.step == "shift-25")
        assert left.result["left"] == "a person promoted it"
        assert world.newest().promote == ""
        asked = len(world.health.asked)
        await until(lambda: len(world.health.asked) > asked + 20, what="it was watched for a while")
        assert world.proxy.split.green == 50


async def test_a_full_promotion_goes_straight_to_100_percent_and_bakes(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.promote(full=True)
        await world.reaches("bake")
        assert world.weights(GREEN) == [0, 25, 100]
        skipped = {entry.step: entry.result for entry in world.journal() if "skipped" in entry.result}
        assert set(skipped) == {"shift-50", "shift-75"}
        asked = len(world.health.asked)
        await until(lambda: len(world.health.asked) > asked + 20, what="it bakes for a while")
        assert world.step() == "bake"
        await world.manager.promote()  # the second ends the bake
        ended = await world.ended()
        assert ended.status is DeploymentStatus.PROMOTED
        assert next(entry.result["left"] for entry in world.journal() if entry.step == "bake") == "a person promoted it"


async def test_a_full_promotion_never_skips_the_bake_on_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked once is done once, however late the controller sees that it is done."""
    set_control = Writer.set_control

    def slowly(self: Writer, deployment: str, **change: Any) -> None:
        set_control(self, deployment, **change)
        if change == {"promote": ""}:
            time.sleep(0.3)

    monkeypatch.setattr(Writer, "set_control", slowly)
    monkeypatch.setattr(controller_module, "GLANCE_S", 0.25)
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.promote(full=True)
        await world.at_weight(100)
        await until(lambda: world.step() == "bake" or not world.status().active, what="the bake began")
        asked = len(world.health.asked)
        await until(lambda: len(world.health.asked) > asked + 30 or not world.status().active, what="it bakes for a while")
        assert world.step() == "bake"


async def test_a_promotion_of_a_paused_deployment_resumes_it(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        promoted = await world.manager.promote()
        assert not promoted.paused
        await world.at_weight(50)


STEPS = ["preflight", "pre-deployment-tests", "start", "wait-healthy", "cache-warming", "verify-preview"]
STEPS += ["shift-25", "shift-100", "bake", "final-verification"]


@pytest.mark.parametrize("step", STEPS)
async def test_an_abort_in_any_step_brings_everybody_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Each step has had its effect, and its result is not in the journal yet."""
    deployment = {"weights": [25, 100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment, checks=CHECKS) as world:
        await world.stands("1.0.0", BLUE)
        held = hold_step(monkeypatch, step, "after")
        await world.submit()
        world.ensure_controller()
        await asyncio.wait_for(held.reached.wait(), 20)
        before = world.glance().epoch
        result = await asyncio.wait_for(world.manager.abort("enough"), 20)
        assert (result.outcome, result.cause, result.reason) == ("rolled_back", "command", "enough")
        assert world.route().split == world.proxy.split == TrafficSplit.all_to(BLUE)
        assert GREEN not in world.runtime.runs
        assert world.runtime.runs[BLUE].alive
        assert world.glance().epoch > before
        begun = {entry.step for entry in world.journal() if entry.kind == "do"}
        undone = {entry.step for entry in world.journal() if entry.kind == "undo" and entry.state == "done"}
        assert undone == begun == {one.name for one in world.newest().plan[: world.newest().plan.index(world.step_named(step)) + 1]}
        assert [name for name in world.checks.ran if name.startswith("undo")] == [
            f"undo-{name}" for name, check in (("warm", "cache-warming"), ("test", "pre-deployment-tests")) if check in begun
        ]


async def test_an_abort_in_the_middle_of_a_shift_that_the_proxy_has_not_confirmed_brings_everybody_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.proxy.reading = ReadingState.MIXED
        await world.manager.promote()
        await until(lambda: world.proxy.split.green == 50, what="the proxy was told 50%")
        abort = asyncio.create_task(world.manager.abort())
        await until(lambda: world.status() is DeploymentStatus.ROLLING_BACK)
        world.proxy.reading = ReadingState.CONFIRMED
        assert (await abort).outcome == "rolled_back"
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_a_second_abort_waits_for_the_same_end(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        first, second = await asyncio.gather(world.manager.abort("one"), world.manager.abort("two"))
        assert first == second
        assert first.outcome == "rolled_back"
        assert len(world.events("rollback.ordered")) == 1
        assert len(world.read(lambda reader: reader.commands(first.deployment))) == 1


async def test_an_abort_holds_although_no_controller_lives(tmp_path: Path) -> None:
    """The route is the baseline's from the command on; the next controller begins with it."""
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.stop_controllers()
        told = len(world.proxy.routes)
        absent = world.manager_of(world.config, start=lambda: None)
        aborting = asyncio.create_task(absent.abort())
        await until(lambda: world.status() is DeploymentStatus.ROLLING_BACK)
        assert world.route().split == TrafficSplit.all_to(BLUE)
        assert len(world.proxy.routes) == told
        world.start_controller()
        assert (await aborting).outcome == "rolled_back"
        assert world.proxy.routes[told].split == TrafficSplit.all_to(BLUE)


async def test_an_abort_fences_the_controller_and_refuses_its_writes_in_flight(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=ladder()) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        driving = world.take_over()
        absent = world.manager_of(world.config, start=lambda: None)
        aborting = asyncio.create_task(absent.abort())
        await until(lambda: world.status() is DeploymentStatus.ROLLING_BACK)
        assert world.glance().epoch == driving.lease.epoch + 1
        with pytest.raises(Fenced):
            await driving.write(lambda writer: writer.set_route(driving.lease.epoch, TrafficSplit(blue=0, green=100)))
        with pytest.raises(Fenced):
            await driving.event("late", submitted.id)
        assert world.route().split == TrafficSplit.all_to(BLUE)
        assert not world.events("late")
        aborting.cancel()
        await asyncio.gather(aborting, return_exceptions=True)


async def test_commands_without_a_deployment_are_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        for ask in (world.manager.pause, world.manager.resume, world.manager.promote):
            with pytest.raises(WrongState, match="no deployment is under way"):
                await ask()
        with pytest.raises(WrongState, match="no deployment is under way"):
            await world.manager.abort()
        assert not world.controllers


@pytest.mark.parametrize("status", [DeploymentStatus.FROZEN, DeploymentStatus.ROLLING_BACK])
async def test_commands_that_move_forward_are_refused_once_a_deployment_does_not_run(tmp_path: Path, status: DeploymentStatus) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        with world.store.write() as writer:
            writer.set_status(submitted.id, status, reason="it was harmful")
        for ask in (world.manager.pause, world.manager.resume, world.manager.promote):
            with pytest.raises(WrongState, match=f"is {status.value}: it was harmful"):
                await ask()
        assert world.read(lambda reader: reader.commands(submitted.id)) == []
        assert not world.newest().paused
