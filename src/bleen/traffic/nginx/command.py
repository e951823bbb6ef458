"""Runs one command to its end, within a time limit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bleen.errors import Refused


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `output` is standard output and error together."""

    command: tuple[str, ...]
    code: int
    output: str

    def said(self) -> str:
        """Its own last words, or that it said nothing."""
        return self.output.strip()[-2000:] or f"exit status {self.code}, without a word"


async def run(
    command: Sequence[str], *, timeout_s: float, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Finished:
    """The command has ended. Raises Refused when it cannot be run; one that takes too long is killed and has code -1."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    except OSError as error:
        raise Refused(f"{command[0]} cannot be run: {os.strerror(error.errno or 0)}", next_command=f"command -v {command[0]}") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError:
        return Finished(tuple(command), -1, f"no end in {timeout_s:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(tuple(command), process.returncode or 0, output.decode(errors="replace"))
