"""Plain processes under everything that happens to them: crashes, kills, stale files, strangers, secrets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from bleen.config.adapters import ProcessRuntime
from bleen.errors import ConfigurationError, RuntimeFailed, UsageError
from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release
from bleen.runtime import launcher
from bleen.runtime.launcher import started_of
from bleen.runtime.process import process_runtime
from bleen.runtime.processes import boot_id
from bleen.runtime.replacements import template
from bleen.runtime.run_file import Run
from bleen.runtime.runtime import Ownership, RunState, Runtime, StopOutcome
from bleen.runtime.site import RuntimeSite

BLUE, GREEN = Environment.BLUE, Environment.GREEN
RELEASE = Release("1.0.0", "abc123", "main")
PYTHON = [sys.executable, "-I", "-S"]

# Every release begins so: the test finds its processes by the file alone.
NOTE = """
import os, signal, socket, sys, time
def note():
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{os.getpid()}\\n")
note()
"""
SLEEP = "while True: time.sleep(60)\n"
IGNORES_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + SLEEP
DRAINS = """
def end(*_):
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
"""
LISTENS = """
listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
print("ready", flush=True)
"""
# One child in the group, one in a group of its own, one in a session of its own; none ends by itself.
CHILDREN = """
for leave in (lambda: None, lambda: os.setpgid(0, 0), os.setsid):
    if os.fork() == 0:
        leave()
        note()
        while True: time.sleep(60)
"""

# As programs do that write their title over their environment: no mark is left, the session and the lock are.
NAMELESS_CHILD = """
if os.fork() == 0:
    os.setpgid(0, 0)
    program = "import os, time; open(os.environ['NOTES'], 'a').write(f'{os.getpid()}\\\\n'); time.sleep(60)"
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program], {"NOTES": os.environ["NOTES"]})
"""


@dataclass
class Stage:
    folder: Path
    port: int

    def runtime(self, program: str, stop_timeout_s: float = 20, **options: object) -> Runtime:
        """A runtime whose release is this Python program."""
        path = self.folder / "program.py"
        path.write_text(NOTE + program)
        return self.runtime_of([*PYTHON, str(path)], stop_timeout_s, **options)

    def runtime_of(self, command: list[str], stop_timeout_s: float = 20, **options: object) -> Runtime:
        variables = {"NOTES": str(self.notes), **options.pop("variables", {})}  # type: ignore[dict-item]
        made = ProcessRuntime(command=command, variables=variables, stop_timeout=timedelta(seconds=stop_timeout_s), **options)
        return process_runtime(made, self.site, lambda value: "s3cret-value" if value == "env:SECRET" else value)

    @property
    def site(self) -> RuntimeSite:
        endpoints = {BLUE: [Endpoint("http", "127.0.0.1", self.port)], GREEN: [Endpoint("http", "127.0.0.1", 1)]}
        return RuntimeSite("shop", endpoints, self.folder, self.folder / "run")

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def record(self) -> Path:
        return self.folder / "run" / "blue.json"

    def started(self) -> list[int]:
        return [int(line) for line in self.notes.read_text().split()] if self.notes.exists() else []

    def living(self) -> list[int]:
        return [pid for pid in self.started() if lives(pid)]


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


async def until_it_says(runtime: Runtime, line: str) -> None:
    async with asyncio.timeout(20):
        while line not in await runtime.logs(BLUE, 10):
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path, free_port())
    yield made
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("NOTES") == str(made.notes):
                process.kill()


# The starter: starts releases from children of its own, so that the test can kill -9 whoever starts.
STARTER = """
import asyncio, json, os, sys
from datetime import timedelta
from pathlib import Path
from bleen.config.adapters import ProcessRuntime
from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release
from bleen.runtime.process import process_runtime
from bleen.runtime.site import RuntimeSite

folder, port, notes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
options = ProcessRuntime(
    command=[sys.executable, "-I", "-S", str(folder / "program.py")], variables={"NOTES": notes}, stop_timeout=timedelta(seconds=20)
)
endpoints = {Environment.BLUE: [Endpoint("http", "127.0.0.1", port)], Environment.GREEN: [Endpoint("http", "127.0.0.1", 1)]}

