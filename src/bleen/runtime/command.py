"""Releases that the user's own commands start and stop: systemd, ssh, anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bleen.config.adapters import CommandRuntime
from bleen.errors import RuntimeFailed
from bleen.model.environment import Environment
from bleen.model.release import Release, digest_of
from bleen.runtime.helper import HelperCommand, HelperResult, run_helper
from bleen.runtime.log_file import rotate, tail_of
from bleen.runtime.replacements import Template, fill, templates
from bleen.runtime.run_file import Run, read_run, write_run
from bleen.runtime.runtime import ListenerProof, Ownership, RunState, Runtime, RuntimeStatus, StopOutcome
from bleen.runtime.site import RuntimeSite, Secrets

RUNNING, STOPPED = 0, 3  # exit status of the status command, as systemctl
LINES_SHOWN = 10
POLL_S = 0.2


def command_runtime(options: CommandRuntime, site: RuntimeSite, secrets: Secrets) -> Runtime:
    """A runtime of the user's commands; raises ConfigurationError when one holds a name that is not known."""
    return CommandAdapter(options, site, secrets)


class CommandAdapter:
    """The `command` runtime. The run file keeps what was started; whether it runs, only the status command knows."""

    def __init__(self, options: CommandRuntime, site: RuntimeSite, secrets: Secrets) -> None:
        self._options = options
        self._site = site
        self._secrets = secrets
        known = site.known_names()
        self._start = templates(options.start, "runtime.start", known)
        self._stop = templates(options.stop, "runtime.stop", known)
        self._status = templates(options.status, "runtime.status", known)
        self._turns = {environment: asyncio.Lock() for environment in Environment}

    async def start(self, release: Release, environment: Environment, token: str) -> None:
        async with self._turns[environment]:
            self._site.create_folder()
            run = self._read(environment)
            state, evidence = await self._ask(environment, release if run is None else _release(run))
            if state is RunState.UNKNOWN:
                raise RuntimeFailed(f"cannot tell whether {environment} runs already: {evidence}", next_command="bleen status")
            if state is RunState.RUNNING:
                if run is not None and run.token == token:
                    return
                what = f"version {run.version} (started as {run.token!r})" if run else "something that bleen did not start"
                raise RuntimeFailed(f"{environment} already runs {what}", next_command="bleen status")
            # Before the command: a start that was cut off must find what it may have started.
            argv = fill(self._start, self._site.values(release, environment))
            write_run(self._path(environment), Run(token, release.version, release.commit_hash, release.branch, digest_of(argv)))
            await self._demand("start", self._start, release, environment)

    async def stop(self, environment: Environment, token: str = "") -> StopOutcome:
        async with self._turns[environment]:
            run = self._read(environment)
            if token and run is not None and run.token != token:
                return StopOutcome.NOT_RUNNING
            release = _release(run)
            state, _ = await self._ask(environment, release)
            if state is not RunState.STOPPED:
                await self._demand("stop", self._stop, release, environment)
                await self._until_it_stopped(environment, release)
            self._path(environment).unlink(missing_ok=True)
            return StopOutcome.NOT_RUNNING if state is RunState.STOPPED else StopOutcome.DRAINED

    async def status(self, environment: Environment) -> RuntimeStatus:
        try:
            run = self._read(environment)
            state, evidence = await self._ask(environment, _release(run))
        except RuntimeFailed as error:
            return RuntimeStatus(RunState.UNKNOWN, error.message)
        return RuntimeStatus(state, evidence, run.version if run else "", run.token if run else "")

    async def prove_listener(self, environment: Environment) -> ListenerProof:
        return ListenerProof(Ownership.UNKNOWN, "what a command started cannot be told from others; the answer must name its version")

    def restarts_after_crash(self) -> bool:
        return False

    async def logs(self, environment: Environment, lines: int) -> list[str]:
        """What the commands printed; where the service itself writes is not known here."""
        return await asyncio.to_thread(tail_of, self._site.file(environment, "log"), lines)

    async def _ask(self, environment: Environment, release: Release) -> tuple[RunState, str]:
        result = await self._run(self._status, release, environment, log=None)
        state = {RUNNING: RunState.RUNNING, STOPPED: RunState.STOPPED}.get(result.exit_status, RunState.UNKNOWN)
        if result.timed_out or state is RunState.UNKNOWN:
            return RunState.UNKNOWN, _evidence("status", result)
        return state, f"the status command says {state}"

    async def _until_it_stopped(self, environment: Environment, release: Release) -> None:
        """The status command no longer says running."""
        deadline = asyncio.get_running_loop().time() + self._options.timeout.total_seconds()
        while (await self._ask(environment, release))[0] is RunState.RUNNING:
            if asyncio.get_running_loop().time() > deadline:
                raise RuntimeFailed(f"the stop command for {environment} succeeded, but its status command still says running")
            await asyncio.sleep(POLL_S)

    async def _demand(self, name: str, command: Sequence[Template], release: Release, environment: Environment) -> None:
        log = self._site.file(environment, "log")  # a service that the command left behind may go on writing there
        await asyncio.to_thread(rotate, log)
        result = await self._run(command, release, environment, log)
        if not result.succeeded:
            raise RuntimeFailed(f"{environment}: {_evidence(name, result)}", next_command="bleen status")

    async def _run(self, command: Sequence[Template], release: Release, environment: Environment, log: Path | None) -> HelperResult:
        configured = self._options.variables
        variables = await asyncio.to_thread(self._site.variables, release, environment, configured, self._secrets)
        argv = fill(command, self._site.values(release, environment))
        result = await run_helper(HelperCommand(argv, self._site.config_dir, variables, self._options.timeout.total_seconds(), log))
        secret = [variables[name] for name, value in configured.items() if variables[name] not in ("", value)]
        return replace(result, last_lines=[_without(secret, line) for line in result.last_lines])

    def _path(self, environment: Environment) -> Path:
        return self._site.file(environment, "json")

    def _read(self, environment: Environment) -> Run | None:
        return read_run(self._path(environment))


def _release(run: Run | None) -> Release:
    """What the stop and status commands are told of what was started."""
    return Release(run.version, run.commit_hash, run.branch) if run else Release("unknown")


def _evidence(name: str, result: HelperResult) -> str:
    end = f"was killed after {result.took_s:.1f} s" if result.timed_out else f"ended with exit status {result.exit_status}"
    return "\n    ".join([f"the {name} command {end}", *result.last_lines[-LINES_SHOWN:]])


def _without(secrets: Sequence[str], line: str) -> str:
    for secret in secrets:
        line = line.replace(secret, "***")
    return line
