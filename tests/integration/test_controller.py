"""Controllers and their lease: one drives, the others wait or end; a store that is away, and a store that comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from bleen.deployment.controller import OVERTAKEN
from bleen.errors import StoreMismatch
from bleen.model.deployment import DeploymentStatus
from bleen.model.traffic import TrafficSplit
from bleen.store import store as store_module
from bleen.store.reader import Reader
from tests.engine_world import BLUE, GREEN, World, hold_step, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until

SLOW = {"weights": [25, 100], "step": {"dwell": "1h", "min_requests": 0}, "bake": "1ms"}


async def test_a_second_controller_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        first, first_task = world.start_controller("first")
        await until(lambda: world.glance().holder == "first")
        _, second_task = world.start_controller("second")
        await world.submit()
        await world.at_weight(25)
        assert (world.glance().holder, second_task.done()) == ("first", False)
        first._stop.set()
        assert await first_task == 0
        await until(lambda: world.glance().holder == "second", what="the second drives")
        await world.manager.promote()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED


async def test_a_controller_waits_for_a_lease_of_another_host_to_run_out(tmp_path: Path) -> None:
    """The lock file is free, but the lease says that somebody who does not hold it drives: from a copy of the folder, or another host."""
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        lock = world.hold_lock()
        world.store.take_lease("elsewhere", 1.0)
        world.start_controller("here")
        for _ in range(5):
            await asyncio.sleep(0.05)
            assert world.glance().holder == "elsewhere"
        await until(lambda: world.glance().holder == "here", what="the lease ran out")
        lock.close()


async def test_a_free_lock_file_frees_the_lease_at_once(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.store.take_lease("dead", 3600.0)
        world.start_controller("alive")
        await until(lambda: world.glance().holder == "alive", 5.0, "the lock file says that the holder is dead")


async def test_a_controller_that_was_overtaken_ends_and_writes_nothing_more(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        _, zombie = world.start_controller("zombie")
        await world.at_weight(25)
        other = world.take_over("other")
        router = world.wire(world.config).proxy.router
        await router.fence(other.lease.epoch)
        journal, events, routes = world.journal(), world.events(), list(world.proxy.routes)
        assert await asyncio.wait_for(zombie, 20) == OVERTAKEN
        assert (world.journal(), world.events(), world.proxy.routes) == (journal, events, routes)
        assert world.glance().holder == "other"


async def test_a_controller_that_is_told_to_stop_leaves_everything_as_it_is_and_frees_the_lease(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        made, task = world.start_controller()
        await world.at_weight(25)
        made._stop.set()
        assert await asyncio.wait_for(task, 20) == 0
        assert world.glance().holder == ""
        assert world.status() is DeploymentStatus.RUNNING
        assert world.proxy.split == TrafficSplit(blue=75, green=25)
        assert {run.alive for run in world.runtime.runs.values()} == {True}


async def test_a_controller_that_was_fenced_by_a_command_takes_the_lease_again(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        _, task = world.start_controller("the one")
        await world.at_weight(25)
        before = world.glance().epoch
        assert (await world.manager.abort()).outcome == "rolled_back"
        assert (world.glance().holder, world.glance().epoch) == ("the one", before + 2)  # one for the command, one for the lease
        assert not task.done()


async def test_the_next_deployments_adapters_are_used_once_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor goes round while a slow store hands out the configuration of the next deployment."""
    config = Reader.config

    def slowly(reader: Reader, deployment_id: str) -> Any:
        time.sleep(0.3)  # in the store's own thread
        return config(reader, deployment_id)

    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        assert (await world.deploy("2.0.0")).status is DeploymentStatus.PROMOTED
        monkeypatch.setattr(Reader, "config", slowly)
        assert (await world.deploy("3.0.0")).status is DeploymentStatus.PROMOTED


async def test_a_lease_is_renewed_for_as_long_as_the_controller_drives(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.start_controller("driver", lease_s=2.0)
        await until(lambda: world.glance().holder == "driver")
        began, epoch = world.read(lambda reader: reader.now()), world.glance().epoch
        await until(lambda: world.read(lambda reader: reader.now()) - began > 3.0, what="it would have run out")
        assert (world.glance().holder, world.glance().epoch) == ("driver", epoch)


async def test_a_controller_whose_store_is_away_stops_writing_and_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.1)
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        _, task = world.start_controller()
        await world.at_weight(25)
        epoch, routes = world.glance().epoch, len(world.proxy.routes)
        with world.locked_store():
            asked = len(world.health.asked)
            await asyncio.sleep(0.8)
            assert not task.done()
            assert world.proxy.split == TrafficSplit(blue=75, green=25)
            assert len(world.proxy.routes) == routes
            assert len(world.health.asked) < asked + 400
        await until(lambda: world.glance().epoch > epoch, what="it took the lease again")
        await world.manager.promote()
        assert (await world.ended()).status is DeploymentStatus.PROMOTED
        assert world.runtime.starts == 1


@pytest.mark.parametrize("step", ["preflight", "start", "verify-preview", "shift-25", "record"])
async def test_a_store_that_goes_away_in_a_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The step has had its effect, the write of its result fails."""
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.1)
    deployment = {"weights": [25, 100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms"}
    async with world_in(tmp_path, deployment=deployment) as world:
        await world.stands("1.0.0", BLUE)
        held = hold_step(monkeypatch, step, "before")
        await world.submit()
        world.start_controller()
        await asyncio.wait_for(held.reached.wait(), 20)
        with world.locked_store():
            await asyncio.wait_for(held.left.wait(), 20)
        ended = await world.ended()
        assert ended.status is DeploymentStatus.PROMOTED
        assert world.runtime.starts == 1
        assert world.weights(GREEN) == [0, 25, 100]


async def test_a_lease_that_cannot_be_renewed_ends_the_term_before_it_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs rather than fails: at two thirds of the lease the controller stops by itself."""
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        held_up = asyncio.Event()
        original = type(world.store).run

        async def hangs(store: Any, call: Any) -> Any:
            if held_up.is_set() and "renew" in getattr(call, "__qualname__", "") + repr(call.__code__.co_names):
                await asyncio.sleep(0.7)
            return await original(store, call)

        monkeypatch.setattr(type(world.store), "run", hangs)
        world.start_controller("slow", lease_s=0.9)
        await until(lambda: world.glance().holder == "slow")
        epoch = world.glance().epoch
        held_up.set()
        await until(lambda: world.glance().epoch > epoch, what="it noticed, and took the lease anew")
        held_up.clear()


async def test_a_proxy_of_another_store_is_not_driven_and_the_deployment_is_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.proxy.owner = ("another store", "payments")
        world.proxy.running = True
        await world.submit("1.0.0")
        world.start_controller()
        ended = await world.ended()
        assert ended.status is DeploymentStatus.REFUSED
        assert "belongs to" in ended.reason
        assert world.runtime.starts == 0
        assert world.proxy.routes == []
        with pytest.raises(StoreMismatch):
            await world.wire(world.config).proxy.router.fence(99)
