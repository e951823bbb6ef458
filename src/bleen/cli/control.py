"""bleen pause, resume, promote, abort, rollback: what is asked of a deployment under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleen.cli import output
from bleen.cli.boundary import JsonOption, ReasonOption, config_path

if TYPE_CHECKING:
    from bleen.cli.follow import Interrupt  # heavy: brings the manager
    from bleen.manager import BlueGreenDeploymentManager, DeploymentResult
    from bleen.model.deployment import Deployment


def pause(ctx: typer.Context, reason: ReasonOption = "", json_output: JsonOption = False) -> None:
    """Hold the deployment at its present weight.

    The watch goes on: evidence of harm still rolls back.

    \b
    Example:
      bleen pause --reason "waiting for the release notes"
    """
    held = _order(config_path(ctx), lambda manager: manager.pause(reason))
    _told(held, "pause", "is paused; the watch goes on, and evidence of harm still rolls back", "bleen resume", json_output=json_output)


def resume(ctx: typer.Context, reason: ReasonOption = "", json_output: JsonOption = False) -> None:
    """Let a paused deployment go on.

    \b
    Example:
      bleen resume
    """
    going = _order(config_path(ctx), lambda manager: manager.resume(reason))
    _told(going, "resume", "goes on", "bleen watch", json_output=json_output)


def promote(
    ctx: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Straight to 100 %, not only to the next weight.")] = False,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """End the present weight, or the bake, now.

    \b
    Examples:
      bleen promote
      bleen promote --full --reason "hotfix"
    """
    hurried = _order(config_path(ctx), lambda manager: manager.promote(full=full, reason=reason))
    words = "goes straight to 100 %" if full else "leaves its present step"
    _told(hurried, "promote", words, "bleen watch", json_output=json_output)


def abort(ctx: typer.Context, reason: ReasonOption = "", json_output: JsonOption = False) -> None:
    """Take the deployment under way back.

    Traffic first, then its steps in reverse. Ends with 0 when users are on the old release again, else with 3.

    \b
    Example:
      bleen abort --reason "wrong branch"
    """
    _take_back(config_path(ctx), lambda manager: manager.abort(reason), json_output=json_output)


def rollback(ctx: typer.Context, reason: ReasonOption = "", json_output: JsonOption = False) -> None:
    """Put users back on the previous release, at once.

    During a deployment, or after it while its rollback window is open. Ends with 0 when users are on the previous release, else with 3.

    \b
    Examples:
      bleen rollback --reason "customers report wrong totals"
      bleen status        says whether a rollback is possible
    """
    _take_back(config_path(ctx), lambda manager: manager.rollback(reason), json_output=json_output)


def _order(path: Path, order: Callable[[BlueGreenDeploymentManager], Awaitable[Deployment]]) -> Deployment:
    from bleen.cli.session import ask

    return ask(path, order)


def _told(deployment: Deployment, command: str, words: str, next_command: str, *, json_output: bool) -> None:
    if json_output:
        output.emit(f"command.{command}", deployment=deployment.id, status=deployment.status.value, paused=deployment.paused)
    output.say(f"deployment {deployment.id} {words}\n  next: {next_command}")


def _take_back(path: Path, order: Callable[[BlueGreenDeploymentManager], Awaitable[DeploymentResult]], *, json_output: bool) -> None:
    from bleen.cli.follow import display_for, run, take_back
    from bleen.wiring import open_manager

    async def back(interrupt: Interrupt) -> int:
        async with open_manager(path, source="cli") as manager:
            display = display_for(json_output=json_output, before=await manager.status())
            return await take_back(manager, order(manager), display, interrupt)

    raise typer.Exit(run(back))
