"""A service in memory for tests of the engine: the real store, the shipped fakes, a controller in this process."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bleen.config.load import Loaded
from bleen.config.schema import CheckCommand, Config
from bleen.deployment import controller as controller_module
from bleen.deployment import engine as engine_module
from bleen.deployment import rollback as rollback_module
from bleen.deployment import route as route_module
from bleen.deployment import supervisor as supervisor_module
from bleen.deployment.context import Context, Control, FencedStore
from bleen.deployment.controller import Controller
from bleen.deployment.engine import Engine
from bleen.deployment.lock import Lock
from bleen.deployment.plan import DeployRequest
from bleen.deployment.ports import CheckResult, Ports
from bleen.deployment.steps import implementation
from bleen.deployment.steps import release as release_module
from bleen.deployment.steps.step import Step
from bleen.manager import BlueGreenDeploymentManager
from bleen.model.deployment import Deployment, DeploymentStatus, Event, JournalEntry, PlannedStep
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.model.sample import ProbeKind, ProbeResult, Sample
from bleen.model.traffic import Route, TrafficSplit
from bleen.runtime.fake import FakeRuntime
from bleen.signals.signal import SampleBatch, Sink
from bleen.store.reader import Glance, Reader, Resident
from bleen.store.store import open_store
from bleen.store.writer import Who
from bleen.traffic.fake import FakeProxy
from tests.rig import until

BLUE, GREEN = Environment.BLUE, Environment.GREEN
SERVICE = "payments"
ALICE = Who("alice@host", "test")
OTHERS_HOLDER = "another controller"

_QUICK = {
    controller_module: {"GLANCE_S": 0.02, "IDLE_S": 0.1, "WAIT_S": 0.03},
    engine_module: {"CLOCK_S": 0.05},
    release_module: {"POLL_S": 0.01},
    rollback_module: {"RETRY_S": 0.02},
    route_module: {"CONFIRM_TIMEOUT_S": 0.2},
    supervisor_module: {"ROUND_S": 0.05, "ROUTE_S": 0.2, "PROBE_WAY_BACK_S": 0.05, "RETRY_RETIRE_S": 0.1},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own intervals are short; import this fixture to use it."""
    for module, values in _QUICK.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("bleen.manager.POLL_S", 0.02)


@dataclass
class Health:
    """What the environments answer: well when a release of the runtime runs there, or when `answers` names its version."""

    runtime: FakeRuntime
    down: set[Environment] = field(default_factory=set)
    answers: dict[Environment, str] = field(default_factory=dict)  # version by environment, whatever the runtime runs
    preview_down: bool = False
    asked: list[tuple[Environment, ProbeKind]] = field(default_factory=list)

    async def ask(self, environment: Environment, kind: ProbeKind = ProbeKind.HEALTH) -> ProbeResult:
        self.asked.append((environment, kind))
        run = self.runtime.runs.get(environment)
        version = self.answers.get(environment, run.release.version if run and run.alive else "")
        ok = bool(version) and environment not in self.down
        return ProbeResult(time.time(), environment, kind, ok, "200 in 1 ms" if ok else "no answer in 500 ms", 0.001, version if ok else "")

    async def ask_preview(self, environment: Environment) -> ProbeResult:
        answer = await self.ask(environment)
        return replace(answer, ok=False, evidence="503 from the preview") if self.preview_down else answer


@dataclass(frozen=True)
class ScriptedProber:
    health: Health
    environments: list[Environment]
    interval_s: float

    async def observe(self, sink: Sink) -> None:
        while True:
            for environment in self.environments:
                sink(await self.health.ask(environment))
            await asyncio.sleep(self.interval_s)


@dataclass
class ScriptedLog:
    """Reads `lines` from a place on, as the follower of a real log does."""

    lines: list[Sample]
    offset: int

    async def observe(self, sink: Sink) -> None:
        while True:
            fresh = self.lines[self.offset :]
            if fresh:
                self.offset += len(fresh)
                sink(SampleBatch(fresh))
            await asyncio.sleep(0.01)

    def place(self) -> dict[str, Any]:
        return {"offset": self.offset}


