"""An nginx of the user's own: bleen gives it one file and the user's reload command, and leaves the rest alone."""

from __future__ import annotations

from pathlib import Path

from bleen.errors import Refused
from bleen.traffic.nginx.binary import find_nginx
from bleen.traffic.nginx.command import run
from bleen.traffic.nginx.render import Rendered
from bleen.traffic.nginx.site import NginxSite

_RELOAD_TIMEOUT_S = 30.0


class OwnNginx:
    """The same calls as EmbeddedNginx, for an nginx that somebody else starts and stops."""

    def __init__(self, site: NginxSite) -> None:
        self._site = site

    def files(self, rendered: Rendered) -> dict[Path, str]:
        return {self._site.blue_green_conf: rendered.blue_green_conf}

    def binary(self) -> Path:
        return find_nginx(self._site.options.binary)

    async def test_command(self) -> list[str]:
        """The reload command with -t in place of `-s reload`, so that the same nginx tests the same files as the same user."""
        reload = self._site.options.reload_command
        if reload[-2:] == ["-s", "reload"]:
            return [*reload[:-2], "-t"]
        return [str(self.binary()), "-t"]

    async def reload(self) -> None:
        command = self._site.options.reload_command
        finished = await run(command, timeout_s=_RELOAD_TIMEOUT_S)
        if finished.code != 0:
            raise Refused(f"the reload command {command} failed: {finished.said()}", next_command=" ".join(command))

    async def ensure_running(self) -> bool:
        return False

    async def stop(self) -> None:
        """Not ours to stop."""

    def problem_since(self, offset: int) -> str:
        return ""  # its error log is the user's

    def log_offset(self) -> int:
        return 0
