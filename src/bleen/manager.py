"""BlueGreenDeploymentManager: checks the state, submits a command, answers. The one object that users hold.

It drives nothing itself: deployments run in the controller, a process of its own that outlives this one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bleen.config.digest import release_digest
from bleen.config.load import Loaded
from bleen.deployment.detect import Detection, detect
from bleen.deployment.plan import DeployRequest, plan, protections_off
from bleen.deployment.ports import Ports
from bleen.deployment.rollback import order_rollback
from bleen.deployment.submit import active_already, adopt, places, submit
from bleen.errors import AttentionNeeded, Refused, WrongState
from bleen.model.deployment import ACTIVE, CommandKind, Deployment, DeploymentStatus, PlannedStep
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.records.history import Record, read_history
from bleen.records.status import StatusReport, read_status
from bleen.store.reader import Reader
from bleen.store.store import Store
from bleen.store.writer import Who
from bleen.traffic.router import Finding

POLL_S = 0.1
START_AGAIN_S = 2.0
CONTROLLER_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class DeploymentResult:
    """How a deployment ended."""

    deployment: str  # its id; "" when nothing had to be done
    version: str
    outcome: str  # "promoted", "rolled_back", "frozen", "failed", "refused", or "already_active"
    reason: str
    cause: str = ""  # of a rollback
    duration_s: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)  # requests, failed_requests, detected_after_s, restored_after_s, ...

    @property
    def exit_code(self) -> int:
        """0 done; 1 failed and rolled back; 3 a person is needed; 4 refused."""
        return 0 if self.outcome == "already_active" else DeploymentStatus(self.outcome).exit_code

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """What a deployment would do."""

    candidate: Environment
    baseline: Environment | None
    steps: tuple[PlannedStep, ...]
    protections_off: list[str]


class BlueGreenDeploymentManager:
    """Deploys one service blue-green. Made by `bleen.open_manager`, used as an asynchronous context manager.

    Every method raises a `bleen.errors.BleenError`: UsageError for a wrong call, Refused (and its kinds) when the state
    does not allow it, StoreUnavailable when the store does not answer. Times are seconds, times of day seconds since the epoch.
    """

    def __init__(self, loaded: Loaded, store: Store, ports: Ports, who: Who, start_controller: Callable[[], None]) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self._store = store
        self._ports = ports
        self._who = who
        self._start_controller = start_controller

    # -- what is -------------------------------------------------------------------------------------------------

    async def initialize(self) -> Detection:
        """The active environment as the proxy and the health checks tell it, and whether the record agrees."""
        route = await self._store.run(lambda: self._read(Reader.route))
        reading = await self._ports.proxy.router.read()
        probes = {environment: await self._ports.ask(environment) for environment in Environment}
        return detect(route, reading, probes)

    async def status(self) -> StatusReport:
        """Where the service stands."""
        return await asyncio.to_thread(read_status, self.loaded.state_dir, self.config.service)

    async def watch(self, interval_s: float = 0.2) -> AsyncIterator[StatusReport]:
        """The status again and again, until the caller stops."""
        while True:
            yield await self.status()
            await asyncio.sleep(interval_s)

    async def history(self, limit: int = 20) -> list[Record]:
        """The newest deployments first, each with its events."""
        return await asyncio.to_thread(read_history, self.loaded.state_dir, self.config.service, limit)

    async def logs(self, environment: Environment, lines: int = 100) -> list[str]:
        """The last lines that the release in the environment wrote."""
        return await self._ports.runtime.logs(environment, lines)

    async def check(self) -> list[Finding]:
        """What is wrong before anything moves; changes nothing."""
        return await self._ports.proxy.installer.check()

    async def plan(self, request: DeployRequest) -> PlanPreview:
        """What `deploy` would do now."""
        where = await self._store.run(lambda: self._read(places))
        first = where.baseline is None
        steps = plan(self.config, request, first=first)
        return PlanPreview(where.candidate, where.baseline, steps, protections_off(self.config, request, first=first))

    # -- what is asked for ---------------------------------------------------------------------------------------

    async def deploy(
        self,
        version: str,
        commit_hash: str = "",
        branch: str = "",
        *,
        skip_tests: bool = False,
        skip_migration: bool = False,
        skip_cache_warming: bool = False,
        skip_load_testing: bool = False,
        redeploy: bool = False,
    ) -> DeploymentResult:
        """The release is active and has baked, or users are on the old one again: the result tells which.

        Cancelling the wait leaves the deployment running in its controller.
        """
        release = Release(version, commit_hash, branch)
        request = DeployRequest(release, skip_tests, skip_migration, skip_cache_warming, skip_load_testing, redeploy)
        submitted = await self.submit(request)
        return submitted if isinstance(submitted, DeploymentResult) else await self.wait(submitted.id)

    async def submit(self, request: DeployRequest) -> Deployment | DeploymentResult:
        """The deployment is in the store and a controller runs; or the result says that the release is active already.

        Raises Refused when deployments are switched off or the version is known with another digest, DeploymentActive
        when another deployment is under way.
        """
        if not self.config.deployment.enabled:
            origin = self.loaded.origins.get("deployment.enabled", "bleen.yaml")
            raise Refused(f"deployments are switched off (deployment.enabled is false, from {origin})", next_command="bleen config")
        release = replace(request.release, digest=release_digest(self.config, request.release.commit_hash))

        def insert() -> Deployment | DeploymentResult:
            with self._store.write() as writer:
                why = "" if request.redeploy else active_already(writer, release)
                if why:
                    return DeploymentResult("", release.version, "already_active", why)
                return submit(writer, self.config, replace(request, release=release), self._who)

        submitted = await self._store.run(insert)
        self._start_controller()
        return submitted

    async def wait(self, deployment_id: str, on_report: Callable[[StatusReport], None] | None = None) -> DeploymentResult:
        """The deployment has ended or is frozen. A controller that went away meanwhile is started again.

        Raises AttentionNeeded when none comes to life; the deployment is then still in the store.
        """
        last_started = last_alive = time.monotonic()
        while True:
            report = await self.status()
            if on_report is not None:
                on_report(report)
            deployment = await self._deployment(deployment_id)
            if not deployment.status.active or deployment.status is DeploymentStatus.FROZEN:
                return _result(deployment)
            if report.controller["alive"]:
                last_alive = time.monotonic()
            elif time.monotonic() - last_alive > CONTROLLER_LIMIT_S:
                said = f"no controller came to life within {CONTROLLER_LIMIT_S:.0f} s; deployment {deployment_id} waits for one"
                raise AttentionNeeded(said, next_command="bleen logs --controller")
            elif time.monotonic() - last_started > START_AGAIN_S:
                self._start_controller()
                last_started = time.monotonic()
            await asyncio.sleep(POLL_S)

    async def adopt(self, environment: Environment, version: str, commit_hash: str = "", branch: str = "") -> Deployment:
        """A service that runs already is the active release; it was not touched.

        Raises WrongState when a release is active already, Refused when the environment does not answer its health check.
        """
        probe = await self._ports.ask(environment)
        if not probe.ok:
            raise Refused(f"{environment.value} is not healthy: {probe.evidence}; nothing changed", next_command="bleen check")
        if probe.version and probe.version != version:
            raise Refused(f"{environment.value} says it is {probe.version}, not {version}; nothing changed")
        await self._ports.proxy.installer.install()
        release = Release(version, commit_hash, branch, release_digest(self.config, commit_hash))

        def record() -> str:
            with self._store.write() as writer:
                return adopt(writer, self.config, environment, release, self._who)

        adopted = await self._store.run(record)
        self._start_controller()
        await self._until_applied()
        return await self._deployment(adopted)

    async def pause(self, reason: str = "") -> Deployment:
        """The weights stay where they are; the watch goes on, and evidence of harm still rolls back."""
        return await self._control(CommandKind.PAUSE, "", reason, {"paused": True})

    async def resume(self, reason: str = "") -> Deployment:
        """A paused deployment goes on."""
        return await self._control(CommandKind.RESUME, "", reason, {"paused": False})

    async def promote(self, *, full: bool = False, reason: str = "") -> Deployment:
        """The present step (or the bake) ends now; with `full` the traffic goes straight to 100 %."""
        argument = "full" if full else "step"
        return await self._control(CommandKind.PROMOTE, argument, reason, {"promote": argument, "paused": False})

    async def abort(self, reason: str = "") -> DeploymentResult:
        """The active deployment was rolled back: traffic first, then the steps in reverse."""
        active = await self._store.run(lambda: self._read(Reader.active))
        if active is None:
            raise WrongState("no deployment is under way; nothing changed", next_command="bleen rollback")
        return await self._take_back(active, CommandKind.ABORT, reason)

    async def rollback(self, reason: str = "") -> DeploymentResult:
        """Users are on the previous release: of the active deployment, or of the last one while its window is open."""
        report = await self.status()
        newest: Deployment | None = await self._store.run(lambda: self._read(Reader.newest))
        if newest is None:
            raise WrongState("nothing was deployed yet; nothing changed", next_command="bleen deploy --version V")
        if newest.status not in (*ACTIVE, DeploymentStatus.PROMOTED):
            raise WrongState(f"the last deployment is {newest.status.value} already; nothing changed", next_command="bleen status")
        if not newest.status.active and not report.way_back.possible:
            raise WrongState(f"no rollback is possible: {report.way_back.evidence}; nothing changed", next_command="bleen history")
        return await self._take_back(newest, CommandKind.ROLLBACK, reason)

    async def shut_down(self, *, force: bool = False) -> None:
        """The releases that bleen started and its embedded proxy have stopped; the controller must have been stopped before.

        Refused while a deployment is active, unless forced.
        """
        active = await self._store.run(lambda: self._read(Reader.active))
        if active is not None and not force:
            raise WrongState(f"deployment {active.id} is {active.status.value}; nothing was stopped", next_command="bleen abort")
        await self._ports.proxy.installer.stop()
        residents = await self._store.run(lambda: self._read(Reader.residents))
        for environment in Environment:
            resident = residents.get(environment)
            if resident is None or not resident.adopted:
                await self._ports.runtime.stop(environment)

    async def close(self) -> None:
        """Connections are closed; whatever runs goes on."""
        await self._ports.close()
        await asyncio.to_thread(self._store.close)

    # -- inside --------------------------------------------------------------------------------------------------

    def _read(self, question: Callable[[Reader], Any]) -> Any:
        with self._store.read() as reader:
            return question(reader)

    async def _deployment(self, deployment_id: str) -> Deployment:
        found: Deployment | None = await self._store.run(lambda: self._read(lambda reader: reader.deployment(deployment_id)))
        if found is None:
            raise WrongState(f"there is no deployment {deployment_id}", next_command="bleen history")
        return found

    async def _control(self, kind: CommandKind, argument: str, reason: str, change: dict[str, Any]) -> Deployment:
        """The command is recorded and in the deployment's row. Idempotent; refused when it does not apply."""

        def write() -> Deployment:
            with self._store.write() as writer:
                active = writer.active()
                if active is None:
                    raise WrongState(f"no deployment is under way: nothing to {kind.value}", next_command="bleen status")
                if active.status is not DeploymentStatus.RUNNING:
                    raise WrongState(f"deployment {active.id} is {active.status.value}: {active.reason}", next_command="bleen watch")
                if kind is CommandKind.PROMOTE:
                    _refuse_too_early(writer, active)
                who = Who(self._who.actor, self._who.source, reason)
                writer.add_command(active.id, kind, argument, who)
                writer.set_control(active.id, **change)
                writer.add_event(f"command.{kind.value}", who, active.id, {"argument": argument} if argument else {})
                return active

        active = await self._store.run(write)
        self._start_controller()
        return await self._deployment(active.id)

    async def _take_back(self, deployment: Deployment, kind: CommandKind, reason: str) -> DeploymentResult:
        """Traffic is ordered back in one transaction, whoever drives; waits for the end."""
        await self._refuse_dead_way_back(deployment)

        def write() -> None:
            with self._store.write() as writer:
                now = writer.deployment(deployment.id)
                if now is None or (now.status is not deployment.status and not now.status.active):
                    raise WrongState(f"deployment {deployment.id} has ended meanwhile; nothing changed", next_command="bleen status")
                if now.status is DeploymentStatus.ROLLING_BACK:
                    return
                home = writer.residents().get(now.baseline) if now.baseline else None
                if not now.status.active and (home is None or not home.wanted):
                    raise WrongState("the previous release was retired meanwhile; nothing changed", next_command="bleen history")
                who = Who(self._who.actor, self._who.source, reason)
                writer.add_command(deployment.id, kind, "", who)
                writer.raise_epoch()
                order_rollback(writer, now, reason or f"{kind.value} by {self._who.actor}", "command", who)

        await self._store.run(write)
        self._start_controller()
        return await self.wait(deployment.id)

    async def _refuse_dead_way_back(self, deployment: Deployment) -> None:
        route = await self._store.run(lambda: self._read(Reader.route))
        if deployment.baseline is None or route.split.weight_of(deployment.baseline) == 100:
            return  # nobody would be moved there
        probe = await self._ports.ask(deployment.baseline)
        if not probe.ok:
            raise Refused(
                f"{deployment.baseline.value}, the way back, is not healthy: {probe.evidence}; nothing changed",
                next_command=f"bleen logs {deployment.baseline.value}",
            )

    async def _until_applied(self) -> None:
        """The proxy has confirmed the route."""
        deadline = time.monotonic() + 20
        while not (await self.status()).route_applied:
            if time.monotonic() > deadline:
                raise Refused("the controller did not confirm the route within 20 s", next_command="bleen controller status")
            await asyncio.sleep(POLL_S)


def _refuse_too_early(reader: Reader, deployment: Deployment) -> None:
    """A promotion leaves a traffic weight or the bake early; nothing before them may be left out."""
    begun = [entry.step for entry in reader.journal(deployment.id) if entry.kind == "do"]
    step = deployment.step(begun[-1]) if begun else None
    if step is None or step.kind not in ("shift", "bake"):
        at = step.name if step else "its beginning"
        raise WrongState(
            f"deployment {deployment.id} is at {at}: promote leaves a traffic weight or the bake early", next_command="bleen watch"
        )


def _result(deployment: Deployment) -> DeploymentResult:
    return DeploymentResult(
        deployment=deployment.id,
        version=deployment.release.version,
        outcome=deployment.status.value,
        reason=deployment.reason,
        cause=deployment.cause,
        duration_s=round(max(0.0, deployment.ended_at - deployment.submitted_at), 3),
        figures=deployment.outcome,
    )
