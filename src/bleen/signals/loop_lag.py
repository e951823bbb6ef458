"""Whether this process's own event loop was late: a stalled controller must not condemn a release."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

TICK_S = 0.025
STALL_S = 0.1


class LoopLag:
    """While entered, watches a timer of the running loop and remembers when it last came too late.

    A timer's callback, not a task: it runs in the same turn of the loop as the timeouts that became due in the stall,
    and before them, since its own time came first.
    """

    def __init__(self) -> None:
        self._due = 0.0
        self._stalled_at = -1.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer:
            self._timer.cancel()

    def stalled_since(self, moment: float) -> bool:
        """True when the loop was late by more than STALL_S at some time after `moment` (monotonic seconds)."""
        return self._stalled_at >= moment or time.monotonic() - self._due > STALL_S

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._due > STALL_S:
            self._stalled_at = now
        self._wait()

    def _wait(self) -> None:
        self._due = time.monotonic() + TICK_S
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
