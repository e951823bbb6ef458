"""Sample and probe: one user request as the proxy saw it, one health question."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bleen.model.environment import Environment

CLIENT_LEFT = 499  # nginx's status for a client that closed the connection before the answer


@dataclass(frozen=True, slots=True)
class Sample:
    """One user request as the proxy saw it, judged by the environment that its bucket chose."""

    at: float  # end of the request, seconds since the epoch, resolution 1 ms
    environment: Environment | None  # None: the split was unreadable, whichever lived took it
    status: int  # what the user saw
    first_status: int  # what the first attempt met; 0: no connection or no answer
    request_time_s: float
    upstream_time_s: float
    method: str
    path: str  # without the query string

    def failed(self, latency_limit_s: float) -> bool:
        """True when the environment failed this request: 5xx, no answer, or a client that gave up waiting."""
        if self.status == CLIENT_LEFT:
            return self.request_time_s >= latency_limit_s
        return self.first_status == 0 or self.first_status >= 500


class ProbeKind(StrEnum):
    HEALTH = "health"
    READY = "ready"
    STARTUP = "startup"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer to one health question."""

    at: float  # when it was known, seconds since the epoch
    environment: Environment
    kind: ProbeKind
    ok: bool
    evidence: str  # "200 in 3 ms", "503 to GET /api/v1/health", "no answer in 500 ms"
    took_s: float
    version: str = ""  # what the answer said of its version, where it says so
    late: bool = False  # this process was too busy to time it: says nothing against the environment
