"""Preflight: the world must be as it is recorded, or the deployment is refused and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bleen.deployment.steps import preflight as preflight_module
from bleen.errors import RuntimeFailed
from bleen.model.deployment import DeploymentStatus
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.model.traffic import ReadingState, RouteReading, TrafficSplit
from bleen.traffic.fake import FakeRouter
from bleen.traffic.router import Finding, Severity
from tests.engine_world import BLUE, GREEN, World, quick, world_in  # noqa: F401 - `quick` is a fixture


def _unwritable(world: World) -> None:
    world.proxy.writable = False


def _runtime_fails(world: World) -> None:
    world.runtime.calls = _Failing()


class _Failing(list[tuple[str, Environment]]):
    """The runtime cannot be asked."""

    def append(self, call: tuple[str, Environment]) -> None:
        if call == ("prove_listener", GREEN):
            raise RuntimeFailed("the socket table cannot be read")
        super().append(call)


def _unreachable(world: World) -> None:
    world.proxy.reading = ReadingState.UNREACHABLE


def _baseline_ill(world: World) -> None:
    world.health.down.add(BLUE)


def _foreign(world: World) -> None:
    world.runtime.foreign_listener.add(GREEN)


def _leftover(world: World) -> None:
    world.health.answers[GREEN] = "0.1.0"


def _broken_configuration(world: World) -> None:
    world.proxy.findings.append(Finding(Severity.ERROR, "nginx configuration", "unknown directive at line 7"))


def _refused_installation(world: World) -> None:
    world.proxy.refusal = "nginx: [emerg] bind() to 127.0.0.1:8080 failed"


REFUSALS: list[tuple[Callable[[World], None], str]] = [
    (_unwritable, "the proxy cannot be written"),
    (_runtime_fails, "the socket table cannot be read"),
    (_unreachable, "cannot tell what the proxy holds"),
    (_baseline_ill, "the proxy sends everybody to blue, which is not healthy: no answer in 500 ms"),
    (_foreign, "green is not free: its port is held by somebody else"),
    (_leftover, "green is not free: nothing of ours runs there, but it answers its health check"),
    (_broken_configuration, "nginx configuration: unknown directive at line 7"),
    (_refused_installation, "nginx: [emerg] bind() to 127.0.0.1:8080 failed"),
]


@pytest.mark.parametrize(("spoil", "said"), REFUSALS, ids=[spoil.__name__[1:] for spoil, _ in REFUSALS])
async def test_a_world_that_is_not_ready_is_refused_and_nothing_has_changed(
    tmp_path: Path, spoil: Callable[[World], None], said: str
) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        before = (world.route(), world.residents(), world.runtime.starts)
        spoil(world)
        ended = await world.deploy("2.0.0")
        assert (ended.status, ended.cause, ended.status.exit_code) == (DeploymentStatus.REFUSED, "preflight", 4)
        assert said in ended.reason
        assert (world.route(), world.residents(), world.runtime.starts) == before
        assert [entry.step for entry in world.journal()] == ["preflight"]
        assert ("stop", GREEN) not in world.runtime.calls
        assert world.events("deployment.ended")[-1].body["status"] == "refused"


async def test_a_proxy_that_says_something_else_than_the_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(*_: Any) -> RouteReading:
        return RouteReading(ReadingState.CONFIRMED, "1 of 1 workers", TrafficSplit(blue=60, green=40), 1, 1)

    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        before = world.route()
        monkeypatch.setattr(FakeRouter, "read", told)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.REFUSED
        assert "the proxy holds blue 60% green 40%, the record says blue 100% green 0%" in ended.reason
        assert (world.route(), world.runtime.starts) == (before, 0)


async def test_too_little_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "MIN_DISK_BYTES", 1 << 60)
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.REFUSED
        assert "MB are free on the disk" in ended.reason


async def test_too_little_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_module, "MIN_MEMORY_BYTES", 1 << 60)
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.REFUSED
        assert "MB of memory are available" in ended.reason


async def test_a_warning_of_the_proxy_refuses_nothing(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.proxy.findings.append(Finding(Severity.WARNING, "nginx", "one worker only"))
        assert (await world.deploy("2.0.0")).status is DeploymentStatus.PROMOTED


async def test_an_adopted_release_that_still_holds_the_port_is_named(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("0.9.0", BLUE, adopted=True)
        assert (await world.deploy("1.0.0")).status is DeploymentStatus.PROMOTED
        world.runtime.foreign_listener.add(BLUE)
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.REFUSED
        assert "its port is held by the adopted release that was active before" in ended.reason


async def test_a_release_that_bleen_does_not_know_in_the_standby_is_not_touched(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        await world.runtime.start(Release("0.5.0"), GREEN, "of another state folder")
        ended = await world.deploy("2.0.0")
        assert ended.status is DeploymentStatus.REFUSED
        assert "green is not free: version 0.5.0 running" in ended.reason
        assert world.runtime.runs[GREEN].alive


async def test_after_a_refusal_the_next_deployment_may_begin(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.stands("1.0.0", BLUE)
        world.runtime.foreign_listener.add(GREEN)
        assert (await world.deploy("2.0.0")).status is DeploymentStatus.REFUSED
        world.runtime.foreign_listener.clear()
        assert (await world.deploy("2.0.0")).status is DeploymentStatus.PROMOTED


async def test_a_proxy_that_nobody_runs_yet_is_started_for_the_first_deployment(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        assert not world.proxy.running
        assert (await world.deploy("1.0.0")).status is DeploymentStatus.PROMOTED
        assert world.proxy.running
