"""The manager: what it refuses, what it answers, what it asks of the controller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bleen.deployment.plan import DeployRequest
from bleen.errors import DeploymentActive, Refused, UsageError, WrongState
from bleen.manager import DeploymentResult
from bleen.model.deployment import CommandKind, DeploymentStatus
from bleen.model.release import Release
from bleen.model.traffic import CLOSED, ReadingState, TrafficSplit
from tests.engine_world import BLUE, GREEN, World, quick, world_in  # noqa: F401 - `quick` is a fixture
from tests.rig import until

FAST = {"weights": [50, 100], "step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms", "rollback_window": "1h"}
SLOW = FAST | {"step": {"dwell": "1h", "min_requests": 0}}


async def test_deploy_answers_how_it_ended(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        result = await asyncio.wait_for(world.manager.deploy("2.0.0", "abc123", "main"), 20)
        assert (result.outcome, result.exit_code, result.version) == ("promoted", 0, "2.0.0")
        assert result.duration_s > 0
        assert world.residents()[GREEN].release.commit_hash == "abc123"


async def test_a_deployment_that_fails_answers_with_its_cause_and_figures(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        async with world.users(failing=GREEN):
            result = await asyncio.wait_for(world.manager.deploy("2.0.0"), 30)
        assert (result.outcome, result.exit_code, result.cause) == ("rolled_back", 1, "error rates")
        assert result.figures["failed_requests"] > 0
        assert result.figures["restore_took_ms"] >= 0


async def test_the_active_version_with_the_same_digest_is_done_already(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        assert (await world.manager.deploy("1.0.0", "abc123")).outcome == "promoted"
        again = await world.manager.deploy("1.0.0", "abc123")
        assert (again.outcome, again.exit_code, again.deployment) == ("already_active", 0, "")
        assert len(world.read(lambda reader: reader.history(5))) == 1


async def test_the_active_version_with_another_digest_is_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        assert (await world.manager.deploy("1.0.0", "abc123")).outcome == "promoted"
        with pytest.raises(Refused, match=r"1\.0\.0 is active in blue with another configuration or commit; nothing changed"):
            await world.manager.deploy("1.0.0", "def456")
        assert len(world.read(lambda reader: reader.history(5))) == 1


async def test_the_active_version_is_deployed_again_when_that_is_asked_for(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        assert (await world.manager.deploy("1.0.0")).outcome == "promoted"
        assert (await world.manager.deploy("1.0.0", redeploy=True)).outcome == "promoted"
        assert world.proxy.split == TrafficSplit.all_to(GREEN)


async def test_deployments_that_are_switched_off_are_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST | {"enabled": False}) as world:
        await world.stands("1.0.0", BLUE)
        with pytest.raises(Refused, match="deployments are switched off"):
            await world.manager.deploy("2.0.0")
        assert world.newest().release.version == "1.0.0"
        assert not world.controllers


async def test_a_second_deployment_is_refused_and_told_who_holds_the_first(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        first = await world.submit("2.0.0")
        world.ensure_controller()
        await world.at_weight(50)
        with pytest.raises(DeploymentActive, match=f"deployment {first.id} of 2.0.0 is running, submitted by alice@host"):
            await world.manager.deploy("3.0.0")
        assert world.newest().id == first.id


async def test_a_version_that_could_not_be_a_name_is_a_usage_error(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        with pytest.raises(UsageError, match="version"):
            await world.manager.deploy("1.0.0; rm -rf /")
        assert not (world.state / "controller.lock").exists()


async def test_a_deployment_goes_on_although_nobody_waits_for_it(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        waiting = asyncio.create_task(world.manager.deploy("2.0.0"))
        await until(lambda: world.newest().release.version == "2.0.0")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await world.ended()).status is DeploymentStatus.PROMOTED


async def test_a_running_service_is_adopted_untouched(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        world.health.answers[GREEN] = "0.9.0"
        adopted = await asyncio.wait_for(world.manager.adopt(GREEN, "0.9.0"), 20)
        assert (adopted.status, adopted.release.version) == (DeploymentStatus.PROMOTED, "0.9.0")
        assert world.proxy.split == world.route().split == TrafficSplit.all_to(GREEN)
        assert (world.residents()[GREEN].adopted, world.runtime.starts) == (True, 0)
        assert (await world.manager.deploy("1.0.0")).outcome == "promoted"
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_a_service_that_does_not_answer_is_not_adopted(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        with pytest.raises(Refused, match="blue is not healthy: no answer in 500 ms; nothing changed"):
            await world.manager.adopt(BLUE, "0.9.0")
        assert world.route().revision == 0
        assert not world.proxy.running


async def test_a_service_of_another_version_is_not_adopted(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.health.answers[BLUE] = "0.8.0"
        with pytest.raises(Refused, match=r"blue says it is 0\.8\.0, not 0\.9\.0"):
            await world.manager.adopt(BLUE, "0.9.0")
        assert world.route().revision == 0


async def test_nothing_is_adopted_where_a_release_is_active(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.health.answers[GREEN] = "0.9.0"
        with pytest.raises(WrongState, match="a release is active already"):
            await world.manager.adopt(GREEN, "0.9.0")
        assert world.route().split == TrafficSplit.all_to(BLUE)


async def test_a_rollback_within_the_window_moves_everybody_and_stops_the_candidate(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        assert (await world.manager.deploy("2.0.0")).outcome == "promoted"
        result = await asyncio.wait_for(world.manager.rollback("people complain"), 20)
        assert (result.outcome, result.exit_code, result.cause, result.reason) == ("rolled_back", 1, "command", "people complain")
        assert world.proxy.split == world.route().split == TrafficSplit.all_to(BLUE)
        assert GREEN not in world.runtime.runs
        assert world.runtime.runs[BLUE].alive
        assert world.residents()[BLUE].retire_at == 0.0
        (command,) = world.read(lambda reader: reader.commands(result.deployment))
        assert (command.kind, command.by) == (CommandKind.ROLLBACK, "alice@host")


async def test_a_rollback_of_a_deployment_that_is_under_way_is_an_abort(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(50)
        assert (await world.manager.rollback()).outcome == "rolled_back"
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_a_rollback_to_a_release_that_is_dead_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        assert (await world.manager.deploy("2.0.0")).outcome == "promoted"
        before = (world.route(), world.glance().epoch)
        world.health.down.add(BLUE)
        with pytest.raises(Refused, match="nothing changed"):
            await world.manager.rollback()
        assert (world.route(), world.glance().epoch) == before
        assert world.status() is DeploymentStatus.PROMOTED


async def test_a_rollback_to_a_release_that_was_retired_is_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST | {"rollback_window": "1ms"}) as world:
        await world.stands("1.0.0", BLUE)
        assert (await world.manager.deploy("2.0.0")).outcome == "promoted"
        await until(lambda: world.events("environment.retired"))
        with pytest.raises(WrongState, match="no rollback is possible: no older release stands in blue"):
            await world.manager.rollback()
        assert world.proxy.split == TrafficSplit.all_to(GREEN)


async def test_a_rollback_of_what_was_rolled_back_is_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        await world.manager.deploy("2.0.0")
        await world.manager.rollback()
        with pytest.raises(WrongState, match="nothing changed"):
            await world.manager.rollback()
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_a_rollback_before_anything_was_deployed_is_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        with pytest.raises(WrongState, match="nothing was deployed yet"):
            await world.manager.rollback()
        assert world.route().split == CLOSED


async def test_a_first_release_has_no_way_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        assert (await world.manager.deploy("1.0.0")).outcome == "promoted"
        with pytest.raises(WrongState, match="no older release stands in green"):
            await world.manager.rollback()
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_a_refused_deployment_does_not_take_the_way_back_away(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        assert (await world.manager.deploy("2.0.0")).outcome == "promoted"
        world.runtime.foreign_listener.add(BLUE)
        assert (await world.manager.deploy("3.0.0")).outcome == "refused"
        world.runtime.foreign_listener.clear()
        assert (await world.manager.status()).way_back.possible
        assert (await asyncio.wait_for(world.manager.rollback(), 20)).outcome == "rolled_back"
        assert world.proxy.split == TrafficSplit.all_to(BLUE)


async def test_an_abort_that_moves_nobody_does_not_ask_whether_the_way_back_is_well(tmp_path: Path) -> None:
    async with world_in(tmp_path, health={"timeout": "1h", "interval": "10ms"}, deployment=FAST | {"timeout": "2h"}) as world:
        await world.stands("1.0.0", BLUE)
        world.health.down.add(GREEN)
        await world.submit()
        world.ensure_controller()
        await world.reaches("wait-healthy")
        world.health.down.add(BLUE)
        assert (await asyncio.wait_for(world.manager.abort(), 20)).outcome == "rolled_back"


async def test_an_abort_towards_a_dead_baseline_is_refused_and_the_users_stay(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        world.ensure_controller()
        await world.at_weight(50)
        world.health.down.add(BLUE)
        with pytest.raises(Refused, match="blue, the way back, is not healthy"):
            await world.manager.abort()
        assert world.proxy.split == TrafficSplit(blue=50, green=50)
        assert world.status() is DeploymentStatus.RUNNING


async def test_the_plan_is_shown_without_anything_being_submitted(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        preview = await world.manager.plan(DeployRequest(Release("2.0.0")))
        assert (preview.candidate, preview.baseline) == (GREEN, BLUE)
        assert [step.name for step in preview.steps][-5:] == ["shift-50", "shift-100", "bake", "final-verification", "record"]
        assert world.newest().release.version == "1.0.0"


async def test_initialize_tells_the_active_environment_by_the_proxy_and_the_health_checks(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        found = await world.manager.initialize()
        assert (found.active, found.agrees) == (BLUE, True)
        world.proxy.split = TrafficSplit.all_to(GREEN)
        found = await world.manager.initialize()
        assert (found.active, found.agrees) == (GREEN, False)
        world.proxy.reading = ReadingState.UNKNOWN
        found = await world.manager.initialize()
        assert (found.active, found.agrees) == (None, False)


async def test_a_wait_starts_a_controller_that_went_away(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("1.0.0", BLUE)
        submitted = await world.submit()
        assert not world.controllers
        result = await asyncio.wait_for(world.manager.wait(submitted.id), 20)
        assert result.outcome == "promoted"


async def test_a_frozen_deployment_ends_the_wait_and_needs_a_person(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW | {"auto_rollback": False}) as world:
        await world.stands("1.0.0", BLUE)
        waiting = asyncio.create_task(world.manager.deploy("2.0.0"))
        await world.at_weight(50)
        world.health.down.add(GREEN)
        result = await asyncio.wait_for(waiting, 20)
        assert (result.outcome, result.exit_code) == ("frozen", 3)


async def test_shutting_down_is_refused_while_a_deployment_is_under_way(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=SLOW) as world:
        await world.stands("1.0.0", BLUE)
        await world.submit()
        with pytest.raises(WrongState, match="nothing was stopped"):
            await world.manager.shut_down()
        assert world.proxy.running
        assert world.runtime.runs[BLUE].alive


async def test_shutting_down_stops_what_bleen_started_and_leaves_what_it_adopted(tmp_path: Path) -> None:
    async with world_in(tmp_path, deployment=FAST) as world:
        await world.stands("0.9.0", BLUE, adopted=True)
        assert (await world.manager.deploy("1.0.0")).outcome == "promoted"
        await world.stop_controllers()
        world.runtime.calls.clear()
        await world.manager.shut_down()
        assert world.runtime.calls == [("stop", GREEN)]
        assert not world.proxy.running


def test_the_exit_status_of_each_outcome_is_that_of_the_contract() -> None:
    def code(outcome: str) -> int:
        return DeploymentResult("d", "1", outcome, "").exit_code

    outcomes: dict[str, Any] = {name: code(name) for name in ("promoted", "already_active", "rolled_back", "refused", "frozen", "failed")}
    assert outcomes == {"promoted": 0, "already_active": 0, "rolled_back": 1, "refused": 4, "frozen": 3, "failed": 3}
