"""The ports of one configuration, wired: what steps, watch and supervisor act through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bleen.config.schema import CheckCommand, Config
from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult
from bleen.runtime.runtime import Runtime
from bleen.signals.signal import Signal
from bleen.traffic.router import Proxy


class Ask(Protocol):
    """Asks an environment one health question, directly at its endpoints."""

    async def __call__(self, environment: Environment, kind: ProbeKind = ProbeKind.HEALTH) -> ProbeResult: ...


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of a command of the user's."""

    passed: bool
    evidence: str  # exit status and time
    output: list[str]  # the last lines


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside that a deployment touches. Made by `wiring` from a configuration."""

    config: Config
    state_dir: Path
    runtime: Runtime
    proxy: Proxy
    ask: Ask
    ask_preview: Callable[[Environment], Awaitable[ProbeResult]]  # through the proxy's preview
    prober: Callable[[list[Environment], float], Signal]  # probes those environments at an interval in seconds
    follower: Callable[[dict[str, Any] | None], FollowedLog]  # the access log from a cursor, None: from its present end
    run_check: Callable[[CheckCommand, dict[str, str], bool], Awaitable[CheckResult]]  # True: its undo
    close: Callable[[], Awaitable[None]]


class FollowedLog(Signal, Protocol):
    """A signal with a place in its file, so that a restarted controller reads on where it was."""

    def place(self) -> dict[str, Any]:
        """The place up to which samples were handed over."""
