"""One question to the manager, from a command that is not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from bleen.manager import BlueGreenDeploymentManager
from bleen.wiring import open_manager

T = TypeVar("T")


def ask(path: Path, question: Callable[[BlueGreenDeploymentManager], Awaitable[T]]) -> T:
    """The answer of the manager of the service that the file describes, which is closed again."""

    async def asked() -> T:
        async with open_manager(path, source="cli") as manager:
            return await question(manager)

    return asyncio.run(asked())
