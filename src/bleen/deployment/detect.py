"""Which environment is active, told by the world: what the proxy says, what the health checks say, then the record."""

from __future__ import annotations

from dataclasses import dataclass

from bleen.model.environment import Environment
from bleen.model.sample import ProbeResult
from bleen.model.traffic import ReadingState, Route, RouteReading


@dataclass(frozen=True, slots=True)
class Detection:
    """The active environment as far as the world tells."""

    active: Environment | None  # None: nobody is served, traffic is split, or it cannot be told
    healthy: dict[Environment, ProbeResult]
    reading: RouteReading
    agrees: bool  # the record, the proxy and the health checks say the same
    evidence: str  # a sentence for people


def detect(route: Route, reading: RouteReading, probes: dict[Environment, ProbeResult]) -> Detection:
    """The proxy decides which environment is active, its health check whether that is good, the record whether it was meant."""
    if reading.state is not ReadingState.CONFIRMED:
        return Detection(None, probes, reading, agrees=False, evidence=f"cannot tell what the proxy holds: {reading.evidence}")
    active = reading.split.holder()
    if reading.split != route.split:
        said = f"the proxy holds {reading.split}, the record says {route.split}"
        return Detection(active, probes, reading, agrees=False, evidence=said)
    if active is None:
        told = "nobody is served yet" if reading.split.closed else f"traffic is split: {reading.split}"
        return Detection(None, probes, reading, agrees=reading.split.closed, evidence=told)
    probe = probes[active]
    if not probe.ok:
        said = f"the proxy sends everybody to {active.value}, which is not healthy: {probe.evidence}"
        return Detection(active, probes, reading, agrees=False, evidence=said)
    return Detection(active, probes, reading, agrees=True, evidence=f"{active.value} holds 100% and is healthy: {probe.evidence}")
