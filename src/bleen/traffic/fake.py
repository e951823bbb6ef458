"""A proxy in memory, for tests and for trying things out: it passes the same contract suite as the real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bleen.errors import Fenced, Refused, RouterUnavailable, StoreMismatch
from bleen.model.environment import Environment
from bleen.model.sample import Sample
from bleen.model.traffic import CLOSED, Preview, ReadingState, Route, RouteReading, TrafficSplit
from bleen.traffic.router import Finding, Proxy


@dataclass(slots=True)
class FakeProxy:
    """What the proxy holds, shared by all routers that `roles` makes; a test sets the fields to see what follows."""

    folder: Path
    split: TrafficSplit = CLOSED
    epoch: int = 0  # the highest that has fenced
    owner: tuple[str, str] | None = None  # store and service, once claimed
    running: bool = False
    readable: bool = True  # False: the proxy answers, but cannot read its weights
    writable: bool = True  # False: every write raises RouterUnavailable
    reading: ReadingState = ReadingState.CONFIRMED  # what `read` says of a proxy that runs and can read
    alive: set[Environment] = field(default_factory=lambda: set(Environment))
    routes: list[Route] = field(default_factory=list)  # every route that was written, oldest first
    findings: list[Finding] = field(default_factory=list)  # what `check` says
    refusal: str = ""  # why `install` refuses

    def roles(self, store_id: str = "store", service: str = "service") -> Proxy:
        """The proxy as the controller of one store and service sees it."""
        owner = (store_id, service)
        return Proxy(FakeRouter(self, owner), FakeInstaller(self, owner), FakeAccessLog(self.folder / "access.log"))

    def serve(self, bucket: int) -> Environment | None:
        """Where a new request of bucket 0 to 99 goes; None: it gets 503."""
        if not self.running:
            raise ConnectionRefusedError("the proxy is away")
        if not self.readable:
            return min(self.alive, default=None)
        if self.split.closed:
            return None
        return Environment.GREEN if bucket < self.split.green else Environment.BLUE

    def claim(self, owner: tuple[str, str]) -> None:
        if not self.writable:
            raise RouterUnavailable("the proxy cannot be written")
        if self.owner not in (None, owner):
            raise StoreMismatch(f"the proxy belongs to {self.owner}, not to {owner}")
        self.owner = owner


class FakeRouter:
    """Router over a FakeProxy."""

    def __init__(self, proxy: FakeProxy, owner: tuple[str, str]) -> None:
        self._proxy, self._owner, self._epoch = proxy, owner, 0

    async def fence(self, epoch: int) -> None:
        self._proxy.claim(self._owner)
        if epoch < self._proxy.epoch:
            raise Fenced(f"epoch {epoch} was overtaken by epoch {self._proxy.epoch}")
        self._proxy.epoch = self._epoch = epoch

    async def apply(self, route: Route) -> None:
        if route.epoch != self._epoch or self._epoch == 0 or self._epoch < self._proxy.epoch:
            raise Fenced(f"a route of epoch {route.epoch} was not written: epoch {self._proxy.epoch} holds")
        if not self._proxy.writable:
            raise RouterUnavailable("the proxy cannot be written")
        self._proxy.split, self._proxy.readable = route.split, True
        self._proxy.routes.append(route)

    async def read(self) -> RouteReading:
        if not self._proxy.running:
            return RouteReading(ReadingState.UNREACHABLE, "the proxy is away")
        if not self._proxy.readable:
            return RouteReading(ReadingState.UNREADABLE, "the proxy cannot read its weights", CLOSED, 1, 1)
        if self._proxy.reading is not ReadingState.CONFIRMED:
            return RouteReading(self._proxy.reading, f"the proxy was told to say {self._proxy.reading}", CLOSED, 1, 1)
        return RouteReading(ReadingState.CONFIRMED, f"1 of 1 workers says {self._proxy.split}", self._proxy.split, 1, 1)

    def preview(self, environment: Environment) -> Preview:
        return Preview(url="http://fake.invalid", headers={"X-Bleen-Preview": f"{environment.value}.fake"})

    async def close(self) -> None:
        """Nothing is held."""


class FakeInstaller:
    """Installer over a FakeProxy."""

    def __init__(self, proxy: FakeProxy, owner: tuple[str, str]) -> None:
        self._proxy, self._owner = proxy, owner

    async def check(self) -> list[Finding]:
        return list(self._proxy.findings)

    async def install(self) -> None:
        if self._proxy.refusal:
            raise Refused(self._proxy.refusal)
        self._proxy.claim(self._owner)
        self._proxy.running = True

    async def ensure_running(self) -> bool:
        started = not self._proxy.running
        self._proxy.running = True
        return started

    async def stop(self) -> None:
        self._proxy.running = False


class FakeAccessLog:
    """AccessLog in a file of its own: `write` appends what `parse` reads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def write(self, sample: Sample) -> None:
        """One more line stands in the log."""
        environment = sample.environment.value if sample.environment else "-"
        numbers = (sample.at, sample.status, sample.first_status, sample.request_time_s, sample.upstream_time_s)
        with self._path.open("a") as file:
            file.write("\t".join((environment, *map(str, numbers), sample.method, sample.path)) + "\n")

    def parse(self, line: bytes) -> Sample | None:
        try:
            environment, at, status, first_status, request_time, upstream_time, method, path = line.decode().split("\t")
            chosen = None if environment == "-" else Environment(environment)
            return Sample(float(at), chosen, int(status), int(first_status), float(request_time), float(upstream_time), method, path)
        except ValueError:
            return None

    async def rotate(self, larger_than_bytes: int) -> bool:
        if not self._path.exists() or self._path.stat().st_size <= larger_than_bytes:
            return False
        self._path.rename(self._path.with_name(self._path.name + ".1"))
        self._path.touch()
        return True
