"""Deployments as users and operators meet them: real nginx, real releases, a real controller, under load, judged by counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bleen import open_manager
from bleen.manager import DeploymentResult
from tests.rig import PAYMENTS, Counts, Load, Rig, load_on, need_nginx, rig_in, until

LIMIT_S = 60.0
STAY = {"step": {"dwell": "5m", "min_requests": 0}, "timeout": "1h"}  # a deployment that stays at its first weight until something happens
LATER = 100_000  # requests that never come: evidence alone ends the step


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    need_nginx()
    with rig_in(tmp_path) as rig:
        yield rig


async def deploy(rig: Rig, version: str, fault: str = "", **overrides: Any) -> DeploymentResult:
    """The deployment ended; `overrides` are sections of its configuration."""
    configure(rig, fault, **overrides)
    async with open_manager(rig.config) as manager:
        return await manager.deploy(version)


def configure(rig: Rig, fault: str = "", **overrides: Any) -> None:
    variables = {"PAYMENTS_DB": str(rig.folder / "payments.db")} | ({"PAYMENTS_FAULT": fault} if fault else {})
    rig.write(**{"runtime": {"variables": variables}} | overrides)


def shifts(rig: Rig, deployment: str) -> list[tuple[int, int]]:
    """The weights (blue, green) that the proxy confirmed for a deployment, in order."""
    found = []
    for line in rig.bleen("history", "--json").stdout.splitlines():
        record = json.loads(line)
        if record["deployment"]["id"] == deployment:
            found = [(e["body"]["blue"], e["body"]["green"]) for e in record["events"] if e["name"] == "traffic.shifted"]
    return found


def asked(rig: Rig) -> tuple[str, str]:
    """Version and environment of whoever answers a user."""
    with urllib.request.urlopen(f"{rig.url}/api/v1/accounts/acc-001", timeout=5) as answer:
        return answer.headers["X-Version"], answer.headers["X-Environment"]


@contextlib.contextmanager
def stranger(rig: Rig, environment: str, version: str) -> Iterator[psutil.Process]:
    """A payments service that bleen did not start."""
    own = {
        "PORT": str(rig.ports[environment]),
        "PAYMENTS_DB": str(rig.folder / "payments.db"),
        "VERSION": version,
        "ENVIRONMENT": environment,
    }
    process = subprocess.Popen(PAYMENTS, env=os.environ | own, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


async def answers(rig: Rig, environment: str) -> None:
    def connects() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", rig.ports[environment]), timeout=1):
            return True
        return False

    await until(connects, LIMIT_S, f"something answers in {environment}")


async def test_users_notice_nothing_of_a_good_release_and_little_of_a_bad_one(rig: Rig) -> None:
    first = await deploy(rig, "1.0.0")
    assert (first.outcome, first.exit_code, asked(rig)) == ("promoted", 0, ("1.0.0", "blue"))
    with load_on(rig, rate=400, connections=32) as load:
        before = load.counts()
        good = await deploy(rig, "1.1.0", deployment={"step": {"dwell": "300ms", "min_requests": 20}})
        seen = load.counts() - before
        assert (good.outcome, seen.failed, seen.broken) == ("promoted", 0, 0)
        assert seen.requests > 100
        assert asked(rig) == ("1.1.0", "green")

        failing, seen = await under(rig, load, "1.2.5", "fail:0.05")
        assert (failing.outcome, failing.exit_code, failing.cause) == ("rolled_back", 1, "error rates"), failing.reason
        assert 0 < seen.failed <= 40, failing.reason
        assert asked(rig) == ("1.1.0", "green")
        assert (rig.flags(), rig.releases("blue")) == ("w100", [])

        dying, seen = await under(rig, load, "1.3.5", "die:40")
        assert (dying.outcome, dying.cause) == ("rolled_back", "health checks"), dying.reason
        assert "the settlement cache is corrupt" in dying.reason
        assert seen.failed <= 20, dying.reason
        assert (rig.flags(), len(rig.releases("green")), rig.releases("blue")) == ("w100", 1, [])

        before = load.counts()
        load.wait_for(before.requests + 200)
        after = load.counts() - before
        assert (after.failed, after.broken) == (0, 0)
    assert shifts(rig, first.deployment) == [(100, 0)]
    assert shifts(rig, good.deployment) == [(90, 10), (75, 25), (50, 50), (25, 75), (0, 100)]
    assert shifts(rig, failing.deployment) == [(10, 90), (0, 100)]


async def under(rig: Rig, load: Load, version: str, fault: str, **overrides: Any) -> tuple[DeploymentResult, Counts]:
    """A release that stays at 10 % until evidence ends it, and what users saw meanwhile."""
    before = load.counts()
    result = await deploy(rig, version, fault, **{"deployment": {"step": {"dwell": "300ms", "min_requests": LATER}}} | overrides)
    return result, load.counts() - before


async def test_a_release_that_never_becomes_well_is_taken_back_before_users_meet_it(rig: Rig) -> None:
    assert (await deploy(rig, "1.0.0")).outcome == "promoted"
    with load_on(rig, rate=150) as load:
        unready, seen = await under(rig, load, "1.1.1", "unready", health={"timeout": "2s"})
        assert (unready.outcome, unready.cause, seen.failed) == ("rolled_back", "deadline", 0)
        assert "wait-healthy" in unready.reason

        ending, seen = await under(rig, load, "1.1.2", "exit", health={"timeout": "5m"})
        assert (ending.outcome, ending.exit_code, seen.failed) == ("rolled_back", 1, 0)
        assert "the settlement key is missing" in ending.reason
        assert ending.duration_s < 60

        impostor, seen = await under(
            rig, load, "1.1.3", runtime={"variables": {"PAYMENTS_DB": f"{rig.folder}/p.db", "VERSION": "0.9.0"}}, fault=""
        )
        assert (impostor.outcome, seen.failed) == ("rolled_back", 0)
        assert "says it is 0.9.0, not 1.1.3" in impostor.reason
        for result in (unready, ending, impostor):
            assert shifts(rig, result.deployment) == [(100, 0)], result.reason

        hanging, seen = await under(rig, load, "1.1.4", "hang:20")
        assert (hanging.outcome, hanging.cause) == ("rolled_back", "health checks"), hanging.reason
        assert hanging.figures["restored_at"] - hanging.figures["first_failure_at"] < 20
        assert (rig.flags(), rig.releases("green"), asked(rig)) == ("w000", [], ("1.0.0", "blue"))
        before = load.counts()
        load.wait_for(before.requests + 100)
        assert (load.counts() - before).broken == 0


async def test_whatever_runs_in_the_standby_already_is_neither_touched_nor_given_users(rig: Rig) -> None:
    assert (await deploy(rig, "1.0.0")).outcome == "promoted"
    with stranger(rig, "green", "1.1.0") as foreign:
        await answers(rig, "green")
        refused = rig.bleen("deploy", "--version", "1.1.0")
        assert refused.returncode == 4, refused.stderr
        assert f"{foreign.pid}" in refused.stderr
        assert foreign.is_running()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", rig.ports["green"]))
        silent.listen()
        assert (await deploy(rig, "1.1.0")).outcome == "refused"

    # One that comes after the preflight, of another version and of the very same one: neither is what was started.
    for version, said in (("9.9.9", "says it is 9.9.9"), ("1.1.0", "cannot be shown to be 1.1.0")):
        late = await deploy(rig, "1.1.0", checks={"pre_deployment_tests": {"command": squatter(rig, version)}})
        assert (late.outcome, late.exit_code) == ("rolled_back", 1), late.reason
        assert said in late.reason
        squatting = int((rig.folder / "squatter.pid").read_text())
        assert psutil.pid_exists(squatting)
        os.kill(squatting, signal.SIGKILL)
        await until(lambda pid=squatting: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, LIMIT_S)
    assert (rig.flags(), asked(rig)) == ("w000", ("1.0.0", "blue"))
    assert (await deploy(rig, "1.1.0")).outcome == "promoted"


def squatter(rig: Rig, version: str) -> list[str]:
    """A command that leaves a service of its own on the standby's port."""
    script = rig.folder / "squatter.py"
    script.write_text(SQUATTER)
    return [sys.executable, str(script), str(rig.folder), str(rig.ports["green"]), version]


