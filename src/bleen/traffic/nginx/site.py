"""Where everything of one nginx is: what was configured, and the paths inside the adapter's folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bleen.config.adapters import NginxTraffic
from bleen.model.environment import Endpoint, Environment


@dataclass(frozen=True, slots=True)
class NginxSite:
    """One service on one nginx. `folder` belongs to the adapter; it is absolute."""

    options: NginxTraffic
    endpoints: dict[Environment, list[Endpoint]]
    service: str
    store_id: str
    folder: Path
    preview_key: str = field(repr=False)  # opens the preview: kept out of logs

    @property
    def embedded(self) -> bool:
        """True when bleen runs this nginx itself; False for an nginx of the user's own."""
        return self.options.config_path == ""

    @property
    def identity(self) -> str:
        """Whose this proxy is; every worker says it, so that a stranger on the control port is noticed."""
        return f"{self.service}/{self.store_id}"

    @property
    def nginx_conf(self) -> Path:
        return self.folder / "nginx.conf"

    @property
    def blue_green_conf(self) -> Path:
        return (self.folder if self.embedded else Path(self.options.config_path)) / "blue-green.conf"

    @property
    def preview_conf(self) -> Path:
        return self.folder / "preview.conf"

    @property
    def flags(self) -> Path:
        return self.folder / "flags"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def access_log(self) -> Path:
        return self.logs / "access.log"

    @property
    def error_log(self) -> Path:
        return self.logs / "error.log"

    @property
    def temp(self) -> Path:
        return self.folder / "temp"

    @property
    def pid_file(self) -> Path:
        return self.folder / "nginx.pid"

    @property
    def lock_file(self) -> Path:
        return self.folder / "lock"
