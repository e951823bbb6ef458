"""The ports to a proxy: Router sets and reads weights, Installer owns its configuration, AccessLog reads what it did."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from bleen.model.environment import Environment
from bleen.model.sample import Sample
from bleen.model.traffic import Preview, Route, RouteReading


class Router(Protocol):
    """Holds the split of new requests on one proxy. Nothing here reloads it."""

    async def fence(self, epoch: int) -> None:
        """From now on the proxy refuses writes of every epoch below `epoch`; `apply` of this object writes as `epoch`.

        Raises Fenced when a higher epoch has been here, StoreMismatch when the proxy belongs to another store,
        RouterUnavailable when the proxy's folder or socket cannot be written.
        """

    async def apply(self, route: Route) -> None:
        """The proxy was told to hold `route`; returns when it is written, ask `read` for what holds.

        Idempotent. Raises Fenced when `route.epoch` is not the fenced epoch or was overtaken, RouterUnavailable.
        """

    async def read(self) -> RouteReading:
        """What every worker of the proxy says that holds now. Never raises for a proxy that is away: that is a state."""

    def preview(self, environment: Environment) -> Preview:
        """The way to reach `environment` through the proxy, whatever the split is."""

    async def close(self) -> None:
        """Connections to the proxy are closed; the proxy goes on."""


class Severity(StrEnum):
    ERROR = "error"  # a deployment would be refused
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or could go wrong, before anything moves."""

    severity: Severity
    subject: str  # what was looked at: "nginx configuration", "flag folder"
    message: str  # the evidence, one sentence
    next_command: str = ""


class Installer(Protocol):
    """Owns what bleen needs in the proxy's configuration, and in the embedded default the proxy's life."""

    async def check(self) -> list[Finding]:
        """What is wrong with this proxy; changes nothing. Empty when a deployment may begin."""

    async def install(self) -> None:
        """The configuration is rendered, tested by the proxy itself, in place, and served; the proxy runs.

        Idempotent: an unchanged configuration is neither written nor reloaded. A configuration that fails the
        proxy's test leaves the old file and the old traffic. Raises Refused with the proxy's own words,
        StoreMismatch when the folder belongs to another store.
        """

    async def ensure_running(self) -> bool:
        """The proxy runs. True when it had to be started; a proxy that is not ours to start is only looked at."""

    async def stop(self) -> None:
        """An embedded proxy has stopped after serving what it had; any other proxy is left alone."""


class AccessLog(Protocol):
    """The proxy's record of user requests: where it is, how a line reads."""

    @property
    def path(self) -> Path:
        """The file that the proxy appends to."""

    def parse(self, line: bytes) -> Sample | None:
        """One line (without its newline) as a sample; None for a line that is not a user's request."""

    async def rotate(self, larger_than_bytes: int) -> bool:
        """A file above that size was moved to PATH.1 and the proxy writes a new one. True when it was rotated."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy with its three roles; `wiring` makes it from the configuration."""

    router: Router
    installer: Installer
    access_log: AccessLog
