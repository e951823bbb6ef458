"""The port to whatever runs a release in an environment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bleen.model.environment import Environment
from bleen.model.release import Release


class RunState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    UNKNOWN = "unknown"  # cannot tell


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """What runs in an environment. `version` and `token` are empty where nothing is known of them."""

    state: RunState
    evidence: str  # a sentence for people
    version: str = ""
    token: str = ""  # what `start` was given
    pid: int = 0


class Ownership(StrEnum):
    """Whose the listener on an environment's port is."""

    OURS = "ours"  # it belongs to the process that was started
    FOREIGN = "foreign"  # somebody else's: a leftover, another service
    NOBODY = "nobody"  # nothing listens
    UNKNOWN = "unknown"  # this runtime cannot tell; the answer must name its version instead


@dataclass(frozen=True, slots=True)
class ListenerProof:
    ownership: Ownership
    evidence: str


class StopOutcome(StrEnum):
    NOT_RUNNING = "not running"
    DRAINED = "drained"  # ended by itself after the polite signal
    KILLED = "killed"  # had to be ended when the budget was used up


class Runtime(Protocol):
    """Starts, stops and asks releases. Every call is idempotent and has a time limit of its own."""

    async def start(self, release: Release, environment: Environment, token: str) -> None:
        """The release was started in the environment, once for this `token` however often it is called.

        A start that is repeated after a crash of the caller finds what it started and returns. Raises RuntimeFailed
        when the command cannot be run, or when something with another token runs there.
        """

    async def stop(self, environment: Environment, token: str = "") -> StopOutcome:
        """Nothing that this runtime started runs in the environment any more, its children included.

        With a `token` only what was started with it is stopped: whoever was overtaken cannot stop a newer release.
        """

    async def status(self, environment: Environment) -> RuntimeStatus:
        """What runs in the environment, asked of the world."""

    async def prove_listener(self, environment: Environment) -> ListenerProof:
        """Whose the listener on the environment's endpoint is."""

    def restarts_after_crash(self) -> bool:
        """True when bleen must start a release again that has ended by itself; False where an init system does."""

    async def logs(self, environment: Environment, lines: int) -> list[str]:
        """The last lines that the release wrote, oldest first; empty where this runtime keeps none."""
