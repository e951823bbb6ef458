"""Puts the configuration in place, tested by nginx itself and proven by its workers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from bleen.errors import Refused, RouterUnavailable
from bleen.traffic.nginx.binary import version_of
from bleen.traffic.nginx.check import check, refuse_foreign_configuration
from bleen.traffic.nginx.command import run
from bleen.traffic.nginx.embedded import EmbeddedNginx
from bleen.traffic.nginx.flags import FlagFolder
from bleen.traffic.nginx.own import OwnNginx
from bleen.traffic.nginx.render import Rendered, render
from bleen.traffic.nginx.replace import NewText, replaced
from bleen.traffic.nginx.site import NginxSite
from bleen.traffic.nginx.workers import Workers
from bleen.traffic.router import Finding

_LOCK_TIMEOUT_S = 30.0
_SERVED_TIMEOUT_S = 10.0
_TEST_TIMEOUT_S = 30.0
# Of every nginx that is tested by an ordinary user while its configuration is written for root.
_HARMLESS_WARNING = 'the "user" directive makes sense only if'


class NginxInstaller:
    """Installer of one site. Two of them at once, in any two processes, take turns."""

    def __init__(self, site: NginxSite, flags: FlagFolder, nginx: EmbeddedNginx | OwnNginx) -> None:
        self._site, self._flags, self._nginx = site, flags, nginx

    async def check(self) -> list[Finding]:
        return await check(self._site, self._flags)

    async def install(self) -> None:
        rendered = render(self._site, await version_of(self._nginx.binary()))
        async with self._alone():
            refuse_foreign_configuration(self._site)
            await asyncio.to_thread(self._flags.claim)
            self._prepare()
            files = self._files(rendered)
            if _in_place(files):
                await self._nginx.ensure_running()
                if await self._served(rendered.revision, timeout_s=0):
                    return
            await self._make_effective(files, rendered.revision)

    async def ensure_running(self) -> bool:
        async with self._alone():
            return await self._nginx.ensure_running()

    async def stop(self) -> None:
        async with self._alone():
            await self._nginx.stop()

    async def _make_effective(self, files: dict[Path, NewText], revision: str) -> None:
        """The workers serve `revision`, or the old files are back and the old traffic was never interrupted."""
        warned = await self._test("already fails nginx's own test before bleen adds its file") if not self._site.embedded else set()
        with replaced(files):
            warnings = await self._test("fails nginx's own test") - warned
            if warnings:
                raise Refused(f"the new nginx configuration was taken back, nginx warns: {'; '.join(sorted(warnings))}")
            offset = self._nginx.log_offset()
            await self._nginx.reload()
            if not await self._served(revision, timeout_s=_SERVED_TIMEOUT_S):
                said = self._nginx.problem_since(offset) or f"its workers do not say so on {self._site.options.control}"
                raise Refused(f"nginx did not take the new configuration, the old one is back: {said}", next_command="bleen check")

    async def _test(self, failure: str) -> set[str]:
        """The warnings of nginx's own test. Raises Refused, with nginx's words, when the test fails."""
        command = await self._nginx.test_command()
        finished = await run(command, timeout_s=_TEST_TIMEOUT_S)
        if finished.code != 0:
            raise Refused(f"the nginx configuration {failure}: {finished.said()}", next_command=" ".join(command))
        return {line for line in finished.output.splitlines() if "[warn]" in line and _HARMLESS_WARNING not in line}

    async def _served(self, revision: str, *, timeout_s: float) -> bool:
        """Every worker that can be asked runs with `revision`."""
        workers = Workers(self._site.options.control)
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                survey = await workers.ask("none", "none")
                if survey.answers and all(
                    (answer.identity, answer.revision) == (self._site.identity, revision) for answer in survey.answers
                ):
                    return True
                if time.monotonic() >= deadline:
                    return False
                await asyncio.sleep(0.01)
        finally:
            await workers.close()

    def _files(self, rendered: Rendered) -> dict[Path, NewText]:
        # The key lies in a file of its own, for the owner (and nginx's master) only.
        return {path: NewText(text, 0o644) for path, text in self._nginx.files(rendered).items()} | {
            self._site.preview_conf: NewText(rendered.preview_conf, 0o600)
        }

    def _prepare(self) -> None:
        """Folders and logs exist, with the rights that the workers need and no more."""
        others = not self._site.embedded or self._site.options.worker_user != ""
        try:
            for folder in (self._site.folder, self._site.logs, self._site.temp):
                folder.mkdir(exist_ok=True, parents=True)
                folder.chmod(0o711 if others else 0o700)
            for log in (self._site.access_log, self._site.error_log):
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
        except OSError as error:
            raise RouterUnavailable(f"{self._site.folder} cannot be prepared for nginx: {error.strerror}") from error

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """No other installer works on this site. The lock ends with the process that holds it."""
        try:
            self._site.folder.mkdir(exist_ok=True, parents=True)
            file = self._site.lock_file.open("a")
        except OSError as error:
            raise RouterUnavailable(f"{self._site.folder} cannot be written: {error.strerror}") from error
        with file:
            await _lock(file)
            yield


def _in_place(files: dict[Path, NewText]) -> bool:
    try:
        return all(path.read_text() == new.text for path, new in files.items())
    except (FileNotFoundError, UnicodeDecodeError):
        return False


async def _lock(file: IO[str]) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RouterUnavailable(f"{file.name} has been locked by another bleen for {_LOCK_TIMEOUT_S:g} s") from error
            await asyncio.sleep(0.01)
