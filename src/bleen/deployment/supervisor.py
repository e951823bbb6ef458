"""Between and beside deployments: releases kept up, the proxy and its route held, the way back probed, old environments retired."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from bleen.deployment.context import CONTROLLER, FencedStore
from bleen.deployment.ports import Ports
from bleen.deployment.route import hold_route
from bleen.errors import BleenError, Fenced, StoreUnavailable
from bleen.model.deployment import Deployment
from bleen.model.environment import Environment
from bleen.runtime.runtime import RunState
from bleen.store.live import write_live
from bleen.store.reader import Resident
from bleen.store.writer import Writer

ROUND_S = 0.25
ROUTE_S = 1.0  # a drifted route is put right within this time
PROBE_WAY_BACK_S = 2.0
RETRY_RETIRE_S = 5.0
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0  # a release that lived this long after a restart begins with no backoff again
logger = structlog.get_logger()


@dataclass(slots=True)
class _Restarts:
    """When a release may be started again after it ended by itself."""

    count: int = 0
    not_before: float = 0.0
    last: float = 0.0

    def next(self, now: float) -> None:
        self.count = 1 if now - self.last > STEADY_S else self.count + 1
        self.last = now
        self.not_before = now + min(BACKOFF_MAX_S, 0.25 * 2 ** (self.count - 1))


@dataclass(slots=True)
class Supervisor:
    """Holds what the store says should be, for as long as the lease is ours."""

    store: FencedStore
    ports: Callable[[], Ports]  # of the newest deployment
    ports_of: Callable[[str], Ports | None]  # of the deployment that a release was started by
    _restarts: dict[Environment, _Restarts] = field(default_factory=dict)
    _way_back_ok: dict[Environment, bool] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)
    _unapplied: int = 0  # revision of the route that no proxy had confirmed when we last looked

    async def run(self) -> None:
        """Never ends by itself. Raises errors.Fenced and StoreUnavailable."""
        while True:
            active, residents = await self.store.read(lambda reader: (reader.active(), reader.residents()))
            await self._guarded("proxy", self._hold_proxy(active))
            for resident in residents.values():
                await self._guarded(f"{resident.environment.value} release", self._hold_release(resident, active))
            if active is None:
                await self._guarded("way back", self._probe_way_back(residents))
                for resident in residents.values():
                    await self._guarded(f"{resident.environment.value} retirement", self._retire(resident))
            await asyncio.sleep(ROUND_S)

    async def _guarded(self, subject: str, work: Awaitable[None]) -> None:
        """One duty that fails does not keep the others from being done."""
        try:
            await work
        except (Fenced, StoreUnavailable):
            raise
        except BleenError as error:
            if self._is_due(f"log {subject}", 10.0):
                logger.warning("supervisor.failed", subject=subject, evidence=error.message)

    def _is_due(self, duty: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(duty, 0.0):
            return False
        self._due[duty] = now + every_s
        return True

    async def _hold_proxy(self, active: Deployment | None) -> None:
        """The embedded proxy runs, and what it holds is the route."""
        proxy = self.ports().proxy
        if await proxy.installer.ensure_running():
            await self.store.event("proxy.started")
        if not self._is_due("route", ROUTE_S):
            return
        route = await self.store.read(lambda reader: reader.route())
        if route.revision == 0:
            return
        reading = await proxy.router.read()
        now_wanted, applied = await self.store.read(lambda reader: (reader.route(), reader.is_applied(route)))
        if now_wanted.revision != route.revision or (applied and reading.confirms(route.split)):
            return
        if not applied and self._unapplied != route.revision:
            self._unapplied = route.revision  # whoever wrote it is on the way to it; one who died on that way is not back next time
            return
        if not reading.confirms(route.split):
            logger.warning("traffic.drifted", wanted=str(route.split), evidence=reading.evidence)
        await hold_route(self.ports(), self.store, route, active.id if active else "")

    async def _hold_release(self, resident: Resident, active: Deployment | None) -> None:
        """A release that should run runs; one that should not, does not."""
        ports = self.ports_of(resident.deployment)
        if ports is None or resident.adopted or not ports.runtime.restarts_after_crash():
            return
        if active is not None and resident.environment is active.candidate:
            return  # the deployment itself starts and stops its candidate, and judges its end
        status = await ports.runtime.status(resident.environment)
        if not resident.wanted:
            if status.state is RunState.RUNNING and status.token == resident.deployment:
                outcome = await ports.runtime.stop(resident.environment, resident.deployment)
                await self.store.event("release.stopped", body={"environment": resident.environment.value, "outcome": outcome.value})
            return
        restarts = self._restarts.setdefault(resident.environment, _Restarts())
        if status.state is not RunState.STOPPED or time.monotonic() < restarts.not_before:
            return
        restarts.next(time.monotonic())
        body = {"environment": resident.environment.value, "version": resident.release.version, "evidence": status.evidence}
        await self.store.event("release.restarted", body=body | {"times": restarts.count})
        await ports.runtime.start(resident.release, resident.environment, resident.deployment)

    async def _probe_way_back(self, residents: dict[Environment, Resident]) -> None:
        """People are told when the release that a rollback would return to falls ill, and when it is well again."""
        if not self._is_due("way back", PROBE_WAY_BACK_S):
            return
        route = await self.store.read(lambda reader: reader.route())
        active = route.split.holder()
        home = residents.get(active.other) if active else None
        live: dict[str, object] = {}
        if home is not None and home.wanted:
            probe = await self.ports().ask(home.environment)
            live = {"way_back": {"ok": probe.ok, "environment": home.environment.value, "evidence": probe.evidence}}
            if self._way_back_ok.get(home.environment, True) != probe.ok:
                name = "way_back.healthy" if probe.ok else "way_back.unhealthy"
                body = {"environment": home.environment.value, "evidence": probe.evidence}
                await self.store.event(name, home.deployment, body)
            self._way_back_ok[home.environment] = probe.ok
        write_live(self.ports().state_dir, live)
        proxy, limit = self.ports().proxy, self.ports().config.controller.log_lines_max_mb
        await proxy.access_log.rotate(limit << 20)

    async def _retire(self, resident: Resident) -> None:
        """An environment whose rollback window is over has stopped, after the proxy confirmed that nobody is sent there."""
        now = await self.store.read(lambda reader: reader.now())
        if not resident.retire_at or resident.retire_at > now or not self._is_due("retire", RETRY_RETIRE_S):
            return
        ports = self.ports_of(resident.deployment) or self.ports()
        reading = await self.ports().proxy.router.read()
        other = resident.environment.other
        if reading.split.holder() is not other or not reading.confirms(reading.split):
            await self.store.event("environment.kept", resident.deployment, {"evidence": reading.evidence})
            return
        # State first: a rollback that is ordered from here on is refused, one that came before keeps the environment.
        if not await self.store.write(lambda writer: writer.begin_retirement(resident.environment)):
            return
        said = "left alone: it was adopted, not started by bleen"
        if not resident.adopted:
            said = (await ports.runtime.stop(resident.environment, resident.deployment)).value

        def record(writer: Writer) -> None:
            writer.clear_resident(resident.environment)
            body = {"environment": resident.environment.value, "version": resident.release.version, "outcome": said}
            writer.add_event("environment.retired", CONTROLLER, resident.deployment, body)

        await self.store.write(record)
