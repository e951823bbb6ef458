"""Following a deployment that runs elsewhere: Ctrl-C leaves it running, a store that does not answer is waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from bleen.cli import output
from bleen.cli.boundary import INTERRUPTED
from bleen.cli.changes import Tracker
from bleen.cli.lines import Display, JsonLines, PlainLines
from bleen.errors import AttentionNeeded, BleenError, Transient
from bleen.manager import BlueGreenDeploymentManager, DeploymentResult
from bleen.records.status import StatusReport

POLL_S = 0.2
PATIENCE_S = 30.0  # how long a store that does not answer is waited for

T = TypeVar("T")


class Interrupted(Exception):
    """Ctrl-C came."""


class Interrupt:
    """The first Ctrl-C (or SIGTERM, or a terminal that is gone) ends the following in order, the second ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._came)

    @property
    def came(self) -> bool:
        return self._event.is_set()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises Interrupted, with `work` cancelled, when Ctrl-C came first."""
        task = asyncio.ensure_future(work)
        ctrl_c = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, ctrl_c}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Interrupted
        finally:
            task.cancel()
            ctrl_c.cancel()
            await asyncio.gather(task, ctrl_c, return_exceptions=True)

    def _came(self) -> None:
        if self._event.is_set():
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h\n")  # the live view hides the cursor
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        self._event.set()


def run(work: Callable[[Interrupt], Coroutine[Any, Any, int]]) -> int:
    """The exit code of `work`, which can be interrupted."""

    async def armed() -> int:
        return await work(Interrupt())

    return asyncio.run(armed())


def display_for(*, json_output: bool, before: StatusReport | None = None, hint: str = "") -> Display:
    """JSON lines when asked for, a live view on a terminal, else plain lines. What `before` says is not told again.

    `hint` is what the live view says of Ctrl-C, where it does not leave the deployment running.
    """
    if json_output:
        return JsonLines(Tracker(before))
    if output.on_terminal():
        from bleen.cli.view import LiveView

        return LiveView(hint)
    return PlainLines(Tracker(before))


async def follow(manager: BlueGreenDeploymentManager, deployment: str, display: Display, interrupt: Interrupt) -> int:
    """The exit code of the deployment; 130 when the reader left. Raises AttentionNeeded when it cannot be followed."""
    try:
        with display:
            result = await interrupt.unless(_patiently(manager, deployment, display.show))
            display.end(result, result.exit_code)
    except Interrupted:
        display.detached(deployment)
        output.say(detached_text(deployment))
        return INTERRUPTED
    return result.exit_code


async def take_back(manager: BlueGreenDeploymentManager, order: Awaitable[DeploymentResult], display: Display, interrupt: Interrupt) -> int:
    """0 when the traffic is back as asked, else 3; 130 when the reader left."""
    seen: list[StatusReport] = []

    def show(report: StatusReport) -> None:
        seen[:] = [report]
        if _is_going_back(seen):  # before, there is nothing to look at: an order that is refused leaves no picture
            display.show(report)

    try:
        with display:
            result = await interrupt.unless(_shown(manager, order, show))
            code = 0 if result.outcome == "rolled_back" else 3
            display.end(result, code)
    except Interrupted:
        ordered = _is_going_back(seen)
        display.detached(seen[0].deployment.id if seen and seen[0].deployment else "")
        output.say(
            "left: the rollback goes on in the controller (bleen watch follows it)"
            if ordered
            else "interrupted: `bleen status` tells whether the rollback was ordered"
        )
        return INTERRUPTED
    except Transient as error:
        if not _is_going_back(seen):
            raise
        raise AttentionNeeded(f"the rollback is ordered, but cannot be followed: {error.message}", next_command="bleen status") from error
    return code


def detached_text(deployment: str) -> str:
    """What somebody who leaves should know."""
    return (
        f"left: deployment {deployment} goes on in the controller\n"
        f"  follow it:      bleen watch {deployment}\n"
        "  hold it:        bleen pause\n"
        "  take it back:   bleen abort"
    )


async def _patiently(manager: BlueGreenDeploymentManager, deployment: str, show: Callable[[StatusReport], None]) -> DeploymentResult:
    """The end of the deployment, also when the store does not answer for a while."""
    heard = time.monotonic()

    def on_report(report: StatusReport) -> None:
        nonlocal heard
        heard = time.monotonic()
        show(report)

    while True:
        try:
            return await manager.wait(deployment, on_report)
        except BleenError as error:
            if not isinstance(error, Transient) or time.monotonic() - heard > PATIENCE_S:
                message = f"deployment {deployment} goes on, but it cannot be followed: {error.message}"
                raise AttentionNeeded(message, next_command="bleen watch") from error
        await asyncio.sleep(POLL_S)


async def _shown(
    manager: BlueGreenDeploymentManager, order: Awaitable[DeploymentResult], show: Callable[[StatusReport], None]
) -> DeploymentResult:
    """The result of the order; what happens meanwhile is shown."""
    task = asyncio.ensure_future(order)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_S)
            try:
                show(await manager.status())
            except Transient:
                continue  # only a picture is missing: the order itself says what is wrong
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _is_going_back(seen: list[StatusReport]) -> bool:
    return bool(seen and seen[0].deployment and seen[0].deployment.status in ("rolling_back", "rolled_back"))
