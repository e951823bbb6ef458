"""Releases as plain processes: started detached, found again by more than a pid, ended with all their children."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from bleen.config.adapters import ProcessRuntime
from bleen.errors import ConfigurationError, RuntimeFailed
from bleen.model.environment import Environment
from bleen.model.release import Release, digest_of
from bleen.runtime import log_file
from bleen.runtime.launch import launch
from bleen.runtime.listener import listeners, prove
from bleen.runtime.processes import alive, boot_id, members, send
from bleen.runtime.replacements import fill, template, templates
from bleen.runtime.run_file import Run, read_run
from bleen.runtime.runtime import ListenerProof, Ownership, RunState, Runtime, RuntimeStatus, StopOutcome
from bleen.runtime.site import MARK, RuntimeSite, Secrets

BUSY_LIMIT_S = 10.0  # for a launch whose caller died: it needs some 30 ms to run or to end
SETTLE_LIMIT_S = 5.0  # for processes after SIGKILL, and for a launch whose caller died
REMAINS_LIMIT_S = 5.0  # for children that outlived a crashed release
POLL_S = (0.02, 0.2)  # first and longest


def process_runtime(options: ProcessRuntime, site: RuntimeSite, secrets: Secrets) -> Runtime:
    """A runtime of plain processes; raises ConfigurationError when the command holds a name that is not known."""
    for environment, endpoints in site.endpoints.items():
        if len(endpoints) != 1:
            raise ConfigurationError(
                f"environments.{environment}.endpoints: the process runtime starts one process on one endpoint, not {len(endpoints)}"
            )
    return ProcessAdapter(options, site, secrets)


class ProcessAdapter:
    """The `process` runtime. Its state is the run file, the lock and the processes themselves, nothing in memory."""

    def __init__(self, options: ProcessRuntime, site: RuntimeSite, secrets: Secrets) -> None:
        self._options = options
        self._site = site
        self._secrets = secrets
        self._command = templates(options.command, "runtime.command", site.known_names())
        self._directory = template(options.directory, "runtime.directory", site.known_names())
        self._turns = {environment: asyncio.Lock() for environment in Environment}

    async def start(self, release: Release, environment: Environment, token: str) -> None:
        async with self._turns[environment]:
            deadline = _now() + BUSY_LIMIT_S
            while not await self._runs_already(environment, token):
                order = await asyncio.to_thread(self._order, release, environment, token)
                if await launch(order, f"{release.version} could not be started in {environment}"):
                    return
                if _now() > deadline:  # a launcher of a caller that died lets go within milliseconds
                    raise self._held(environment)
                await asyncio.sleep(POLL_S[0])

    async def stop(self, environment: Environment, token: str = "") -> StopOutcome:
        async with self._turns[environment]:
            deadline = _now() + SETTLE_LIMIT_S + self._options.stop_timeout.total_seconds()
            outcome = StopOutcome.NOT_RUNNING
            while True:
                ended = await self._end(environment, self._options.stop_timeout.total_seconds(), token)
                outcome = outcome if ended is StopOutcome.NOT_RUNNING else ended
                if await asyncio.to_thread(self._is_of_another, environment, token):
                    return outcome
                if await asyncio.to_thread(self._forget, environment):
                    return outcome
                if _now() > deadline:
                    raise self._held(environment)
                await asyncio.sleep(POLL_S[0])

    async def status(self, environment: Environment) -> RuntimeStatus:
        return await asyncio.to_thread(self._status, environment)

    async def prove_listener(self, environment: Environment) -> ListenerProof:
        return await asyncio.to_thread(self._prove_listener, environment)

    def restarts_after_crash(self) -> bool:
        return True

    async def logs(self, environment: Environment, lines: int) -> list[str]:
        return await asyncio.to_thread(log_file.tail_of, self._site.file(environment, "log"), lines)

    async def _runs_already(self, environment: Environment, token: str) -> bool:
        """True when what `token` names runs; False when nothing runs. Remains of a crashed start of `token` were ended."""
        running = await asyncio.to_thread(self._members, environment)
        if not running:
            return False
        run = await asyncio.to_thread(self._read, environment)  # after the look: what runs has written its file before it ran
        if run is None or run.token != token:
            what = f"version {run.version} (started as {run.token!r})" if run else "an unknown release"
            raise RuntimeFailed(f"{environment} already runs {what}: {_named(running)}", next_command="bleen status")
        if alive(run):
            return True
        await self._end(environment, min(REMAINS_LIMIT_S, self._options.stop_timeout.total_seconds()), token)
        return False

    def _order(self, release: Release, environment: Environment, token: str) -> dict[str, Any]:
        """What the launcher is told. Variables are in it, so it travels by a pipe and is written nowhere."""
        self._site.create_folder()
        log = self._site.file(environment, "log")
        log_file.rotate(log)
        values = self._site.values(release, environment)
        argv = fill(self._command, values)
        variables = self._site.variables(release, environment, self._options.variables, self._secrets)
        commit, branch = release.commit_hash, release.branch
        run = Run(token, release.version, commit, branch, digest_of(argv), str(log), boot_id=boot_id())
        return {
            "argv": argv,
            "directory": str((self._site.config_dir / self._directory.fill(values)).absolute()),
            "variables": {**variables, MARK: self._site.mark(environment)},
            "log": str(log),
            "lock": str(self._lock_path(environment)),
            "record": str(self._site.file(environment, "json")),
            "body": asdict(run),
        }

    async def _end(self, environment: Environment, budget_s: float, token: str) -> StopOutcome:
        """No process of the environment's release is left, unless it has another token by now."""
        running = await asyncio.to_thread(self._members, environment)
        run = await asyncio.to_thread(self._read, environment)  # after the look: what runs has written its file before it ran
        if not running or _differs(run, token):
            return StopOutcome.NOT_RUNNING
        await asyncio.to_thread(_ask_to_end, run, running)
        asked = set(running)
        outcome, deadline, pause = StopOutcome.DRAINED, _now() + budget_s, POLL_S[0]
        while running := await asyncio.to_thread(self._members, environment):
            if await asyncio.to_thread(self._is_of_another, environment, token):
                break
            if _now() > deadline + SETTLE_LIMIT_S:
                raise RuntimeFailed(f"{_named(running)} of {environment} did not end {SETTLE_LIMIT_S:g} s after SIGKILL")
            if _now() > deadline:
                outcome = StopOutcome.KILLED
                await asyncio.to_thread(_signal_all, running.items(), signal.SIGKILL)
            elif run is None or run.pid not in running:
                # While the leader lives, what it starts for its own ending is left alone; after it nobody else would ask.
                late = [(pid, started) for pid, started in running.items() if pid not in asked]
                await asyncio.to_thread(_signal_all, late, signal.SIGTERM)
                asked.update(pid for pid, _ in late)
            await asyncio.sleep(min(pause, max(deadline - _now(), POLL_S[0])))
            pause = min(pause * 1.5, POLL_S[1])
        return outcome

    def _forget(self, environment: Environment) -> bool:
        """The run file is gone; False when a process still holds the lock: one that is being started, or escaped."""
        record = self._site.file(environment, "json")
        try:
            with self._lock_path(environment).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                record.unlink(missing_ok=True)
        except FileNotFoundError:  # no launcher was ever here
            record.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return True

    def _status(self, environment: Environment) -> RuntimeStatus:
        try:
            run = self._read(environment)
        except RuntimeFailed as error:
            return RuntimeStatus(RunState.UNKNOWN, error.message)
        if run is None:
            return RuntimeStatus(RunState.STOPPED, f"nothing was started in {environment}")
        if alive(run):
            return RuntimeStatus(RunState.RUNNING, f"pid {run.pid} runs version {run.version}", run.version, run.token, run.pid)
        if run.boot_id != boot_id():
            return RuntimeStatus(RunState.STOPPED, f"version {run.version} ended when the host restarted", run.version, run.token)
        last = log_file.tail_of(self._site.file(environment, "log"), 1)
        said = f"; its last line: {last[0][:200]}" if last else ""
        return RuntimeStatus(RunState.STOPPED, f"version {run.version} (pid {run.pid}) ended by itself{said}", run.version, run.token)

    def _prove_listener(self, environment: Environment) -> ListenerProof:
        endpoint = self._site.endpoints[environment][0]
        try:
            owners = listeners(endpoint)
        except (psutil.Error, OSError) as error:
            return ListenerProof(Ownership.UNKNOWN, f"this user may not see who listens on {endpoint.authority}: {error}")
        return prove(endpoint, owners, self._members(environment))

    def _members(self, environment: Environment) -> dict[int, int]:
        return members(self._read(environment), self._site.mark(environment), self._lock_path(environment))

    def _read(self, environment: Environment) -> Run | None:
        return read_run(self._site.file(environment, "json"))

    def _is_of_another(self, environment: Environment, token: str) -> bool:
        return _differs(self._read(environment), token)

    def _lock_path(self, environment: Environment) -> Path:
        return self._site.folder.resolve() / f"{environment}.lock"

    def _held(self, environment: Environment) -> RuntimeFailed:
        path = self._lock_path(environment)
        return RuntimeFailed(f"a process that left the release of {environment} still holds {path}", next_command=f"fuser -v {path}")


def _differs(run: Run | None, token: str) -> bool:
    """What runs was started with another token than the one that is meant."""
    return bool(token and run is not None and run.token != token)


def _ask_to_end(run: Run | None, running: dict[int, int]) -> None:
    """Every process was asked to end: the group at once, so that no child born meanwhile is missed, then the others."""
    others = running
    if run is not None and alive(run):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGTERM)
            os.killpg(run.pid, signal.SIGCONT)  # one that is stopped would never hear the first
        others = {pid: started for pid, started in running.items() if _group(pid) != run.pid}
    _signal_all(others.items(), signal.SIGTERM)


def _signal_all(processes: Iterable[tuple[int, int]], number: signal.Signals) -> None:
    for pid, started in processes:
        try:
            send(pid, started, number)
        except PermissionError as error:
            raise RuntimeFailed(f"pid {pid} of the release belongs to another user and cannot be ended") from error


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _named(running: Iterable[int]) -> str:
    return "pid " + ", ".join(str(pid) for pid in sorted(running))


def _now() -> float:
    return asyncio.get_running_loop().time()
