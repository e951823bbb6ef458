"""A runtime in memory, with faults that a test can switch on."""

from __future__ import annotations

from dataclasses import dataclass, field

from bleen.errors import RuntimeFailed
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.runtime.runtime import ListenerProof, Ownership, RunState, RuntimeStatus, StopOutcome


@dataclass(frozen=True, slots=True)
class FakeRun:
    release: Release
    token: str
    pid: int
    alive: bool = True


@dataclass(slots=True)
class FakeRuntime:
    """Keeps what was started in `runs` and every call in `calls`, as (verb, environment)."""

    fails_to_start: set[Environment] = field(default_factory=set)
    fails_to_stop: set[Environment] = field(default_factory=set)
    crashes_at_start: set[Environment] = field(default_factory=set)  # starts, and has ended before anybody looks
    ignores_the_polite_signal: set[Environment] = field(default_factory=set)
    foreign_listener: set[Environment] = field(default_factory=set)
    never_listens: set[Environment] = field(default_factory=set)
    cannot_tell: set[Environment] = field(default_factory=set)
    restarts: bool = True
    runs: dict[Environment, FakeRun] = field(default_factory=dict)
    calls: list[tuple[str, Environment]] = field(default_factory=list)
    starts: int = 0  # processes that were started, as opposed to calls of `start`

    async def start(self, release: Release, environment: Environment, token: str) -> None:
        self.calls.append(("start", environment))
        run = self.runs.get(environment)
        if run is not None and run.alive:
            if run.token == token:
                return
            what = f"version {run.release.version} (started as {run.token!r})"
            raise RuntimeFailed(f"{environment} already runs {what}: pid {run.pid}", next_command="bleen status")
        if environment in self.fails_to_start:
            raise RuntimeFailed(f"{release.version} could not be started in {environment}: told to fail", next_command="bleen check")
        self.starts += 1
        self.runs[environment] = FakeRun(release, token, 1000 + self.starts, alive=environment not in self.crashes_at_start)

    async def stop(self, environment: Environment, token: str = "") -> StopOutcome:
        self.calls.append(("stop", environment))
        if token and environment in self.runs and self.runs[environment].token != token:
            return StopOutcome.NOT_RUNNING
        if environment in self.fails_to_stop:
            raise RuntimeFailed(f"{environment} could not be stopped: told to fail")
        run = self.runs.pop(environment, None)
        if run is None or not run.alive:
            return StopOutcome.NOT_RUNNING
        return StopOutcome.KILLED if environment in self.ignores_the_polite_signal else StopOutcome.DRAINED

    async def status(self, environment: Environment) -> RuntimeStatus:
        self.calls.append(("status", environment))
        run = self.runs.get(environment)
        if environment in self.cannot_tell:
            return RuntimeStatus(RunState.UNKNOWN, "told not to know")
        if run is None:
            return RuntimeStatus(RunState.STOPPED, f"nothing was started in {environment}")
        state = RunState.RUNNING if run.alive else RunState.STOPPED
        return RuntimeStatus(state, f"version {run.release.version} {state}", run.release.version, run.token, run.pid if run.alive else 0)

    async def prove_listener(self, environment: Environment) -> ListenerProof:
        self.calls.append(("prove_listener", environment))
        if environment in self.cannot_tell:
            return ListenerProof(Ownership.UNKNOWN, "told not to know")
        if environment in self.foreign_listener:
            return ListenerProof(Ownership.FOREIGN, f"the endpoint of {environment} belongs to pid 1 (stranger)")
        run = self.runs.get(environment)
        if run is None or not run.alive or environment in self.never_listens:
            return ListenerProof(Ownership.NOBODY, f"nothing listens on the endpoint of {environment}")
        return ListenerProof(Ownership.OURS, f"the endpoint of {environment} belongs to pid {run.pid}")

    def restarts_after_crash(self) -> bool:
        return self.restarts

    async def logs(self, environment: Environment, lines: int) -> list[str]:
        run = self.runs.get(environment)
        return [f"version {run.release.version} started"][-lines:] if run is not None and lines > 0 else []

    def crash(self, environment: Environment) -> None:
        """What runs there has ended by itself."""
        run = self.runs[environment]
        self.runs[environment] = FakeRun(run.release, run.token, run.pid, alive=False)
