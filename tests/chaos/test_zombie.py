"""Controllers that were stopped and woke up too late, and deployments whose controller and guardian were both killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bleen import open_manager
from bleen.config.load import load
from bleen.deployment import spawn
from bleen.deployment.controller import OVERTAKEN
from bleen.deployment.plan import DeployRequest
from bleen.model.deployment import Deployment
from bleen.model.release import Release
from bleen.wiring import controller_argv
from tests.chaos.killers import ROOT, pid_in
from tests.rig import Rig, load_on, need_nginx, rig_in, until

LIMIT_S = 60.0  # a controller needs some seconds to start where others use the processor too


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    need_nginx()
    step = {"dwell": "1s", "min_requests": 0}
    with rig_in(tmp_path, deployment={"weights": [10, 100], "step": step, "bake": "500ms"}, controller={"lease": "2s"}) as rig:
        yield rig


async def submit(rig: Rig, version: str) -> Deployment:
    async with open_manager(rig.config) as manager:
        submitted = await manager.submit(DeployRequest(Release(version)))
    assert isinstance(submitted, Deployment)
    return submitted


async def deploy(rig: Rig, version: str) -> str:
    async with open_manager(rig.config) as manager:
        return (await manager.deploy(version)).outcome


async def pause_at(rig: Rig, green: int) -> None:
    """The deployment under way is paused, and holds that weight."""
    await until(lambda: rig.status().route["green"] == green, LIMIT_S, f"green at {green} %")
    async with open_manager(rig.config) as manager:
        await manager.pause()


async def resume(rig: Rig) -> str:
    """The deployment went on to its end; its outcome."""
    async with open_manager(rig.config) as manager:
        running = await manager.resume()
        return (await manager.wait(running.id)).outcome


def world(rig: Rig) -> dict[str, Any]:
    """Everything that a late writer could change: the flags, and every row that is not a clock of the controller in charge."""
    current = (rig.state / "proxy" / "flags" / "current").lstat()
    found: dict[str, Any] = {"flags": (rig.flags(), current.st_ino, current.st_ctime_ns)}
    connection = sqlite3.connect(f"file:{rig.state / 'store.db'}?mode=ro", uri=True)
    try:
        for table in ("route", "applied", "journal", "event", "environment", "command"):
            found[table] = connection.execute(f"SELECT * FROM {table}").fetchall()
        found["epoch"] = connection.execute("SELECT epoch, holder FROM lease").fetchall()
        found["deployment"] = connection.execute("SELECT id, status, paused, outcome, ended_at FROM deployment").fetchall()
    finally:
        connection.close()
    return found


async def overtaken(rig: Rig, epoch: int) -> None:
    """Another controller drives, and has confirmed the route."""

    def drives() -> bool:
        status = rig.status()
        return bool(status.controller["epoch"] > epoch and status.controller["alive"] and status.route_applied and status.live)

    await until(drives, LIMIT_S, "another controller drives")


async def test_a_controller_that_wakes_between_its_write_and_the_proxy_moves_no_traffic(rig: Rig) -> None:
    assert await deploy(rig, "1.0.0") == "promoted"
    spawn.stop_controller(rig.state)
    argv = [sys.executable, "-m", "tests.chaos.killed_controller", str(rig.config), "1", "after", "set_route", "STOP"]
    zombie = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it only forks
    try:
        await until(lambda: pid_in(rig, "controller") == zombie.pid, LIMIT_S, "the controller drives")
        async with open_manager(rig.config) as manager:
            await manager.submit(DeployRequest(Release("1.1.0")))
            await until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED, LIMIT_S, "asleep after its route was stored")
            assert (rig.status().route, rig.flags()) == ({"blue": 90, "green": 10}, "w000")
            await manager.pause()
        asleep_at = rig.status().controller["epoch"]
        spawn.ensure_guardian(rig.state, controller_argv(load(rig.config, os.environ)))
        await overtaken(rig, asleep_at)
        assert rig.flags() == "w010"
        before = world(rig)
        os.kill(zombie.pid, signal.SIGCONT)
        _, said = await asyncio.to_thread(zombie.communicate, timeout=LIMIT_S)
    finally:
        zombie.kill()
        zombie.wait()
    assert zombie.returncode == OVERTAKEN
    assert "lease.lost" in said or "the lease was not renewed" in said  # whichever of the two it noticed first
    assert world(rig) == before
    assert await resume(rig) == "promoted"
    assert rig.flags() == "w100"


async def test_a_stopped_controller_is_overtaken_and_ends_when_it_is_woken(rig: Rig) -> None:
    assert await deploy(rig, "1.0.0") == "promoted"
    with load_on(rig, 100) as load_client:
        await submit(rig, "1.1.0")
        await pause_at(rig, 10)
        await until(lambda: rig.status().route_applied, LIMIT_S, "10 % confirmed")
        zombie = psutil.Process(rig.controller_pid())
        zombie.suspend()
        await overtaken(rig, rig.status().controller["epoch"])
        before = world(rig)
        zombie.resume()
        await until(lambda: not zombie.is_running() or zombie.status() == psutil.STATUS_ZOMBIE, LIMIT_S, "the woken controller has ended")
        assert world(rig) == before
        assert await resume(rig) == "promoted"
        await until(lambda: rig.flags() == "w100" and len(rig.releases("green")) == 1, LIMIT_S)
        report = load_client.stop()
    assert (report["failed"], report["broken_connections"]) == (0, 0)
    holders = [process for process in rig.processes() if "bleen.wiring" in process.cmdline()]
    assert [process.pid for process in holders if "guardian.py" not in " ".join(process.cmdline())] == [
        int(rig.status().controller["holder"].split(":")[1])
    ]


async def test_a_deployment_goes_on_when_its_controller_and_its_guardian_are_killed(rig: Rig) -> None:
    assert await deploy(rig, "1.0.0") == "promoted"
    waiting = asyncio.create_task(deploy(rig, "1.1.0"))
    await until(lambda: rig.status().route["green"] == 10, LIMIT_S, "green at 10 %")
    await kill_both(rig)
    assert await waiting == "promoted"

    submitted = await submit(rig, "1.2.3")
    await until(lambda: rig.status().route["blue"] == 10, LIMIT_S, "blue at 10 %")
    await kill_both(rig)
    assert rig.status().deployment is not None
    async with open_manager(rig.config) as manager:
        await manager.promote()  # whatever command comes next
    await until(lambda: ended(rig, submitted.id), LIMIT_S, "the deployment nobody waited for has ended")
    assert ended(rig, submitted.id) == "promoted"


async def kill_both(rig: Rig) -> None:
    """Neither guardian nor controller is there any more."""
    for pid in (pid_in(rig, "guardian"), pid_in(rig, "controller")):
        assert pid
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not pid_in(rig, "guardian") and not pid_in(rig, "controller"), LIMIT_S, "both are dead")


def ended(rig: Rig, deployment: str) -> str:
    found = rig.status().deployment
    assert found is not None
    assert found.id == deployment
    return "" if found.active else found.status
