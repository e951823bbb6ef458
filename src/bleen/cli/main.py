"""The command `bleen`. Light by rule: what is heavy is imported by the command that needs it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from bleen.cli import control, controller, deploying, output, reading, setup
from bleen.cli.boundary import Command

app = typer.Typer(
    name="bleen",
    help="Zero-downtime blue-green deployments with automatic rollback, on your own nginx.",
    epilog="Exit codes: 0 done; 1 failed and rolled back; 2 usage or configuration; 3 a person is needed; 4 refused, nothing"
    " changed; 130 interrupted here, still running there.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would double the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

for command in (
    setup.init,
    setup.check,
    setup.config,
    setup.schema,
    setup.adopt,
    deploying.plan,
    deploying.deploy,
    reading.status,
    deploying.watch,
    reading.history,
    control.pause,
    control.resume,
    control.promote,
    control.abort,
    control.rollback,
    reading.logs,
):
    app.command(cls=Command)(command)
app.add_typer(controller.app, name="controller")
app.command(cls=Command)(setup.demo)


def run() -> None:
    """The entry point: never fails on a text that the terminal's encoding cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.result(f"bleen {version('bleen')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            metavar="PATH",
            help="bleen.yaml or its folder; default: $BLEEN_CONFIG, else the nearest one upwards from here.",
        ),
    ] = "",
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say bleen's version.")] = False,
) -> None:
    """What stands before the command."""
    ctx.obj = Path(config) if config else None


if __name__ == "__main__":
    run()
