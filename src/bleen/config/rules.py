"""What must hold across keys. Each rule names the sections that it needs, and runs when those are valid by themselves."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from itertools import combinations
from typing import Any

from bleen.config.adapters import NginxTraffic, ProcessRuntime, RuntimeOptions
from bleen.config.document import KeyPath, Problem, dotted
from bleen.config.fields import format_duration
from bleen.config.schema import DeploymentOptions, Environments, HealthOptions
from bleen.model.environment import Environment

_WILDCARDS = frozenset({"*", "0.0.0.0", "::"})  # noqa: S104 - these are looked for, not bound


def rule_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong across the keys of those top-level sections that are valid."""
    return [
        problem
        for needed, rule in _RULES
        if all(name in sections for name in needed)
        for problem in rule(*(sections[name] for name in needed))
    ]


def ports_are_used_once(environments: Environments, traffic: NginxTraffic) -> Iterator[Problem]:
    """No two of endpoints and listeners are the same place."""
    listeners = [_Place.of_listener(("traffic", name), getattr(traffic, name)) for name in ("listen", "preview", "control")]
    for earlier, later in combinations([*_endpoints(environments), *listeners], 2):
        between_environments = earlier.path[0] == later.path[0] == "environments"
        if not between_environments and earlier.meets(later):
            yield Problem(
                later.path,
                f"{later} is taken by {dotted(earlier.path)} ({earlier}); allowed: a port of its own for each endpoint and listener",
            )


def environments_are_apart(environments: Environments) -> Iterator[Problem]:
    """No endpoint stands twice: blue and green never share one."""
    for earlier, later in combinations(_endpoints(environments), 2):
        if earlier.meets(later):
            yield Problem(later.path, f"{later} stands in {dotted(earlier.path)} already; allowed: endpoints that only one environment has")


def processes_listen_here(environments: Environments, runtime: RuntimeOptions) -> Iterator[Problem]:
    """With plain processes each environment is one process on this machine."""
    if not isinstance(runtime, ProcessRuntime):
        return
    for environment in Environment:
        count = len(environments.of(environment).endpoints)
        if count != 1:
            path = ("environments", environment.value, "endpoints")
            yield Problem(path, f"{count} endpoints with runtime.type process; allowed: exactly one, its process listens there")
    for place in _endpoints(environments):
        if not _is_local(place.host):
            allowed = "an address of this machine, as in http://127.0.0.1:9001"
            yield Problem(place.path, f"{place} is not here, and runtime.type process starts it here; allowed: {allowed}")


def inner_listeners_are_loopback(traffic: NginxTraffic) -> Iterator[Problem]:
    """What is not for users cannot be reached from other machines."""
    for name in ("preview", "control"):
        place = _Place.of_listener(("traffic", name), getattr(traffic, name))
        if not _is_loopback(place.host):
            yield Problem(
                place.path, f"{place} can be reached from other machines; allowed: a loopback address, as in 127.0.0.1:{place.port}"
            )


def steps_fit_the_timeout(deployment: DeploymentOptions) -> Iterator[Problem]:
    """The steps' least time is less than what the deployment has."""
    steps = len(deployment.weights) if deployment.gradual else 1
    least = deployment.step.dwell * steps
    if least >= deployment.timeout:
        needed = f"{steps} steps of at least {format_duration(deployment.step.dwell)} each"
        yield Problem(
            ("deployment", "timeout"),
            f"{format_duration(deployment.timeout)} is not enough for {needed}; "
            f"allowed: more than {format_duration(least)}, or a shorter deployment.step.dwell",
        )


def probes_fit_the_timeout(health: HealthOptions) -> Iterator[Problem]:
    """There is time for more than one probe until the release must be healthy."""
    for name in ("interval", "probe_timeout"):
        value: timedelta = getattr(health, name)
        if value >= health.timeout:
            yield Problem(
                ("health", name),
                f"{format_duration(value)} is not shorter than health.timeout; allowed: less than {format_duration(health.timeout)}",
            )


_RULES: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("environments", "traffic"), ports_are_used_once),
    (("environments",), environments_are_apart),
    (("environments", "runtime"), processes_listen_here),
    (("traffic",), inner_listeners_are_loopback),
    (("deployment",), steps_fit_the_timeout),
    (("health",), probes_fit_the_timeout),
)


@dataclass(frozen=True, slots=True)
class _Place:
    """A host and port that stand at a key."""

    path: KeyPath
    host: str
    port: int

    @classmethod
    def of_listener(cls, path: KeyPath, value: str) -> _Place:
        host, _, port = value.rpartition(":")
        return cls(path, host.strip("[]").lower(), int(port))

    def meets(self, other: _Place) -> bool:
        """True when both cannot listen on one machine, as far as addresses tell."""
        if self.port != other.port:
            return False
        wild = (self.host in _WILDCARDS and _is_local(other.host)) or (other.host in _WILDCARDS and _is_local(self.host))
        return wild or _same_host(self.host) == _same_host(other.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _endpoints(environments: Environments) -> list[_Place]:
    return [
        _Place(("environments", environment.value, "endpoints", index), endpoint.host, endpoint.port)
        for environment in Environment
        for index, endpoint in enumerate(environments.of(environment).parsed())
    ]


def _same_host(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local(host: str) -> bool:
    """True for an address of this machine. Names other than localhost are not asked for: loading does not use the network."""
    if host in _WILDCARDS or _is_loopback(host):
        return True
    try:
        address = ip_address(host)
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))  # only an address of this machine can be bound
    except (ValueError, OSError):
        return False
    return True
