"""bleen status, history, logs: what is and what was. They change nothing, and read the store without the manager."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bleen.cli import output
from bleen.cli.boundary import JsonOption, config_path, service_place
from bleen.errors import UsageError, WrongState
from bleen.model.environment import Environment

if TYPE_CHECKING:
    from bleen.config.locate import Place  # brings YAML, for which --help does not wait


def status(ctx: typer.Context, json_output: JsonOption = False) -> None:
    """Say where the service stands.

    Traffic, environments, the newest deployment, whether a rollback is possible and to what, the controller.

    \b
    Examples:
      bleen status
      bleen status --json
    """
    from bleen.cli.summary import status_text
    from bleen.records.status import read_status

    place = service_place(config_path(ctx))
    report = read_status(place.state_dir, place.service)
    if json_output:
        output.emit("status", **report.to_dict())
    else:
        output.result(status_text(report))


def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10000, metavar="N", help="How many deployments, newest first.")] = 20,
    json_output: JsonOption = False,
) -> None:
    """List deployments: outcome, reason, who, when, how long.

    \b
    Examples:
      bleen history --limit 5
      bleen history --json      with every event
    """
    from bleen.cli.summary import history_text
    from bleen.records.history import read_history

    place = service_place(config_path(ctx))
    records = read_history(place.state_dir, place.service, limit)
    if not json_output:
        output.result(history_text(records))
        return
    for record in records:
        output.emit("deployment.record", record.deployment.ended_at or record.deployment.submitted_at, **_json_record(record.to_dict()))


def logs(
    ctx: typer.Context,
    environment: Annotated[
        Environment | None, typer.Argument(help="Default: where the deployment under way goes, else the active one.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, metavar="N", help="How many of the last lines.")] = 100,
    of_controller: Annotated[bool, typer.Option("--controller", help="The controller's log instead of a release's.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Show the last lines of a release, or of the controller.

    \b
    Examples:
      bleen logs green --lines 50
      bleen logs --controller
    """
    if of_controller and environment is not None:
        raise UsageError("the controller has one log for both environments", next_command="bleen logs --controller")
    path = config_path(ctx)
    place = service_place(path)
    if of_controller:
        source, found = "controller", _controller_lines(place, lines)
    else:
        chosen = environment or _interesting(place)
        source, found = chosen.value, _release_lines(path, chosen, lines)
    for line in found:
        if json_output:
            output.emit("log.line", source=source, line=line)
        else:
            output.result(output.clean_log(line))


def _json_record(body: dict[str, Any]) -> dict[str, Any]:
    """The deployment's fields with its events; their times as the contract writes them."""
    events = [event | {"at": output.iso(event["at"])} for event in body["events"]]
    return {"deployment": body["deployment"], "events": events}


def _interesting(place: Place) -> Environment:
    from bleen.records.status import read_status

    report = read_status(place.state_dir, place.service)
    if report.deployment is not None and report.deployment.active:
        return Environment(report.deployment.candidate)
    if report.active_environment:
        return Environment(report.active_environment)
    raise WrongState("no environment is active: name one", next_command="bleen logs blue")


def _controller_lines(place: Place, lines: int) -> list[str]:
    log: Path = place.state_dir / "controller.log"
    try:
        with log.open("rb") as file:
            # The end of the file is enough: a line of the controller's is far below a kilobyte.
            file.seek(max(0, log.stat().st_size - lines * 1024))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError as error:
        raise WrongState("no controller has run yet: there is no log", next_command="bleen controller start") from error


def _release_lines(path: Path, environment: Environment, lines: int) -> list[str]:
    from bleen.cli.session import ask

    return ask(path, lambda manager: manager.logs(environment, lines))