async def call(verb, token):
    runtime = process_runtime(options, RuntimeSite("shop", endpoints, folder, folder / "run"), str)
    if verb == "start":
        await runtime.start(Release("1.0.0", "abc123", "main"), Environment.BLUE, token)
    else:
        await runtime.stop(Environment.BLUE)

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        asyncio.run(call(*line.split()))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@dataclass
class Starter:
    """A process of its own that calls the runtime, one killable child per call."""

    process: asyncio.subprocess.Process

    async def begin(self, verb: str, token: str) -> int:
        assert self.process.stdin
        self.process.stdin.write(f"{verb} {token}\n".encode())
        return int(await self._line())

    async def ended(self) -> None:
        assert await self._line() == "ended"

    async def _line(self) -> str:
        assert self.process.stdout
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()


@pytest.fixture
async def starter(stage: Stage) -> AsyncIterator[Starter]:
    command = [sys.executable, "-c", STARTER, str(stage.folder), str(stage.port), str(stage.notes)]
    environment = {**os.environ, "STARTER": str(stage.folder)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
    made = Starter(process)
    assert await made._line() == "ready"
    yield made
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def launchers(stage: Stage) -> list[int]:
    """Launchers that the starter's children left behind and that have not become a release yet."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("STARTER") == str(stage.folder) and any("launcher.py" in part for part in process.cmdline()):
                found.append(process.pid)
    return found


async def test_a_release_survives_the_death_of_its_starter(stage: Stage, starter: Starter) -> None:
    runtime = stage.runtime(DRAINS + SLEEP)
    caller = await starter.begin("start", "one")
    await starter.ended()
    assert not lives(caller)
    await until_it_says(runtime, "ready")
    starter.process.kill()
    await starter.process.wait()
    [pid] = stage.started()
    assert lives(pid)
    assert psutil.Process(pid).ppid() != starter.process.pid
    assert os.getsid(pid) == pid
    assert (await runtime.status(BLUE)).pid == pid
    assert await runtime.stop(BLUE) is StopOutcome.DRAINED


async def test_a_start_killed_at_any_moment_never_leaves_two(stage: Stage, starter: Starter) -> None:
    runtime = stage.runtime(SLEEP)
    moments = random.Random(7)  # noqa: S311 - moments, no secrets
    for attempt in range(20):
        caller = await starter.begin("start", f"token-{attempt}")
        await asyncio.sleep(moments.uniform(0, 0.12))  # the moment of the kill is what varies; nothing is waited for
        with contextlib.suppress(ProcessLookupError):
            os.kill(caller, signal.SIGKILL)
        await runtime.start(RELEASE, BLUE, f"token-{attempt}")
        await starter.ended()
        await until(lambda: not launchers(stage))
        await until(lambda: len(stage.living()) >= 1)
        assert len(stage.living()) == 1, f"attempt {attempt}: {stage.living()}"
        assert (await runtime.status(BLUE)).pid == stage.living()[0]
        await runtime.stop(BLUE)
        assert stage.living() == []


async def test_a_start_that_was_killed_starts_nothing_after_a_stop(stage: Stage, starter: Starter) -> None:
    runtime = stage.runtime(SLEEP)
    moments = random.Random(8)  # noqa: S311 - moments, no secrets
    for attempt in range(8):
        caller = await starter.begin("start", f"token-{attempt}")
        await asyncio.sleep(moments.uniform(0, 0.06))  # as above
        with contextlib.suppress(ProcessLookupError):
            os.kill(caller, signal.SIGKILL)
        await starter.ended()
        await runtime.stop(BLUE)
        await until(lambda: not launchers(stage))
        assert stage.living() == [], f"attempt {attempt}"


async def launch_by_hand(stage: Stage, token: str, caller_stays: bool) -> asyncio.subprocess.Process:
    """A launcher that has its order, and whose caller stays or is gone."""
    run = Run(token, "1.0.0", boot_id=boot_id())
    folder = stage.folder / "run"
    folder.mkdir(exist_ok=True)
    files = {"log": str(folder / "blue.log"), "lock": str(folder / "blue.lock"), "record": str(stage.record)}
    variables = {**os.environ, "NOTES": str(stage.notes)}
    order = {"argv": [*PYTHON, str(stage.folder / "program.py")], "directory": str(stage.folder), "variables": variables, **files}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*PYTHON, launcher.__file__, "release", stdin=pipe, stdout=pipe)
    assert process.stdin
    process.stdin.write(json.dumps({**order, "body": asdict(run)}).encode() + b"\n")
    if not caller_stays:
        process.stdin.close()
    return process


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdin
    assert process.stdout
    async with asyncio.timeout(20):
        answer = (await process.stdout.read()).decode()
    process.stdin.close()
    await process.wait()
    return answer


async def test_a_launcher_whose_caller_is_gone_starts_nothing(stage: Stage) -> None:
    stage.runtime(SLEEP)
    assert await said(await launch_by_hand(stage, "one", caller_stays=False)) == ""
    assert stage.started() == []
    assert not stage.record.exists()


async def test_of_launchers_at_the_same_time_one_starts(stage: Stage) -> None:
    stage.runtime(SLEEP)
    processes = await asyncio.gather(*(launch_by_hand(stage, "one", caller_stays=True) for _ in range(6)))
    answers = await asyncio.gather(*map(said, processes))
    assert sorted(answers) == ["busy\n"] * 5 + ["recorded\n"]
    await until(lambda: len(stage.living()) == 1)
    assert len(stage.started()) == 1


async def test_a_launcher_finds_a_release_that_closed_the_lock(stage: Stage) -> None:
    runtime = stage.runtime("os.closerange(3, 256)\nprint('closed', flush=True)\n" + SLEEP)
    assert await said(await launch_by_hand(stage, "one", caller_stays=True)) == "recorded\n"
    await until_it_says(runtime, "closed")
    assert await said(await launch_by_hand(stage, "one", caller_stays=True)) == "busy\n"
    assert len(stage.started()) == 1


async def test_a_cancelled_start_leaves_nothing_that_stop_does_not_find(stage: Stage) -> None:
    runtime = stage.runtime(SLEEP)
    moments = random.Random(9)  # noqa: S311 - moments, no secrets
    for attempt in range(8):
        starting = asyncio.create_task(runtime.start(RELEASE, BLUE, f"token-{attempt}"))
        await asyncio.sleep(moments.uniform(0, 0.06))  # as above
        starting.cancel()
        await asyncio.wait({starting})
        await runtime.stop(BLUE)
        assert stage.living() == []
        assert (await runtime.status(BLUE)).state is RunState.STOPPED
    await runtime.start(RELEASE, BLUE, "last")
    await until(lambda: len(stage.living()) == 1)


async def test_a_stop_that_was_killed_is_finished_by_the_next(stage: Stage, starter: Starter) -> None:
    runtime = stage.runtime(IGNORES_SIGTERM, stop_timeout_s=0.1)
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "deaf")
    caller = await starter.begin("stop", "-")
    os.kill(caller, signal.SIGKILL)
    await starter.ended()
    assert (await runtime.status(BLUE)).state is RunState.RUNNING
    assert await runtime.stop(BLUE) is StopOutcome.KILLED
    assert stage.living() == []


async def test_a_polite_release_drains(stage: Stage) -> None:
    runtime = stage.runtime(DRAINS + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "ready")
    assert await runtime.stop(BLUE) is StopOutcome.DRAINED
    assert await runtime.logs(BLUE, 1) == ["drained"]
    assert not stage.record.exists()


async def test_a_release_that_ignores_the_polite_signal_is_killed_when_its_budget_is_used_up(stage: Stage) -> None:
    runtime = stage.runtime(IGNORES_SIGTERM, stop_timeout_s=0.3)
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "deaf")
    assert await runtime.stop(BLUE) is StopOutcome.KILLED
    assert stage.living() == []


async def test_a_release_that_is_suspended_still_hears_the_polite_signal(stage: Stage) -> None:
    runtime = stage.runtime(DRAINS + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "ready")
    os.kill((await runtime.status(BLUE)).pid, signal.SIGSTOP)
    assert await runtime.stop(BLUE) is StopOutcome.DRAINED


async def test_children_are_ended_wherever_they_went(stage: Stage) -> None:
    runtime = stage.runtime(CHILDREN + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until(lambda: len(stage.living()) == 4)
    assert await runtime.stop(BLUE) is StopOutcome.DRAINED
    assert stage.living() == []


async def test_children_of_a_crashed_release_are_ended_by_stop(stage: Stage) -> None:
    runtime = stage.runtime(CHILDREN + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until(lambda: len(stage.living()) == 4)
    os.kill((await runtime.status(BLUE)).pid, signal.SIGKILL)
    await until(lambda: len(stage.living()) == 3)
    assert (await runtime.status(BLUE)).state is RunState.STOPPED
    assert await runtime.stop(BLUE) is StopOutcome.DRAINED
    assert stage.living() == []


@pytest.mark.parametrize("crashed", [False, True])
async def test_a_child_that_lost_its_variables_is_ended_too(stage: Stage, crashed: bool) -> None:
    runtime = stage.runtime(NAMELESS_CHILD + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until(lambda: len(stage.living()) == 2)
    if crashed:
        os.kill((await runtime.status(BLUE)).pid, signal.SIGKILL)
        await until(lambda: len(stage.living()) == 1)
    assert await runtime.stop(BLUE) is StopOutcome.DRAINED
    assert stage.living() == []


async def test_a_restart_after_a_crash_ends_the_children_first_and_another_token_is_refused(stage: Stage) -> None:
    runtime = stage.runtime(CHILDREN + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until(lambda: len(stage.living()) == 4)
    before = stage.started()
    os.kill((await runtime.status(BLUE)).pid, signal.SIGKILL)
    await until(lambda: len(stage.living()) == 3)
    with pytest.raises(RuntimeFailed, match="already runs version"):
        await runtime.start(RELEASE, BLUE, "two")
    await runtime.start(RELEASE, BLUE, "one")
    await until(lambda: len(stage.living()) == 4)
    assert not set(stage.living()) & set(before)


async def test_a_release_that_closes_what_it_inherits_is_still_not_started_twice(stage: Stage) -> None:
    runtime = stage.runtime("os.closerange(3, 256)\nprint('closed', flush=True)\n" + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "closed")
    await runtime.start(RELEASE, BLUE, "one")
    with pytest.raises(RuntimeFailed):
        await runtime.start(RELEASE, BLUE, "two")
    assert len(stage.started()) == 1


@pytest.mark.parametrize("wrong", [{"started": 1}, {"boot_id": "another boot"}])
async def test_a_stale_file_that_names_a_reused_pid_never_leads_to_a_signal(stage: Stage, wrong: dict[str, object]) -> None:
    runtime = stage.runtime(SLEEP, stop_timeout_s=0.1)
    bystander = subprocess.Popen([*PYTHON, "-c", "import time; time.sleep(60)"], start_new_session=True)  # noqa: ASYNC220 - a bystander
    try:
        stage.record.parent.mkdir()
        run = asdict(Run("one", "1.0.0", pid=bystander.pid, started=started_of(bystander.pid) or 0, boot_id=boot_id()))
        stage.record.write_text(json.dumps({**run, **wrong}))
        assert (await runtime.status(BLUE)).state is RunState.STOPPED
        assert await runtime.stop(BLUE) is StopOutcome.NOT_RUNNING
        assert bystander.poll() is None
        assert not stage.record.exists()
        # The counter-proof: it is what differs that saved it.
        stage.record.write_text(json.dumps(run))
        assert await runtime.stop(BLUE) is StopOutcome.DRAINED
        assert bystander.wait(10) == -signal.SIGTERM
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_zombie_counts_as_dead(stage: Stage) -> None:
    runtime = stage.runtime(SLEEP)
    command = [*PYTHON, "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: ASYNC220 - asyncio would wait for it
    assert child.stdin
    try:
        stage.record.parent.mkdir()
        run = Run("one", "1.0.0", pid=child.pid, started=started_of(child.pid) or 0, boot_id=boot_id())
        stage.record.write_text(json.dumps(asdict(run)))
        assert (await runtime.status(BLUE)).state is RunState.RUNNING
        child.stdin.close()  # it ends, and nobody waits for it
        await until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        assert (await runtime.status(BLUE)).state is RunState.STOPPED
    finally:
        child.kill()
        child.wait()


async def test_a_file_that_cannot_be_read_is_cannot_tell(stage: Stage) -> None:
    runtime = stage.runtime(SLEEP)
    stage.record.parent.mkdir()
    stage.record.write_text('{"pid": 1')
    status = await runtime.status(BLUE)
    assert status.state is RunState.UNKNOWN
    assert str(stage.record) in status.evidence
    with pytest.raises(RuntimeFailed, match="cannot be read"):
        await runtime.start(RELEASE, BLUE, "one")


async def test_secrets_reach_the_release_and_neither_arguments_nor_files(stage: Stage) -> None:
    program = "open(os.environ['NOTES'] + '.seen', 'w').write(os.environ['PASSWORD'])\n" + SLEEP
    runtime = stage.runtime(program, variables={"PASSWORD": "env:SECRET"})
    shown: list[str] = []

    async def look() -> None:
        while True:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    shown.append(" ".join(process.cmdline()))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await runtime.start(RELEASE, BLUE, "one")
    await until(lambda: (stage.folder / "notes.seen").exists() and (stage.folder / "notes.seen").read_text() != "")
    looking.cancel()
    assert (stage.folder / "notes.seen").read_text() == "s3cret-value"
    assert any("launcher.py" in line for line in shown), "the launcher was never seen, so nothing was proven"
    assert not any("s3cret-value" in line for line in shown)
    for path in (stage.folder / "run").iterdir():
        assert b"s3cret-value" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((stage.folder / "run").stat().st_mode) == 0o700


async def test_the_release_is_told_who_and_where_it_is(stage: Stage) -> None:
    names = ["ENVIRONMENT", "VERSION", "COMMIT_HASH", "BRANCH", "PORT", "HOST", "SERVICE", "GREETING", "PATH"]
    program = f"import json\nprint(json.dumps([[os.environ[name] for name in {names}], os.getcwd(), sys.argv[1:]]), flush=True)\n" + SLEEP
    (stage.folder / "releases" / "1.0.0").mkdir(parents=True)
    path = stage.folder / "program.py"
    path.write_text(NOTE + program)
    runtime = stage.runtime_of(
        [*PYTHON, str(path), "--listen={host}:{port}", "{{literal}} {branch}", "{version} {environment}"],
        directory="releases/{version}",
        variables={"GREETING": "{version} stays"},
    )
    await runtime.start(Release("1.0.0", "abc123", "feature/a@b"), BLUE, "one")
    await until(lambda: len(stage.started()) == 1)
    async with asyncio.timeout(20):
        while not (lines := await runtime.logs(BLUE, 1)):
            await asyncio.sleep(0.01)
    told, directory, arguments = json.loads(lines[0])
    expected = ["blue", "1.0.0", "abc123", "feature/a@b", str(stage.port), "127.0.0.1", "shop", "{version} stays", os.environ["PATH"]]
    assert told == expected
    assert directory == str((stage.folder / "releases" / "1.0.0").resolve())
    assert arguments == [f"--listen=127.0.0.1:{stage.port}", "{literal} feature/a@b", "1.0.0 blue"]


@pytest.mark.parametrize("branch", ["-x", "../../etc", "/etc", "a/../b"])
def test_a_hostile_branch_neither_becomes_an_option_nor_leaves_the_folder(branch: str) -> None:
    with pytest.raises(UsageError, match="not beginning with - or /"):
        Release("1.0.0", "", branch)
    with pytest.raises(RuntimeFailed, match="cannot be put into"):  # whatever way it came: the replacer refuses it as well
        template("{branch}", "runtime.command[1]", {"branch"}).fill({"branch": branch})


async def test_a_missing_program_is_named_and_nothing_is_left_behind(stage: Stage) -> None:
    runtime = stage.runtime_of(["no-such-program-anywhere"])
    with pytest.raises(RuntimeFailed, match=r"no-such-program-anywhere.*No such file") as failure:
        await runtime.start(RELEASE, BLUE, "one")
    assert "1.0.0 could not be started in blue" in failure.value.message
    assert not stage.record.exists()
    assert (await runtime.status(BLUE)).state is RunState.STOPPED
    await stage.runtime(SLEEP).start(RELEASE, BLUE, "two")  # neither lock nor token stands in the way


async def test_a_missing_directory_is_named(stage: Stage) -> None:
    runtime = stage.runtime(SLEEP, directory="releases/{version}")
    with pytest.raises(RuntimeFailed, match=r"cannot enter the directory .*releases/1\.0\.0: No such file"):
        await runtime.start(RELEASE, BLUE, "one")
    assert not stage.record.exists()


async def test_a_program_that_may_not_be_run_is_named(stage: Stage) -> None:
    (stage.folder / "data.txt").write_text("no program")
    with pytest.raises(RuntimeFailed, match=r"data\.txt.*Permission denied"):
        await stage.runtime_of(["./data.txt"]).start(RELEASE, BLUE, "one")


async def test_an_unknown_name_in_braces_is_refused_at_construction(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match=r"runtime\.command\[1\].*\{home\}.*\{branch\}.*\{version\}"):
        stage.runtime_of(["serve", "{home}"])
    with pytest.raises(ConfigurationError, match=r"runtime\.directory"):
        stage.runtime_of(["serve"], directory="{user}")


async def test_the_listener_of_a_child_is_the_releases_own(stage: Stage) -> None:
    child = "\nif os.fork() == 0:\n" + textwrap.indent("os.setsid()\nnote()\n" + LISTENS + SLEEP, "    ")
    runtime = stage.runtime(child + SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "ready")
    assert (await runtime.prove_listener(BLUE)).ownership is Ownership.OURS


async def test_a_strangers_listener_is_named_by_its_pid(stage: Stage) -> None:
    runtime = stage.runtime(SLEEP)
    await runtime.start(RELEASE, BLUE, "one")
    assert (await runtime.prove_listener(BLUE)).ownership is Ownership.NOBODY
    with socket.create_server(("", stage.port)):  # on every address, so on the endpoint's as well
        proof = await runtime.prove_listener(BLUE)
    assert proof.ownership is Ownership.FOREIGN
    assert f"pid {os.getpid()}" in proof.evidence


async def test_a_release_that_ended_leaves_its_last_line_as_evidence(stage: Stage) -> None:
    runtime = stage.runtime("print('no database', flush=True)\nsys.exit(1)\n")
    await runtime.start(RELEASE, BLUE, "one")
    async with asyncio.timeout(20):
        while (status := await runtime.status(BLUE)).state is not RunState.STOPPED:
            await asyncio.sleep(0.01)
    assert "no database" in status.evidence
    assert status.token == "one"


async def test_a_large_log_is_moved_aside_at_the_next_start_and_read_from_its_end(stage: Stage) -> None:
    runtime = stage.runtime("print('new', flush=True)\n" + SLEEP)
    log = stage.folder / "run" / "blue.log"
    log.parent.mkdir()
    with log.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast \xff\n")
    assert await runtime.logs(BLUE, 2) == ["last but one", "last \ufffd"]
    await runtime.start(RELEASE, BLUE, "one")
    await until_it_says(runtime, "new")
    assert await runtime.logs(BLUE, 10) == ["new"]
    assert (log.parent / "blue.log.1").stat().st_size > 16 * 1024 * 1024


async def test_the_release_does_not_inherit_what_python_ignores(stage: Stage) -> None:
    runtime = stage.runtime_of(["/bin/sh", "-c", "grep SigIgn /proc/self/status; exec sleep 60"])
    await runtime.start(RELEASE, BLUE, "one")
    async with asyncio.timeout(20):
        while not (lines := [line for line in await runtime.logs(BLUE, 10) if line.startswith("SigIgn:")]):
            await asyncio.sleep(0.01)
    await runtime.stop(BLUE)
    of_the_c_library = 0b11 << 31  # signals 32 and 33, which no program may set: they are as whoever began all this left them
    assert int(lines[0].split()[1], 16) & ~of_the_c_library == 0