SQUATTER = """
import os, pathlib, socket, subprocess, sys, time
folder, port, version = sys.argv[1:4]
variables = os.environ | {"PORT": port, "PAYMENTS_DB": folder + "/payments.db", "VERSION": version, "ENVIRONMENT": "green"}
process = subprocess.Popen([sys.executable, "-m", "bleen.demo.payments"], env=variables, start_new_session=True, stderr=subprocess.DEVNULL)
pathlib.Path(folder, "squatter.pid").write_text(str(process.pid))
while True:
    try:
        socket.create_connection(("127.0.0.1", int(port)), 1).close()
        break
    except OSError:
        time.sleep(0.02)
"""


async def test_people_hold_hurry_and_take_back_a_deployment_while_users_notice_nothing(rig: Rig) -> None:
    assert (await deploy(rig, "1.0.0")).outcome == "promoted"
    with load_on(rig, rate=100) as load:
        before = load.counts()
        configure(rig, deployment=STAY)
        deploying = rig.start("deploy", "--version", "1.1.0")
        await until(lambda: rig.status().route["green"] == 10 and rig.status().route_applied, LIMIT_S, "10 % in green")
        first = rig.status().deployment
        assert first is not None
        second = rig.bleen("deploy", "--version", "1.2.1")
        assert second.returncode == 4
        assert first.id in second.stderr
        assert first.submitted_by in second.stderr

        deploying.send_signal(signal.SIGINT)
        _, said = await asyncio.to_thread(deploying.communicate, timeout=LIMIT_S)
        assert deploying.returncode == 130
        for hint in ("bleen watch", "bleen pause", "bleen abort"):
            assert hint in said

        async with open_manager(rig.config) as manager:
            assert (await manager.pause("a look")).paused
            await manager.resume()
        assert rig.bleen("promote").returncode == 0
        await until(lambda: rig.status().route["green"] == 25, LIMIT_S, "the next weight")
        assert rig.bleen("promote", "--full").returncode == 0
        await until(lambda: outcome(rig) == "promoted", LIMIT_S, "the deployment that was left has ended")
        assert shifts(rig, first.id) == [(90, 10), (75, 25), (0, 100)]

        back = rig.bleen("rollback", "--reason", "wrong totals")
        assert back.returncode == 0, back.stderr
        assert (rig.flags(), rig.releases("green"), asked(rig)) == ("w000", [], ("1.0.0", "blue"))
        assert rig.bleen("rollback").returncode == 4

        deploying = rig.start("deploy", "--version", "1.2.1")
        await until(lambda: rig.status().route["green"] == 10 and rig.status().route_applied, LIMIT_S, "10 % in green")
        assert rig.bleen("abort").returncode == 0
        await asyncio.to_thread(deploying.communicate, timeout=LIMIT_S)
        assert deploying.returncode == 1
        assert (rig.flags(), rig.releases("green")) == ("w000", [])
        seen = load.counts() - before
        assert (seen.failed, seen.broken) == (0, 0)
    stopped = rig.bleen("controller", "stop", "--service", "--yes")
    assert (stopped.returncode, rig.processes()) == (0, []), stopped.stderr


