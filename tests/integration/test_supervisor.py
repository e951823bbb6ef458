"""Between and beside deployments: what should run runs, the route holds, what is not needed any more is retired."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bleen.deployment import supervisor as supervisor_module
from bleen.deployment.supervisor import _Restarts
from bleen.errors import WrongState
from bleen.model.deployment import DeploymentStatus
from bleen.model.environment import Environment
from bleen.model.traffic import ReadingState, RouteReading, TrafficSplit
from bleen.runtime.fake import FakeRuntime
from bleen.runtime.runtime import StopOutcome
from bleen.store.live import read_live
from bleen.traffic.fake import FakeRouter
from tests.engine_world import BLUE, GREEN, World, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until

FAST = {"weights": [100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms", "rollback_window": "1h"}


async def rounds(world: World, count: int = 3) -> None:
    """The supervisor went round that often, everything else as it was."""
    seen = len(world.runtime.calls)
    await until(lambda: len(world.runtime.calls) >= seen + count, what=f"{count} rounds of the supervisor")


async def with_two_releases(world: World) -> None:
    """1.0.0 stands in blue as the way back, 2.0.0 is active in green."""
    await world.stands("1.0.0", BLUE)
    assert (await world.deploy("2.0.0")).status is DeploymentStatus.PROMOTED


async def test_an_active_release_that_ends_by_itself_is_started_again_with_its_token(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        token = await world.stands("1.0.0", BLUE)
        world.ensure_controller()
        world.runtime.crash(BLUE)
        await until(lambda: world.runtime.runs[BLUE].alive, what="it runs again")
        assert (world.runtime.runs[BLUE].token, world.runtime.runs[BLUE].release.version) == (token, "1.0.0")
        (event,) = world.events("release.restarted")
        assert (event.body["environment"], event.body["version"], event.body["times"]) == ("blue", "1.0.0", 1)


async def test_the_release_on_the_way_back_is_kept_up_too(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await with_two_releases(world)
        world.runtime.crash(BLUE)
        await until(lambda: world.runtime.runs[BLUE].alive, what="the way back stands again")
        assert world.runtime.runs[BLUE].release.version == "1.0.0"


async def test_the_baseline_is_kept_up_while_a_deployment_is_under_way(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST | {"weights": [25, 100], "step": {"dwell": "1h", "min_requests": 0}}) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        world.runtime.crash(BLUE)
        await until(lambda: world.runtime.runs[BLUE].alive, what="the baseline runs again")


async def test_a_release_that_ends_again_and_again_is_started_less_and_less_often(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.runtime.crashes_at_start.add(BLUE)
        world.runtime.crash(BLUE)
        world.ensure_controller()
        await until(lambda: len(world.events("release.restarted")) == 3, what="three starts")
        at = [event.at for event in world.events("release.restarted")]
        assert at[1] - at[0] >= 0.24
        assert at[2] - at[1] >= 0.49


def test_the_pause_between_restarts_doubles_up_to_its_limit_and_begins_anew_after_steady_life() -> None:
    restarts, now, waits = _Restarts(), 1000.0, []
    for _ in range(9):
        restarts.next(now)
        waits.append(restarts.not_before - now)
        now = restarts.not_before
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    restarts.next(now + supervisor_module.STEADY_S + 1)
    assert restarts.count == 1


async def test_a_release_that_an_init_system_restarts_is_left_to_it(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.runtime.restarts = False
        world.runtime.crash(BLUE)
        world.ensure_controller()
        await until(lambda: world.glance().holder)
        await _route_rounds(world, 3)
        assert ("start", BLUE) not in world.runtime.calls


async def test_a_release_whose_state_cannot_be_told_is_left_alone(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.runtime.cannot_tell.add(BLUE)
        world.ensure_controller()
        await rounds(world)
        assert {verb for verb, _ in world.runtime.calls} == {"status"}


async def test_a_route_that_drifted_is_put_right(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.ensure_controller()
        await until(lambda: world.events("traffic.shifted"), what="the controller holds the route")
        world.proxy.split = TrafficSplit(blue=40, green=60)
        await until(lambda: world.proxy.split == TrafficSplit.all_to(BLUE), what="the route holds again")
        assert world.route().revision == 1


async def test_a_route_that_was_written_by_one_who_died_before_the_proxy_had_it_is_held_also_while_paused(tmp_path: Path) -> None:
    slow = {"weights": [25, 100], "step": {"dwell": "1h", "min_requests": 0}, "bake": "1h"}
    async with world_in(tmp_path, deployment=slow) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(25)
        await world.manager.pause()
        split = TrafficSplit(blue=70, green=30)
        with world.store.write() as writer:
            writer.set_route(writer.glance().epoch, split)
        await until(lambda: world.proxy.split == split, what="the proxy holds it")
        await until(lambda: world.read(lambda reader: reader.is_applied(reader.route())), what="the store says so")


async def test_a_proxy_that_forgot_its_weights_is_told_again(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.ensure_controller()
        await until(lambda: world.events("traffic.shifted"))
        world.proxy.readable = False
        await until(lambda: world.proxy.readable, what="the proxy can read its weights again")


async def test_an_embedded_proxy_that_ended_is_started_again(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.ensure_controller()
        await until(lambda: world.events("traffic.shifted"))
        world.proxy.running = False
        await until(lambda: world.proxy.running, what="the proxy runs again")
        await until(lambda: world.events("proxy.started"))


async def test_one_duty_that_fails_does_not_keep_the_others_from_being_done(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.proxy.writable = False
        world.proxy.split = TrafficSplit.all_to(GREEN)
        world.runtime.crash(BLUE)
        world.ensure_controller()
        await until(lambda: world.runtime.runs[BLUE].alive, what="the release runs again although the proxy cannot be written")
        world.proxy.writable = True
        await until(lambda: world.proxy.split == TrafficSplit.all_to(BLUE), what="the route holds as soon as it can")


async def test_an_old_environment_is_retired_when_its_window_is_over(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST | {"rollback_window": "500ms"}) as world:
        await with_two_releases(world)
        retire_at = world.residents()[BLUE].retire_at
        assert world.runtime.runs[BLUE].alive
        await until(lambda: world.events("environment.retired"), what="blue is retired")
        (event,) = world.events("environment.retired")
        assert event.body == {"environment": "blue", "version": "1.0.0", "outcome": "drained"}
        assert event.at >= retire_at
        assert BLUE not in world.runtime.runs
        assert (world.residents()[BLUE].wanted, world.residents()[BLUE].retire_at) == (False, 0.0)
        await rounds(world)
        assert BLUE not in world.runtime.runs  # and it is not taken for one that crashed


async def test_an_old_environment_stands_while_its_window_is_open(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await with_two_releases(world)
        await rounds(world, 6)
        assert world.runtime.runs[BLUE].alive
        assert not world.events("environment.retired")


@pytest.mark.parametrize("reading", [ReadingState.MIXED, ReadingState.UNKNOWN, ReadingState.UNREADABLE])
async def test_an_environment_is_not_retired_until_the_proxy_confirms_that_nobody_is_sent_there(
    tmp_path: Path, reading: ReadingState
) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await with_two_releases(world)
        world.proxy.reading = reading
        with world.store.write() as writer:
            writer.retire_at(BLUE, 1.0)
        await until(lambda: world.events("environment.kept"), what="it says that it keeps it")
        assert world.runtime.runs[BLUE].alive
        world.proxy.reading = ReadingState.CONFIRMED
        await until(lambda: world.events("environment.retired"), what="blue is retired")
        assert BLUE not in world.runtime.runs


async def test_an_environment_with_traffic_is_never_retired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await with_two_releases(world)
        await world.stop_controllers()

        async def told(*_: Any) -> RouteReading:
            split = TrafficSplit(blue=1, green=99)
            return RouteReading(ReadingState.CONFIRMED, f"1 of 1 workers says {split}", split, 1, 1)

        monkeypatch.setattr(FakeRouter, "read", told)
        with world.store.write() as writer:
            writer.retire_at(BLUE, 1.0)
        world.start_controller()
        await until(lambda: world.events("environment.kept"), what="it says that it keeps it")
        assert world.runtime.runs[BLUE].alive


async def test_a_rollback_that_comes_while_an_environment_is_being_retired_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment of the window: never are users sent to an environment that is being stopped and still answers."""
    stop, stopping, go_on = FakeRuntime.stop, asyncio.Event(), asyncio.Event()
    async with world_in(tmp_path, deployment=FAST | {"rollback_window": "400ms"}) as world:

        async def drains(runtime: FakeRuntime, environment: Environment, *token: str) -> StopOutcome:
            world.health.answers[environment] = "1.0.0"
            outcome = await stop(runtime, environment, *token)
            stopping.set()
            await go_on.wait()
            world.health.answers.clear()
            return outcome

        await with_two_releases(world)
        monkeypatch.setattr(FakeRuntime, "stop", drains)
        await asyncio.wait_for(stopping.wait(), 20)
        with pytest.raises(WrongState, match="nothing changed"):
            await asyncio.wait_for(world.manager.rollback(), 20)
        go_on.set()
        await until(lambda: world.events("environment.retired"), what="blue is retired")
        assert world.proxy.split == world.route().split == TrafficSplit.all_to(GREEN)


