"""The life of the nginx that bleen runs itself: it outlives the controller and the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from bleen.errors import Refused
from bleen.traffic.nginx.binary import find_nginx, version_of
from bleen.traffic.nginx.command import run
from bleen.traffic.nginx.listeners import why_taken
from bleen.traffic.nginx.render import Rendered
from bleen.traffic.nginx.site import NginxSite
from bleen.traffic.nginx.workers import workers_of

_GRACE_S = 5.0  # for the requests under way when it is stopped
_START_TIMEOUT_S = 30.0
# Nothing of the controller's environment: it holds secrets, and a variable NGINX would hand over sockets. The rest
# makes room for the process title, by which the master is recognised.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class EmbeddedNginx:
    """One nginx master with its own prefix, configuration and pid file in the site's folder."""

    def __init__(self, site: NginxSite) -> None:
        self._site = site

    def files(self, rendered: Rendered) -> dict[Path, str]:
        return {self._site.nginx_conf: rendered.nginx_conf, self._site.blue_green_conf: rendered.blue_green_conf}

    def binary(self) -> Path:
        return find_nginx(self._site.options.binary)

    async def test_command(self) -> list[str]:
        return [*await self._command(), "-t"]

    def running(self) -> bool:
        return self.master() is not None

    def master(self) -> psutil.Process | None:
        """The master process, proven by its title: a pid file alone may be stale, its number somebody else's."""
        try:
            process = psutil.Process(int(self._site.pid_file.read_text()))
            title = " ".join(process.cmdline())
        except (OSError, ValueError, psutil.Error):
            return None
        ours = title.startswith("nginx: master process ") and f" -c {self._site.nginx_conf} -p " in title
        return process if ours else None

    async def reload(self) -> None:
        """The running master was told to read its configuration; without one, nginx was started."""
        master = self.master()
        if master is None:
            await self.start()
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            master.send_signal(signal.SIGHUP)

    async def ensure_running(self) -> bool:
        if self.running():
            return False
        if not self._site.nginx_conf.exists():
            raise Refused(f"nginx has no configuration yet: {self._site.nginx_conf} is missing", next_command="bleen deploy")
        await self.start()
        return True

    async def start(self) -> None:
        """The master runs in a session of its own. Raises Refused when it cannot."""
        await self._end_orphans()
        options = self._site.options
        for address in (options.listen, options.preview, options.control):
            taken = why_taken(address)
            if taken is not None:
                raise Refused(
                    f"nginx was not started: {taken}", next_command="stop it, or choose another address under traffic in bleen.yaml"
                )
        finished = await run(await self._command(), timeout_s=_START_TIMEOUT_S, folder=self._site.folder, environment=_ENVIRONMENT)
        if finished.code != 0:
            raise Refused(f"nginx was not started: {finished.said()}", next_command=f"tail {self._site.error_log}")
        if not await _until(self._complete, _START_TIMEOUT_S):
            raise Refused("nginx did not bring up its workers", next_command=f"tail {self._site.error_log}")

    async def stop(self) -> None:
        """Requests under way had five seconds to end, then nginx is gone with all of its workers."""
        master = self.master()
        if master is not None:
            await _end([master], (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL))
        await self._end_orphans()

    def problem_since(self, offset: int) -> str:
        """The last complaint in the error log after `offset`; empty when there is none."""
        try:
            with self._site.error_log.open("rb") as log:
                log.seek(offset)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line for line in reversed(lines) if re.search(r"\[(?:emerg|alert|crit)\]", line)), "")

    def log_offset(self) -> int:
        try:
            return self._site.error_log.stat().st_size
        except OSError:
            return 0

    def _complete(self) -> bool:
        master = self.master()
        try:
            return master is not None and len(workers_of(master.pid)) == self._site.options.workers
        except (psutil.Error, OSError):
            return False

    async def _command(self) -> list[str]:
        binary = self.binary()
        command = [str(binary), "-c", str(self._site.nginx_conf), "-p", f"{self._site.folder}/"]
        # Older ones cannot be told, and open the one that they were built with as well.
        return [*command, "-e", str(self._site.error_log)] if await version_of(binary) >= (1, 19, 5) else command

    async def _end_orphans(self) -> None:
        """Workers whose master was killed hold the ports and answer, but take no orders: they serve what they have and go."""
        await _end(self._orphans(), (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL))

    def _orphans(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            title = " ".join(process.info["cmdline"] or ())
            # nginx is started in the site's folder, and a master that lives was excluded by the caller.
            if title.startswith("nginx: worker process") and process.info["cwd"] == str(self._site.folder.resolve()):
                found.append(process)
        return found


async def _end(processes: Sequence[psutil.Process], signals: Sequence[signal.Signals]) -> None:
    """The processes are gone, by the gentlest of the signals that sufficed."""
    for number in signals:
        left = [process for process in processes if _alive(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if not left or await _until(lambda: not any(map(_alive, processes)), _GRACE_S):
            return


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