def outcome(rig: Rig) -> str:
    """How the newest deployment ended; empty while it is active."""
    found = rig.status().deployment
    return found.status if found is not None and not found.active else ""


async def test_what_runs_is_kept_up_between_deployments_and_what_was_adopted_is_left_alone(rig: Rig) -> None:
    with stranger(rig, "blue", "0.9.0") as adopted:
        await answers(rig, "blue")
        assert rig.bleen("adopt", "--environment", "blue", "--version", "0.8.0").returncode == 4
        done = rig.bleen("adopt", "--environment", "blue", "--version", "0.9.0")
        assert done.returncode == 0, done.stderr
        assert asked(rig) == ("0.9.0", "blue")
        assert (await deploy(rig, "1.0.0")).outcome == "promoted"
        assert (asked(rig), adopted.is_running()) == (("1.0.0", "green"), True)

        with load_on(rig, rate=100) as load:
            (release,) = rig.releases("green")
            release.kill()
            await until(lambda: [p for p in rig.releases("green") if p.pid != release.pid], LIMIT_S, "the release was started again")
            await answers(rig, "green")
            before = load.counts()
            load.wait_for(before.requests + 50)
            assert (load.counts() - before).failed == 0

            for process in nginx(rig):
                process.kill()
            await until(lambda: serves(rig), LIMIT_S, "nginx serves again")
            assert (asked(rig), rig.flags()) == (("1.0.0", "green"), "w100")
            await until(lambda: rig.status().route_applied, LIMIT_S)
            before = load.counts()
            load.wait_for(before.requests + 50)
            assert (load.counts() - before).failed == 0
        names = {event["name"] for event in events(rig)}
        assert {"release.adopted", "release.restarted", "proxy.started"} <= names
        assert adopted.is_running()


