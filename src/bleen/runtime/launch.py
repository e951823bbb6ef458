"""The caller's side of the launcher."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from bleen.errors import RuntimeFailed
from bleen.runtime import launcher

START_LIMIT_S = 10.0  # the launcher needs some 30 ms
SETTLE_LIMIT_S = 5.0  # for a launcher whose pipe was closed
FLAGS = ["-I", "-S"] if Path("/proc/self").exists() else ["-I"]  # elsewhere the launcher needs psutil


async def launch(order: dict[str, Any], failed: str) -> bool:
    """True when the release was started, False when another launch holds the lock; raises RuntimeFailed as `failed`, with the reason.

    Cancelled or killed, it leaves either nothing or a release that the run file names: the launcher goes no further
    once this end of the pipe is closed, and a cancelled call waits until it is known which.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *FLAGS,
        launcher.__file__,
        "release",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin  # noqa: S101 - a pipe, by the call above
    assert process.stdout  # noqa: S101 - as above
    answer = asyncio.ensure_future(_answer(process, process.stdout))
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        await asyncio.wait({answer}, timeout=START_LIMIT_S)
    finally:
        process.stdin.close()
        await asyncio.wait({answer}, timeout=SETTLE_LIMIT_S)
    said = answer.result() if answer.done() else []
    if said == ["recorded"]:
        return True
    if said == ["busy"]:
        return False
    reason = next((line.removeprefix("failed ") for line in said if line.startswith("failed ")), "")
    reason = reason or f"the launcher ended without starting it ({' '.join(said[-1:]) or 'it said nothing'})"
    raise RuntimeFailed(f"{failed}: {reason}", next_command="bleen check")


async def _answer(process: asyncio.subprocess.Process, stdout: asyncio.StreamReader) -> list[str]:
    """What the launcher said until the release took its place."""
    said = await stdout.read()
    await process.wait()
    return said.decode(errors="replace").splitlines()
