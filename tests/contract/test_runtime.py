"""What every runtime promises, on real processes (and on the fake that the package ships)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from bleen.config.adapters import CommandRuntime, ProcessRuntime
from bleen.errors import RuntimeFailed
from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release
from bleen.runtime.command import command_runtime
from bleen.runtime.fake import FakeRuntime
from bleen.runtime.process import process_runtime
from bleen.runtime.runtime import Ownership, RunState, Runtime, StopOutcome
from bleen.runtime.site import RuntimeSite

BLUE, GREEN = Environment.BLUE, Environment.GREEN
ONE, TWO = Release("1.0.0", "abc123", "main"), Release("2.0.0", "def456", "main")

# Says who it is on its port, and appends its pid to a file: the test's own count of starts.
SERVER = """
import os, signal, socket, sys
with open(os.environ["STARTS"] + "." + os.environ["ENVIRONMENT"], "a") as starts:
    starts.write(f"{os.getpid()}\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((os.environ["HOST"], int(os.environ["PORT"])))
listener.listen()
print("serving", os.environ["VERSION"], flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(os.environ["VERSION"].encode())
"""

# A user's own way to start and stop the same server.
CONTROL = """
import os, signal, subprocess, sys, time
verb, environment, server = sys.argv[1:]
file = os.environ["STARTS"] + ".control." + environment
def pid():
    try:
        found = int(open(file).read())
        return 0 if open(f"/proc/{found}/stat").read().rpartition(")")[2].split()[0] == "Z" else found
    except OSError:
        return 0
if verb == "status":
    sys.exit(0 if pid() else 3)
if verb == "start":
    if os.path.exists(os.environ["STARTS"] + ".broken"):
        sys.exit("the disk is full")
    child = subprocess.Popen([sys.executable, "-I", "-S", server], start_new_session=True)
    open(file, "w").write(str(child.pid))
if verb == "stop":
    os.kill(pid(), signal.SIGTERM)
    while pid():
        time.sleep(0.01)
"""


@dataclass
class Stage:
    """One runtime with the means to look at it from outside."""

    runtime: Runtime
    folder: Path
    ports: dict[Environment, int] = field(default_factory=dict)

    def starts(self, environment: Environment) -> int:
        if isinstance(self.runtime, FakeRuntime):
            return self.runtime.starts
        return len(self.pids(environment))

    def pids(self, environment: Environment) -> list[int]:
        path = self.folder / f"starts.{environment}"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def serves(self, environment: Environment) -> None:
        if not isinstance(self.runtime, FakeRuntime):
            await until(lambda: connects(self.ports[environment]))

    async def crash(self, environment: Environment) -> None:
        if isinstance(self.runtime, FakeRuntime):
            self.runtime.crash(environment)
            return
        os.kill(self.pids(environment)[-1], signal.SIGKILL)
        await until_stopped(self.runtime, environment)

    def break_start(self, environment: Environment) -> None:
        if isinstance(self.runtime, FakeRuntime):
            self.runtime.fails_to_start.add(environment)
        (self.folder / "starts.broken").touch()
        if (self.folder / "releases").exists():
            (self.folder / "releases").rmdir()


async def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


async def until_stopped(runtime: Runtime, environment: Environment) -> None:
    async with asyncio.timeout(20):
        while (await runtime.status(environment)).state is not RunState.STOPPED:
            await asyncio.sleep(0.01)


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=["fake", "process", "command"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    ports = {environment: free_port() for environment in Environment}
    made = Stage(runtime_of(request.param, tmp_path, ports), tmp_path, ports)
    yield made
    for environment in Environment:
        with contextlib.suppress(RuntimeFailed):
            await made.runtime.stop(environment)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("STARTS") == str(tmp_path / "starts"):
                process.kill()


def runtime_of(kind: str, folder: Path, ports: dict[Environment, int]) -> Runtime:
    if kind == "fake":
        return FakeRuntime()
    server, control = folder / "server.py", folder / "control.py"
    server.write_text(SERVER)
    control.write_text(CONTROL)
    (folder / "releases").mkdir()
    endpoints = {environment: [Endpoint("http", "127.0.0.1", port)] for environment, port in ports.items()}
    site = RuntimeSite("shop", endpoints, folder, folder / "run")
    variables = {"STARTS": str(folder / "starts")}
    python = [sys.executable, "-I", "-S"]
    if kind == "process":
        options = ProcessRuntime(command=[*python, str(server)], directory="releases", variables=variables)
        return process_runtime(options, site, str)
    verbs = {verb: [*python, str(control), verb, "{environment}", str(server)] for verb in ("start", "stop", "status")}
    return command_runtime(CommandRuntime(type="command", **verbs, variables=variables), site, str)


async def test_nothing_runs_at_first(stage: Stage) -> None:
    status = await stage.runtime.status(BLUE)
    assert (status.state, status.version, status.token) == (RunState.STOPPED, "", "")
    assert await stage.runtime.stop(BLUE) is StopOutcome.NOT_RUNNING
    assert await stage.runtime.logs(BLUE, 10) == []


async def test_a_started_release_runs_under_its_version_and_token(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    status = await stage.runtime.status(BLUE)
    assert (status.state, status.version, status.token) == (RunState.RUNNING, "1.0.0", "first")
    assert (await stage.runtime.status(GREEN)).state is RunState.STOPPED


async def test_a_second_start_with_the_same_token_starts_nothing(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    await stage.runtime.start(ONE, BLUE, "first")
    assert stage.starts(BLUE) == 1


async def test_starts_at_the_same_time_start_once(stage: Stage) -> None:
    await asyncio.gather(*(stage.runtime.start(ONE, BLUE, "first") for _ in range(3)))
    await stage.serves(BLUE)
    assert stage.starts(BLUE) == 1


async def test_a_start_beside_another_token_is_refused_and_names_what_runs(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    with pytest.raises(RuntimeFailed, match=r"blue already runs version 1\.0\.0.*'first'") as refusal:
        await stage.runtime.start(TWO, BLUE, "second")
    assert refusal.value.next_command
    assert (await stage.runtime.status(BLUE)).token == "first"
    assert stage.starts(BLUE) == 1


async def test_a_crashed_release_is_seen_and_the_same_token_starts_it_again(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    await stage.crash(BLUE)
    status = await stage.runtime.status(BLUE)
    assert (status.state, status.token) == (RunState.STOPPED, "first")
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    assert stage.starts(BLUE) == 2
    assert (await stage.runtime.status(BLUE)).state is RunState.RUNNING


async def test_a_stopped_release_is_gone_and_another_may_start(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    assert await stage.runtime.stop(BLUE) is StopOutcome.DRAINED
    assert (await stage.runtime.status(BLUE)).state is RunState.STOPPED
    assert isinstance(stage.runtime, FakeRuntime) or not connects(stage.ports[BLUE])
    assert await stage.runtime.stop(BLUE) is StopOutcome.NOT_RUNNING
    await stage.runtime.start(TWO, BLUE, "second")
    await stage.serves(BLUE)
    assert (await stage.runtime.status(BLUE)).version == "2.0.0"


async def test_a_stop_that_names_an_older_start_leaves_the_newer_release_alone(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    await stage.runtime.stop(BLUE, "first")
    await stage.runtime.start(TWO, BLUE, "second")
    await stage.serves(BLUE)
    assert await stage.runtime.stop(BLUE, "first") is StopOutcome.NOT_RUNNING
    status = await stage.runtime.status(BLUE)
    assert (status.state, status.token) == (RunState.RUNNING, "second")
    assert await stage.runtime.stop(BLUE, "second") is StopOutcome.DRAINED


async def test_environments_do_not_touch_one_another(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.runtime.start(TWO, GREEN, "second")
    await stage.serves(BLUE)
    await stage.serves(GREEN)
    await stage.runtime.stop(BLUE)
    status = await stage.runtime.status(GREEN)
    assert (status.state, status.version, status.token) == (RunState.RUNNING, "2.0.0", "second")


async def test_a_release_that_cannot_be_started_is_an_error_and_does_not_run(stage: Stage) -> None:
    stage.break_start(BLUE)
    with pytest.raises(RuntimeFailed) as failure:
        await stage.runtime.start(ONE, BLUE, "first")
    assert failure.value.next_command
    assert (await stage.runtime.status(BLUE)).state is RunState.STOPPED


async def test_the_listener_is_never_taken_for_a_stranger_or_missed(stage: Stage) -> None:
    assert (await stage.runtime.prove_listener(BLUE)).ownership in (Ownership.NOBODY, Ownership.UNKNOWN)
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    assert (await stage.runtime.prove_listener(BLUE)).ownership in (Ownership.OURS, Ownership.UNKNOWN)


async def test_a_strangers_listener_is_never_taken_for_the_release(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", stage.ports[BLUE])):
        if isinstance(stage.runtime, FakeRuntime):
            stage.runtime.foreign_listener.add(BLUE)
        proof = await stage.runtime.prove_listener(BLUE)
    assert proof.ownership in (Ownership.FOREIGN, Ownership.UNKNOWN)
    assert proof.evidence


async def test_logs_are_bounded_by_the_lines_asked_for(stage: Stage) -> None:
    await stage.runtime.start(ONE, BLUE, "first")
    await stage.serves(BLUE)
    assert len(await stage.runtime.logs(BLUE, 1)) <= 1
    assert await stage.runtime.logs(BLUE, 0) == []


async def test_every_call_answers_while_a_release_is_starting(stage: Stage) -> None:
    runtime = stage.runtime
    async with asyncio.timeout(60):
        await asyncio.gather(
            runtime.start(ONE, BLUE, "first"), runtime.status(BLUE), runtime.prove_listener(BLUE), runtime.stop(BLUE), runtime.logs(BLUE, 5)
        )