async def test_an_adopted_release_is_never_started_nor_stopped(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST | {"rollback_window": "1ms"}) as world:
        await world.stands("0.9.0", BLUE, adopted=True)
        assert (await world.deploy("1.0.0")).status is DeploymentStatus.PROMOTED
        await until(lambda: world.events("environment.retired"), what="its window is over")
        assert world.events("environment.retired")[0].body["outcome"] == "left alone: it was adopted, not started by bleen"
        world.health.answers.clear()  # it ends: that is not ours to mend either
        await rounds(world)
        assert not [call for call in world.runtime.calls if call in (("start", BLUE), ("stop", BLUE))]


async def test_a_release_that_should_not_run_is_stopped(tmp_path: Path) -> None:
    """A controller that died between the decision and the stop left it running."""
    async with world_in(tmp_path) as world:
        await with_two_releases(world)
        await world.stop_controllers()
        with world.store.write() as writer:
            writer.clear_resident(BLUE)
        world.start_controller()
        await until(lambda: BLUE not in world.runtime.runs, what="blue is stopped")
        (event,) = world.events("release.stopped")
        assert event.body == {"environment": "blue", "outcome": "drained"}


async def test_a_release_of_somebody_else_in_an_environment_that_should_be_empty_is_left_alone(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await with_two_releases(world)
        await world.stop_controllers()
        with world.store.write() as writer:
            writer.clear_resident(BLUE)
        await world.runtime.stop(BLUE)
        await world.runtime.start(world.newest().release, BLUE, "somebody else's")
        world.start_controller()
        await rounds(world, 6)
        assert world.runtime.runs[BLUE].alive


async def test_a_way_back_that_falls_ill_is_an_event_and_so_is_its_recovery(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await with_two_releases(world)
        world.health.down.add(BLUE)
        await until(lambda: world.events("way_back.unhealthy"), what="people are told")
        assert world.events("way_back.unhealthy")[0].body == {"environment": "blue", "evidence": "no answer in 500 ms"}
        await until(lambda: not read_live(world.state).get("way_back", {}).get("ok", True), what="the status shows it")
        assert not (await world.manager.status()).way_back.possible
        await _asked_again(world, BLUE, 4)
        assert len(world.events("way_back.unhealthy")) == 1  # once, not with every probe
        world.health.down.clear()
        await until(lambda: world.events("way_back.healthy"), what="people are told that it is well again")
        await until(lambda: read_live(world.state).get("way_back", {}).get("ok", False))
        assert (await world.manager.status()).way_back.possible


async def _asked_again(world: World, environment: Environment, times: int) -> None:
    count: Callable[[], int] = lambda: sum(asked is environment for asked, _ in world.health.asked)  # noqa: E731 - one name for one question
    before = count()
    await until(lambda: count() >= before + times)


async def _route_rounds(world: World, count: int) -> None:
    """The supervisor put a drifted route right that often: it went round at least as often."""
    for _ in range(count):
        world.proxy.split = TrafficSplit.all_to(GREEN)
        await until(lambda: world.proxy.split == TrafficSplit.all_to(BLUE))
