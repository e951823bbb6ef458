"""Where releases of a service run, and what they are told about themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release

Secrets = Callable[[str], str]  # a value, or what its reference env:NAME or file:PATH stands for; raises ConfigurationError

MARK = "BLEEN_RUN"  # in the environment of every process of a release: finds those that left its session


@dataclass(frozen=True, slots=True)
class RuntimeSite:
    service: str
    endpoints: dict[Environment, list[Endpoint]]
    config_dir: Path  # where bleen.yaml is
    folder: Path  # of run files and logs, owner-only

    def create_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def file(self, environment: Environment, suffix: str) -> Path:
        return self.folder.absolute() / f"{environment}.{suffix}"

    def mark(self, environment: Environment) -> str:
        """The value of MARK: no other environment on this host has the same."""
        return f"{self.folder.resolve()}/{environment}"

    def known_names(self) -> frozenset[str]:
        """The names that `values` holds for every environment."""
        release = Release("1")
        return frozenset.intersection(*(frozenset(self.values(release, environment)) for environment in Environment))

    def values(self, release: Release, environment: Environment) -> dict[str, str]:
        """What is replaced in commands. `host` and `port` exist where they are unambiguous: one endpoint."""
        values = {
            "service": self.service,
            "environment": environment.value,
            "version": release.version,
            "commit_hash": release.commit_hash,
            "branch": release.branch,
        }
        if len(self.endpoints[environment]) == 1:
            endpoint = self.endpoints[environment][0]
            values |= {"host": endpoint.host, "port": str(endpoint.port)}
        return values

    def variables(self, release: Release, environment: Environment, configured: dict[str, str], secrets: Secrets) -> dict[str, str]:
        """The environment variables of a release: this process's own, the values in capitals, then what is configured."""
        told = {name.upper(): value for name, value in self.values(release, environment).items()}
        return {**os.environ, **told, **{name: secrets(value) for name, value in configured.items()}}