@dataclass
class Checks:
    """The user's commands: which fail, which hang, and what was run."""

    failing: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    acts: dict[str, Callable[[], None]] = field(default_factory=dict)  # what happens while a command runs
    ran: list[str] = field(default_factory=list)  # the commands' first words, in order

    async def run(self, check: CheckCommand, names: dict[str, str], undo: bool) -> CheckResult:
        del names
        argv = (check.undo or []) if undo else check.command
        self.ran.append(argv[0])
        self.acts.get(argv[0], lambda: None)()
        if argv[0] in self.hanging:
            await asyncio.Event().wait()
        passed = argv[0] not in self.failing
        return CheckResult(passed, f"{argv[0]}: exit status {0 if passed else 1}", [] if passed else ["it said why"])


class World:
    """One service: its store, its fakes, and controllers that live in this process."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder = folder
        self.state = folder / ".bleen"
        self.config = a_config(**sections)
        self.store = open_store(self.state, SERVICE)
        self.runtime = FakeRuntime()
        self.proxy = FakeProxy(folder)
        self.health = Health(self.runtime)
        self.checks = Checks()
        self.log: list[Sample] = []
        self.wired: list[Ports] = []
        self.controllers: list[tuple[Controller, asyncio.Task[int]]] = []
        self.manager = self.manager_of(self.config)

    # -- the parts -----------------------------------------------------------------------------------------------

    def wire(self, config: Config) -> Ports:
        proxy = self.proxy.roles(self.store.id, SERVICE)

        def follower(place: dict[str, Any] | None) -> ScriptedLog:
            return ScriptedLog(self.log, place["offset"] if place else len(self.log))

        ports = Ports(
            config=config,
            state_dir=self.state,
            runtime=self.runtime,
            proxy=proxy,
            ask=self.health.ask,
            ask_preview=self.health.ask_preview,
            prober=lambda environments, interval_s: ScriptedProber(self.health, environments, interval_s),
            follower=follower,
            run_check=self.checks.run,
            close=proxy.router.close,
        )
        self.wired.append(ports)
        return ports

    def manager_of(self, config: Config, start: Callable[[], None] | None = None) -> BlueGreenDeploymentManager:
        """A manager with that configuration; its controller is one of this world."""
        loaded = Loaded(config, self.folder / "bleen.yaml", self.state, {}, ())
        return BlueGreenDeploymentManager(loaded, self.store, self.wire(config), ALICE, start or self.ensure_controller)

    def ensure_controller(self) -> None:
        if not any(not task.done() for _, task in self.controllers):
            self.start_controller()

    def start_controller(self, holder: str = "", lease_s: float = 10.0) -> tuple[Controller, asyncio.Task[int]]:
        """One more controller runs in this process."""
        name = holder or f"controller-{len(self.controllers) + 1}"
        made = Controller(self.store, self.state, name, lease_s, self.wire, self.config, lambda: None)
        self.controllers.append((made, asyncio.create_task(made.run())))
        return self.controllers[-1]

    async def stop_controllers(self) -> None:
        """No controller runs; each was told to stop."""
        for made, task in self.controllers:
            made._stop.set()
            await asyncio.wait([task], timeout=10)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.controllers.clear()

    # -- what is -------------------------------------------------------------------------------------------------

    def read(self, question: Callable[[Reader], Any]) -> Any:
        with self.store.read() as reader:
            return question(reader)

    def newest(self) -> Deployment:
        found: Deployment = self.read(lambda reader: reader.history(1))[0]
        return found

    def status(self) -> DeploymentStatus:
        return self.newest().status

    def route(self) -> Route:
        found: Route = self.read(Reader.route)
        return found

    def residents(self) -> dict[Environment, Resident]:
        found: dict[Environment, Resident] = self.read(Reader.residents)
        return found

    def journal(self, deployment_id: str = "") -> list[JournalEntry]:
        wanted = deployment_id or self.newest().id
        found: list[JournalEntry] = self.read(lambda reader: reader.journal(wanted))
        return found

    def events(self, name: str = "") -> list[Event]:
        return [event for event in self.read(lambda reader: reader.events(0)) if name in ("", event.name)]

    def step(self) -> str:
        """The step that is under way; "" between steps."""
        return next((entry.step for entry in self.journal() if entry.kind == "do" and entry.state == "started"), "")

    def step_named(self, name: str) -> PlannedStep:
        found = self.newest().step(name)
        assert found is not None
        return found

    def glance(self) -> Glance:
        found: Glance = self.read(Reader.glance)
        return found

    def weights(self, environment: Environment = GREEN) -> list[int]:
        """The weights of an environment that the proxy was told, repetitions left out, oldest first."""
        told = [route.split.weight_of(environment) for route in self.proxy.routes]
        return [weight for index, weight in enumerate(told) if index == 0 or told[index - 1] != weight]

    # -- what happens --------------------------------------------------------------------------------------------

    async def stands(self, version: str = "1.0.0", environment: Environment = BLUE, *, adopted: bool = False) -> str:
        """A release holds 100 % there, as after a deployment that ended a while ago. Returns its deployment."""
        release, token = Release(version), f"d-{version}"
        deployment = a_deployment(token, release, environment)
        with self.store.write() as writer:
            writer.insert_deployment(deployment, self.config.model_dump(mode="json"))
            writer.set_status(token, DeploymentStatus.PROMOTED, reason="it was promoted a while ago")
            writer.set_resident(environment, release, token, adopted=adopted)
            writer.set_route(0, TrafficSplit.all_to(environment))
        if adopted:
            self.health.answers[environment] = version
        else:
            await self.runtime.start(release, environment, token)
        self.proxy.claim((self.store.id, SERVICE))
        self.proxy.running, self.proxy.split = True, TrafficSplit.all_to(environment)
        self.runtime.starts = 0
        self.runtime.calls.clear()
        return token

    async def submit(self, version: str = "2.0.0", **options: Any) -> Deployment:
        """A deployment is in the store; nobody drives it yet."""
        submitted = await self.manager_of(self.config, start=lambda: None).submit(DeployRequest(Release(version), **options))
        assert isinstance(submitted, Deployment)
        return submitted

    async def submit_with(self, change: Callable[[Deployment], Deployment]) -> Deployment:
        """A deployment is in the store with what `change` made of it: a plan of another version, for instance."""
        made = await self.submit()
        changed = change(made)
        with contextlib.closing(sqlite3.connect(self.state / "store.db")) as connection, connection:
            import json

            connection.execute("UPDATE deployment SET plan = ? WHERE id = ?", (json.dumps([s.to_dict() for s in changed.plan]), made.id))
        return changed

    async def deploy(self, version: str = "2.0.0", **options: Any) -> Deployment:
        """The deployment was driven to its end (or until it froze) by a controller."""
        await self.submit(version, **options)
        self.ensure_controller()
        return await self.ended()

    async def ended(self, limit_s: float = 20.0) -> Deployment:
        """The newest deployment is not active any more, or is frozen."""

        def there() -> bool:
            self.fail_with_dead_controllers()
            return not self.status().active or self.status() is DeploymentStatus.FROZEN

        await until(there, limit_s, "the deployment has ended")
        return self.newest()

    def fail_with_dead_controllers(self) -> None:
        """Raises what a controller died of: a process that dies so would be started again and die again."""
        for _, task in self.controllers:
            if task.done() and not task.cancelled():
                task.result()

    async def reaches(self, step: str, limit_s: float = 20.0) -> None:
        """That step is under way."""
        await until(lambda: self.step() == step, limit_s, f"step {step} is under way")

    async def at_weight(self, weight_pct: int, environment: Environment = GREEN) -> None:
        """The proxy holds that weight and the store knows it."""

        def there() -> bool:
            noted = any(entry.result.get("weight_pct") == weight_pct for entry in self.journal() if entry.kind == "do")
            return noted and self.proxy.split.weight_of(environment) == weight_pct

        await until(there, what=f"{environment} holds {weight_pct}%")

    def requests(self, environment: Environment, count: int, status: int = 200) -> None:
        """Users sent so many requests that the environment answered so."""
        now = time.time()
        self.log.extend(Sample(now, environment, status, status, 0.01, 0.01, "GET", "/") for _ in range(count))

    @contextlib.asynccontextmanager
    async def users(self, failing: Environment | None = None) -> AsyncIterator[None]:
        """Users send requests by the split that the proxy holds; those to `failing` get 500."""

        async def send() -> None:
            while True:
                for bucket in range(0, 100, 5):
                    chosen = self.proxy.serve(bucket)
                    if chosen is not None:
                        self.requests(chosen, 1, 500 if chosen is failing else 200)
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    @contextlib.contextmanager
    def locked_store(self) -> Iterator[None]:
        """Nobody can write to the store."""
        blocker = sqlite3.connect(self.state / "store.db", isolation_level=None, timeout=5)
        blocker.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()

    def hold_lock(self) -> Lock:
        """The lock file beside the store is held, as by a controller of another process."""
        lock = Lock(self.state / "controller.lock")
        assert lock.acquire()
        return lock

    def take_over(self, holder: str = OTHERS_HOLDER) -> FencedStore:
        """The store as another holder has it, who took the lease from whoever had it."""
        return FencedStore(self.store, self.store.take_lease(holder, 10, holder_is_gone=True))

    async def engine(self, store: FencedStore) -> Engine:
        """An engine under that lease, the proxy fenced for it."""
        ports = self.wire(self.config)
        await ports.proxy.router.fence(store.lease.epoch)
        return Engine(ports, store, Control())


@dataclass
class HeldStep:
    """A step of the shipped kind that stands still at its first attempt, before or after it has acted."""

    name: str
    when: str  # "before" or "after"
    acting: Step | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, implemented: Step | None) -> Step | None:
        return implemented and replace(self, acting=implemented)

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        assert self.acting is not None
        return self.acting.limit_s(context, step)

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        assert self.acting is not None
        holding = step.name == self.name and not self.reached.is_set()
        result = {} if holding and self.when == "before" else await self.acting.do(context, step)
        if holding:
            self.reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return result

    async def undo(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        assert self.acting is not None
        return await self.acting.undo(context, step)


def hold_step(monkeypatch: pytest.MonkeyPatch, name: str, when: str) -> HeldStep:
    """The engine's next attempt at that step stands still until it is cancelled; later attempts do not."""
    held = HeldStep(name, when)
    monkeypatch.setattr(engine_module, "implementation", lambda kind: held.of(implementation(kind)))
    return held


