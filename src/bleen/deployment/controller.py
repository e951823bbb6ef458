"""The controller: takes the lease, fences the proxy, supervises, drives deployments; killed at any point, the next one goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from bleen.config.schema import Config
from bleen.deployment.context import Control, FencedStore
from bleen.deployment.engine import Engine, first_to_end, refuse
from bleen.deployment.lock import Lock
from bleen.deployment.ports import Ports
from bleen.deployment.route import hold_route, put_route
from bleen.deployment.supervisor import Supervisor
from bleen.errors import BleenError, Fenced, LeaseHeld, RouterUnavailable, StoreMismatch, StoreUnavailable
from bleen.model.deployment import DeploymentStatus, Lease
from bleen.store.store import Store
from bleen.store.writer import Writer

GLANCE_S = 0.04
IDLE_S = 1.0
WAIT_S = 0.3
FOREIGN_WAIT_S = 5.0  # a proxy folder of another store changes hands by a person's work
OVERTAKEN = 5  # exit status: another controller drives; the guardian must not start this one again
logger = structlog.get_logger()


@dataclass(slots=True)
class Controller:
    """Drives one service from one state folder."""

    store: Store
    state_dir: Path
    holder: str
    lease_s: float
    wire: Callable[[Config], Ports]
    config: Config  # of the file, until a deployment has pinned its own
    keep_guardian: Callable[[], None]
    _ports: dict[str, Ports] = field(default_factory=dict)
    _newest: str = ""
    _freed: bool = False  # the lock file came to us free, and no lease was taken since: its last holder is dead
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> int:
        """Returns an exit status: 0 when it was told to stop, OVERTAKEN when another controller holds the lease."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        lock = Lock(self.state_dir / "controller.lock")
        lease: Lease | None = None
        try:
            while not self._stop.is_set():
                try:
                    lease = await self._take(lock)
                    if lease is None:
                        break
                    await self._term(lease, lock)
                except Fenced as error:
                    logger.info("lease.lost", reason=error.message)
                    if await self._overtaken():
                        return OVERTAKEN
                except StoreUnavailable as error:
                    logger.warning("store.unavailable", reason=error.message)
                    await self._pause(WAIT_S)
                    if lease is not None and await self._overtaken():  # stopped for longer than the lease, or without a store
                        return OVERTAKEN
                except (BleenError, OSError) as error:
                    logger.warning("controller.retried", reason=str(error), kind=type(error).__name__)
                    await self._pause(FOREIGN_WAIT_S if isinstance(error, StoreMismatch) else WAIT_S)
        finally:
            for ports in self._ports.values():
                await ports.close()
            lock.close()
        return 0

    async def _take(self, lock: Lock) -> Lease | None:
        """The lease is ours: at once where the lock file is free, else when the holder's has expired. None when told to stop."""
        while not self._stop.is_set():
            self._freed = lock.acquire() or self._freed
            try:
                lease = await self.store.run(lambda: self.store.take_lease(self.holder, self.lease_s, holder_is_gone=self._freed))
            except LeaseHeld:
                await self._pause(WAIT_S)
                continue
            self._freed = False
            logger.info("lease.taken", epoch=lease.epoch, holder=self.holder)
            return lease
        return None

    async def _overtaken(self) -> bool:
        """Another controller holds the lease; one that was fenced by a command takes it again."""

        def holder() -> str:
            with self.store.read() as reader:
                return reader.glance().holder

        try:
            return await self.store.run(holder) not in ("", self.holder)
        except StoreUnavailable:
            return False  # taking the lease will tell

    async def _term(self, lease: Lease, lock: Lock) -> None:
        """Everything that is done under one lease; ends with errors.Fenced, StoreUnavailable, or when told to stop."""
        store, control = FencedStore(self.store, lease), Control()
        try:
            await self._use_newest(store)
            await self._hold_at_once(store)
            supervisor = Supervisor(store, lambda: self._ports[self._newest], self._ports.get)
            await first_to_end(self._stop_asked(), self._keep(store, control, lock), supervisor.run(), self._drive(store, control))
        except StoreMismatch as error:
            await store.write(partial(_refuse_unbegun, error=error))
            raise
        finally:
            with contextlib.suppress(StoreUnavailable):
                await self.store.run(lambda: self.store.release_lease(lease))

    async def _hold_at_once(self, store: FencedStore) -> None:
        """The route of the store is the proxy's, before anything else is looked at: a rollback may be what brought us here."""
        route = await store.read(lambda reader: reader.route())
        ports = self._ports[self._newest]
        if route.revision == 0:
            return
        with contextlib.suppress(RouterUnavailable):  # an unreachable proxy is started or waited for by the supervisor
            await put_route(ports, store, route)
            if (await ports.proxy.router.read()).confirms(route.split):
                await hold_route(ports, store, route)

    async def _stop_asked(self) -> None:
        await self._stop.wait()

    async def _keep(self, store: FencedStore, control: Control, lock: Lock) -> None:
        """Renews the lease and notices what people ask. Raises errors.Fenced when the epoch is not ours any more."""
        renewed, guarded = time.monotonic(), 0.0
        while True:
            fulfilled = control.fulfilled
            glance = await store.read(lambda reader: reader.glance())
            if glance.epoch != store.lease.epoch or glance.holder != store.lease.holder:
                raise Fenced(f"epoch {store.lease.epoch} was overtaken by {glance.epoch} of {glance.holder or 'a command'}")
            seen = (glance.deployment, glance.paused, glance.promote)
            if fulfilled == control.fulfilled and seen != (control.deployment, control.paused, control.promote):
                control.deployment, control.paused, control.promote = seen
                control.changed.set()
            now = time.monotonic()
            if now - renewed > self.lease_s * 2 / 3:
                raise StoreUnavailable(f"the lease was not renewed for {now - renewed:.1f} s; this controller stops writing")
            if now - renewed > self.lease_s / 3:
                await self.store.run(lambda: self.store.renew_lease(store.lease, self.lease_s))
                renewed = now
            if now - guarded > 1.0:
                guarded = now
                self.keep_guardian()
                lock.acquire()  # free again once the stopped controller that this one took over from has ended
            await asyncio.sleep(GLANCE_S)

    async def _drive(self, store: FencedStore, control: Control) -> None:
        """Deployments are driven one after another, each with the configuration that it was submitted with."""
        while True:
            active = await store.read(lambda reader: reader.active())
            if active is None:
                control.deployment = ""
                while not control.deployment:
                    await control.wait(IDLE_S)
                continue
            await self._use_newest(store)
            glance = await store.read(lambda reader: reader.glance())
            control.paused, control.promote = glance.paused, glance.promote
            await Engine(self._ports[self._newest], store, control).run(active)
            await self._restore_proxy(store, active.id)

    async def _restore_proxy(self, store: FencedStore, ended: str) -> None:
        """A deployment that was refused leaves the proxy's configuration as the one before it had it."""
        await self._use_newest(store)
        if self._newest not in ("", ended):
            try:
                await self._ports[self._newest].proxy.installer.install()
            except BleenError as error:
                logger.warning("proxy.not_restored", reason=error.message)

    async def _use_newest(self, store: FencedStore) -> None:
        """Ports stand for the newest deployment and for whichever deployments the residents came from, all fenced at our epoch.

        An active deployment counts as the newest: a rollback may have made an older one active again.
        """
        newest, residents = await store.read(lambda reader: (reader.active() or reader.newest(), reader.residents()))
        name = newest.id if newest else ""
        wanted = {resident.deployment for resident in residents.values()} | {name}
        for key in wanted - self._ports.keys():
            pinned = await store.read(lambda reader, key=key: reader.config(key))  # type: ignore[misc]
            self._ports[key] = self.wire(Config.model_validate_json(json.dumps(pinned)) if pinned else self.config)
        with contextlib.suppress(RouterUnavailable):  # releases are kept up, and deadlines hold, without the proxy; `put_route` fences it
            await self._ports[name].proxy.router.fence(store.lease.epoch)
        self._newest = name  # only now: the supervisor works beside this
        for key in self._ports.keys() - wanted:
            await self._ports.pop(key).close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


def _refuse_unbegun(writer: Writer, error: StoreMismatch) -> None:
    """A deployment that has begun nothing is refused: the proxy belongs to another store, so its preflight is never reached."""
    active = writer.active()
    if active is not None and active.status is DeploymentStatus.RUNNING and not writer.journal(active.id):
        refuse(writer, active, error)
