"""What a step acts with: the deployment, the ports, the fenced store, what people asked meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bleen.deployment.ports import Ports
from bleen.deployment.watch import Watch
from bleen.model.deployment import Deployment, Lease
from bleen.store.reader import Reader
from bleen.store.store import Store
from bleen.store.writer import Who, Writer

T = TypeVar("T")

CONTROLLER = Who("controller", "controller")


@dataclass(slots=True)
class Control:
    """What people asked of the active deployment, kept current by the controller's keeper."""

    deployment: str = ""  # the active one
    paused: bool = False
    promote: str = ""
    fulfilled: int = 0  # promotions that were done and cleared: a glance that began before the last of them is stale
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, timeout_s: float) -> None:
        """Something was asked, or the time has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.changed.wait()
        self.changed.clear()


@dataclass(slots=True)
class RouteMark:
    """The newest route that this process has begun to apply: an older one that comes late is not applied any more."""

    revision: int = 0


@dataclass(frozen=True, slots=True)
class FencedStore:
    """The store as its lease holder may use it."""

    store: Store
    lease: Lease
    mark: RouteMark = field(default_factory=RouteMark)

    async def read(self, question: Callable[[Reader], T]) -> T:
        """Answers as of one moment."""

        def ask() -> T:
            with self.store.read() as reader:
                return question(reader)

        return await self.store.run(ask)

    async def write(self, change: Callable[[Writer], T]) -> T:
        """The change is durable; raises errors.Fenced when the lease is not ours any more."""

        def act() -> T:
            with self.store.fenced(self.lease) as writer:
                return change(writer)

        writing = asyncio.ensure_future(self.store.run(act))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # a thread is not cancelled: its write has landed or failed before anything else is decided
            writing.exception()  # seen: whoever cancelled this knows a better reason
            raise

    async def event(self, name: str, deployment: str = "", body: dict[str, Any] | None = None) -> None:
        """The event is recorded."""
        await self.write(lambda writer: writer.add_event(name, CONTROLLER, deployment, body))


@dataclass(frozen=True, slots=True)
class Context:
    """One deployment under way."""

    deployment: Deployment
    ports: Ports
    store: FencedStore
    control: Control
    watch: Watch

    @property
    def token(self) -> str:
        """What the candidate's runtime is given: the deployment's own id."""
        return self.deployment.id
