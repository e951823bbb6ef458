"""The access log of user requests: where it is, and its rotation."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import psutil

from bleen.errors import RouterUnavailable
from bleen.model.sample import Sample
from bleen.traffic.nginx.embedded import EmbeddedNginx
from bleen.traffic.nginx.log import parse_line

_REOPEN_TIMEOUT_S = 5.0


class NginxAccessLog:
    """AccessLog of one nginx; only the log of the nginx that bleen runs is rotated here."""

    def __init__(self, path: Path, embedded: EmbeddedNginx | None) -> None:
        self._path, self._embedded = path, embedded

    @property
    def path(self) -> Path:
        return self._path

    def parse(self, line: bytes) -> Sample | None:
        return parse_line(line)

    async def rotate(self, larger_than_bytes: int) -> bool:
        """False for an nginx of the user's own: logrotate owns that file."""
        master = self._embedded.master() if self._embedded is not None else None
        if master is None or self._size() <= larger_than_bytes:
            return False
        try:
            self._path.rename(self._path.with_name(self._path.name + ".1"))
        except OSError as error:
            raise RouterUnavailable(
                f"{self._path} cannot be moved: {error.strerror}", next_command=f"ls -ld {self._path.parent}"
            ) from error
        with contextlib.suppress(psutil.NoSuchProcess):
            master.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + _REOPEN_TIMEOUT_S
        while not self._path.exists():
            if time.monotonic() > deadline:
                raise RouterUnavailable(f"nginx did not open a new {self._path} within {_REOPEN_TIMEOUT_S:g} s of SIGUSR1")
            await asyncio.sleep(0.005)
        self._path.chmod(0o640)  # nginx makes it readable for everybody
        return True

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
