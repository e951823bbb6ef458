"""Environment: blue or green, and where it answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Environment(StrEnum):
    """One of the two places in which a release of the service can run."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Environment:
        return Environment.GREEN if self is Environment.BLUE else Environment.BLUE


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one instance of an environment listens."""

    scheme: str  # "http" or "https"
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