@contextlib.asynccontextmanager
async def world_in(folder: Path, **sections: dict[str, Any]) -> AsyncIterator[World]:
    """A world that leaves nothing behind."""
    world = World(folder, **sections)
    try:
        yield world
    finally:
        await world.stop_controllers()
        await asyncio.to_thread(world.store.close)


def a_config(**sections: dict[str, Any]) -> Config:
    """A configuration with durations of milliseconds; `sections` are merged into it, section by section."""
    body: dict[str, Any] = {
        "service": SERVICE,
        "environments": {"blue": {"endpoints": ["http://127.0.0.1:9001"]}, "green": {"endpoints": ["http://127.0.0.1:9002"]}},
        "health": {"timeout": "5s", "interval": "10ms"},
        "runtime": {"type": "process", "command": ["serve"]},
        "deployment": {"step": {"dwell": "1ms", "min_requests": 0}, "bake": "1ms", "rollback_window": "1h"},
    }
    for name, values in sections.items():
        body[name] = body.get(name, {}) | values
    return Config.model_validate(body)


def a_deployment(token: str, release: Release, candidate: Environment) -> Deployment:
    return Deployment(
        id=token,
        service=SERVICE,
        release=release,
        candidate=candidate,
        baseline=None,
        baseline_release=None,
        plan=(),
        status=DeploymentStatus.RUNNING,
        paused=False,
        promote="",
        reason="submitted",
        cause="",
        submitted_by=ALICE.actor,
        submitted_at=0.0,
        ended_at=0.0,
        active_s=0.0,
        options={},
        outcome={},
    )
