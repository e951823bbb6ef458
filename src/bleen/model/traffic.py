"""Traffic: the split that should hold, and what the proxy says that holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bleen.model.environment import Environment


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Share of new requests per environment, whole percent, summing to 100; or closed (0, 0): nobody is served yet."""

    blue: int
    green: int

    def __post_init__(self) -> None:
        if min(self.blue, self.green) < 0 or self.blue + self.green not in (0, 100):
            raise ValueError(f"a split sums to 100 (or is 0/0, closed), not blue {self.blue} green {self.green}")

    @classmethod
    def all_to(cls, environment: Environment) -> TrafficSplit:
        return cls.with_weight(environment, 100)

    @classmethod
    def with_weight(cls, environment: Environment, weight_pct: int) -> TrafficSplit:
        """`weight_pct` of new requests go to `environment`, the rest to the other one."""
        if environment is Environment.BLUE:
            return cls(blue=weight_pct, green=100 - weight_pct)
        return cls(blue=100 - weight_pct, green=weight_pct)

    @property
    def closed(self) -> bool:
        return self.blue + self.green == 0

    def weight_of(self, environment: Environment) -> int:
        return self.blue if environment is Environment.BLUE else self.green

    def holder(self) -> Environment | None:
        """The environment with 100 %, or None while traffic is split or closed."""
        for environment in Environment:
            if self.weight_of(environment) == 100:
                return environment
        return None

    def __str__(self) -> str:
        return "closed" if self.closed else f"blue {self.blue}% green {self.green}%"


CLOSED = TrafficSplit(0, 0)


@dataclass(frozen=True, slots=True)
class Route:
    """The weights that should hold; every write to a proxy is derived from it."""

    epoch: int  # the lease's epoch under which it was written
    revision: int  # grows by one with every change
    split: TrafficSplit


class ReadingState(StrEnum):
    """What came of asking the proxy."""

    CONFIRMED = "confirmed"  # every worker answered, and all say the same
    MIXED = "mixed"  # workers disagree: a change is under way, or one is stuck
    UNREADABLE = "unreadable"  # the proxy answers, but cannot read its weights
    UNREACHABLE = "unreachable"  # the proxy does not answer
    UNKNOWN = "unknown"  # some workers could not be asked: cannot tell


@dataclass(frozen=True, slots=True)
class RouteReading:
    """What the proxy itself says that holds. `split` is meaningful only when `state` is CONFIRMED."""

    state: ReadingState
    evidence: str  # a sentence for people
    split: TrafficSplit = CLOSED
    workers_asked: int = 0
    workers_total: int = 0

    def confirms(self, split: TrafficSplit) -> bool:
        return self.state is ReadingState.CONFIRMED and self.split == split


@dataclass(frozen=True, slots=True)
class Preview:
    """How to reach one environment through the proxy before it has users."""

    url: str  # without a trailing slash
    headers: dict[str, str]
