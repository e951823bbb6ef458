"""Commands that bleen runs on the way: tests, migrations, load tests. None outlives the controller."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bleen.errors import RuntimeFailed
from bleen.runtime import launcher
from bleen.runtime.log_file import tail

LINES_RETURNED = 20
KILL_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class HelperCommand:
    argv: list[str]
    directory: Path
    variables: dict[str, str]  # on top of the environment variables of this process
    timeout_s: float
    log: Path | None  # the output is appended here; None: only the last lines are kept


@dataclass(frozen=True, slots=True)
class HelperResult:
    exit_status: int  # 127: could not be run; 128 + number: ended by that signal
    timed_out: bool
    last_lines: list[str]  # of the output, at most 20
    took_s: float

    @property
    def succeeded(self) -> bool:
        return self.exit_status == 0 and not self.timed_out


async def run_helper(command: HelperCommand) -> HelperResult:
    """The command has ended. Its process group is killed at the timeout, on cancellation, and when this process dies.

    A command that cannot be run is a result with exit status 127. Processes that it leaves behind after its own end are
    left alone, as a command may have been asked to start them. Raises RuntimeFailed when the log cannot be written.
    """
    began = asyncio.get_running_loop().time()
    output, offset = await asyncio.to_thread(_open, command.log)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", launcher.__file__, "helper"),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C in the terminal is for the controller, which decides
        )
        ended = asyncio.ensure_future(process.wait())
        try:
            _tell(process, command)
            await asyncio.wait({ended}, timeout=command.timeout_s)
            timed_out = not ended.done()
        finally:
            await _make_sure_it_ended(process, ended)
        lines = await asyncio.to_thread(tail, output, LINES_RETURNED, offset)
        status = process.returncode if process.returncode is not None else 128 + 9
        return HelperResult(status if status >= 0 else 128 - status, timed_out, lines, asyncio.get_running_loop().time() - began)
    finally:
        output.close()


def _tell(process: asyncio.subprocess.Process, command: HelperCommand) -> None:
    order = {"argv": command.argv, "directory": str(command.directory), "variables": {**os.environ, **command.variables}}
    assert process.stdin  # noqa: S101 - a pipe, by the call that made it
    process.stdin.write(json.dumps(order).encode() + b"\n")


async def _make_sure_it_ended(process: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
    """Closing the pipe has the keeper kill the group; a keeper that does not is killed, and takes the command with it."""
    assert process.stdin  # noqa: S101 - as above
    process.stdin.close()
    await asyncio.wait({ended}, timeout=KILL_LIMIT_S)
    if not ended.done():
        process.kill()
        await asyncio.wait({ended}, timeout=KILL_LIMIT_S)


def _open(log: Path | None) -> tuple[IO[bytes], int]:
    """The file for the output, and where the output of this run begins in it."""
    if log is None:
        return tempfile.TemporaryFile(), 0
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RuntimeFailed(f"{log} cannot be written: {error.strerror}", next_command="bleen check") from error
    return os.fdopen(descriptor, "r+b"), os.fstat(descriptor).st_size