def nginx(rig: Rig) -> list[psutil.Process]:
    """Master and workers of the rig's nginx."""
    master = psutil.Process(int((rig.state / "proxy" / "nginx.pid").read_text()))
    return [master, *master.children()]


def serves(rig: Rig) -> bool:
    with contextlib.suppress(OSError):
        return asked(rig) != ("", "")
    return False


def events(rig: Rig) -> list[dict[str, Any]]:
    connection = sqlite3.connect(f"file:{rig.state / 'store.db'}?mode=ro", uri=True)
    try:
        return [{"name": name, "body": json.loads(body)} for name, body in connection.execute("SELECT name, body FROM event ORDER BY seq")]
    finally:
        connection.close()


async def test_a_protection_that_is_switched_off_is_off_and_told(rig: Rig) -> None:
    rig.environ["ENABLE_BLUE_GREEN_DEPLOYMENT"] = "false"
    off = rig.bleen("deploy", "--version", "1.0.0")
    assert off.returncode == 4
    assert "deployment.enabled" in off.stderr
    assert rig.status().deployment is None
    del rig.environ["ENABLE_BLUE_GREEN_DEPLOYMENT"]
    assert (await deploy(rig, "1.0.0")).outcome == "promoted"

    rig.environ["ENABLE_GRADUAL_TRAFFIC_SWITCH"] = "false"
    with load_on(rig, rate=100) as load:
        at_once = rig.bleen("deploy", "--version", "1.1.0", "--json")
        assert at_once.returncode == 0, at_once.stderr
        assert "gradual traffic switch is off" in at_once.stderr
        told = [json.loads(line) for line in at_once.stdout.splitlines()]
        assert [event["weight_pct"] for event in told if event["event"] == "traffic.shifted"] == [100]
        seen = load.counts()
        assert (seen.failed, seen.broken) == (0, 0)

        del rig.environ["ENABLE_GRADUAL_TRAFFIC_SWITCH"]
        rig.environ["ENABLE_AUTO_ROLLBACK"] = "false"
        configure(rig, "fail:0.5", deployment={"step": {"dwell": "300ms", "min_requests": LATER}})
        frozen = rig.bleen("deploy", "--version", "1.2.1")
        assert frozen.returncode == 3, frozen.stderr
        assert "automatic rollback is off" in frozen.stderr
        status = rig.status()
        assert status.deployment is not None
        assert (status.deployment.status, status.route, rig.flags()) == ("frozen", {"blue": 10, "green": 90}, "w090")
        aborted = rig.bleen("abort")
        assert aborted.returncode == 0, aborted.stderr
        assert (rig.flags(), rig.releases("blue"), asked(rig)) == ("w100", [], ("1.1.0", "green"))


@pytest.mark.parametrize("version", ["1.0\n0", "1/0", "1.0'; touch x", 'a"b', "9" * 10_000, "", "-1"])
async def test_a_version_that_could_mean_anything_else_is_refused_before_anything_is_made(rig: Rig, version: str) -> None:
    refused = rig.bleen("deploy", f"--version={version}")
    assert refused.returncode == 2, refused.stderr
    assert len(refused.stderr) < 1000
    assert (rig.state.exists(), [path.name for path in rig.folder.iterdir()]) == (False, ["bleen.yaml"])


async def test_a_second_store_on_the_proxy_of_another_one_is_refused(rig: Rig) -> None:
    assert (await deploy(rig, "1.0.0")).outcome == "promoted"
    assert rig.bleen("controller", "stop").returncode == 0
    kept = rig.folder / "kept"
    kept.mkdir()
    for path in rig.state.glob("store.db*"):
        shutil.move(path, kept)
    refused = rig.bleen("deploy", "--version", "1.1.0")
    assert refused.returncode == 4, refused.stderr
    assert "belongs to service 'payments' of store" in refused.stderr
    assert (rig.flags(), asked(rig)) == ("w000", ("1.0.0", "blue"))
