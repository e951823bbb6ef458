"""bleen controller run, start, stop, status: the process that drives deployments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleen.cli import output
from bleen.cli.boundary import INTERRUPTED, Command, JsonOption, config_path, service_place
from bleen.errors import UsageError, WrongState

if TYPE_CHECKING:
    from bleen.config.locate import Place  # brings YAML, for which --help does not wait

app = typer.Typer(
    help="The process that drives deployments. `bleen deploy` starts it by itself; production runs it under systemd.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("run", cls=Command)
def run_here(ctx: typer.Context) -> None:
    """Drive deployments in the foreground, until SIGTERM.

    \b
    Example:
      ExecStart=/usr/bin/bleen -c /etc/payments/bleen.yaml controller run
    """
    path = config_path(ctx)

    from bleen.wiring import run_controller

    raise typer.Exit(run_controller(path))


@app.command(cls=Command)
def start(ctx: typer.Context) -> None:
    """Start a controller in the background.

    A guardian keeps it alive. One that runs already is left alone.

    \b
    Example:
      bleen controller start
    """
    path = config_path(ctx)

    from bleen.wiring import start_controller

    start_controller(path)
    output.say("the controller is started\n  next: bleen controller status")


@app.command(cls=Command)
def stop(
    ctx: typer.Context,
    service: Annotated[bool, typer.Option("--service", help="Also stop the releases and the embedded proxy: users get no answer.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End the controller and its guardian.

    The service goes on: releases and proxy are left running.

    \b
    Examples:
      bleen controller stop
      bleen controller stop --service --yes      everything that bleen started
    """
    path = config_path(ctx)
    if service:
        place = service_place(path)
        _refuse_while_deploying(place)
        if not yes and not _confirmed(place):
            output.say("nothing was stopped")
            raise typer.Exit(INTERRUPTED)

    from bleen.wiring import stop_controller

    stopped = stop_controller(path)
    output.say(("the controller has stopped" if stopped else "no controller ran") + ("" if service else "; the service goes on"))
    if service:
        _stop_service(path)
        output.say("the service has stopped: releases and the embedded proxy")


@app.command(cls=Command)
def status(ctx: typer.Context, json_output: JsonOption = False) -> None:
    """Say whether a controller drives, and which one.

    \b
    Example:
      bleen controller status --json
    """
    from bleen.cli.summary import controller_sentence
    from bleen.records.status import read_status

    place = service_place(config_path(ctx))
    controller = read_status(place.state_dir, place.service).controller
    if json_output:
        output.emit("controller.status", service=place.service, **controller)
    else:
        output.result(controller_sentence(controller))


def _refuse_while_deploying(place: Place) -> None:
    """Checked before the controller ends: a deployment that nobody drives must not be left behind."""
    from bleen.records.status import read_status

    deployment = read_status(place.state_dir, place.service).deployment
    if deployment is not None and deployment.active:
        raise WrongState(f"deployment {deployment.id} is {deployment.status}; nothing was stopped", next_command="bleen abort")


def _confirmed(place: Place) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("stopping the service needs --yes where nobody can be asked", next_command="bleen controller stop --service --yes")
    return typer.confirm(f"Stop the service {place.service}? Its users get no answer until `bleen controller start`", err=True)


def _stop_service(path: Path) -> None:
    from bleen.cli.session import ask

    ask(path, lambda manager: manager.shut_down())
