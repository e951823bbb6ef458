"""The edge of the command line: every error becomes words and one of the promised exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from bleen.cli import output
from bleen.errors import BleenError

if TYPE_CHECKING:
    from bleen.config.locate import Place  # brings YAML, for which --help does not wait

DONE = 0
USAGE = 2
PERSON_NEEDED = 3
REFUSED = 4
INTERRUPTED = 130

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, each with `event` and `at`.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")]


class Command(TyperCommand):
    """A command whose errors end in the contract's exit codes, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        json_output = bool(ctx.params.get("json_output", False))
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort) as ending:
            # A question that was left with Ctrl-C or an empty stdin; typer would say 1, which means "rolled back" here.
            code = ending.exit_code if isinstance(ending, typer.Exit) else INTERRUPTED
        except BleenError as error:
            output.fail(error, json_output=json_output)
            code = error.exit_code
        except KeyboardInterrupt:
            output.say("bleen: interrupted")
            code = INTERRUPTED
        except BrokenPipeError:
            # Nobody reads any more. What was asked for goes on; closing stdout here keeps Python from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last boundary: an unexpected error is exit 3, never a traceback
            _unexpected(error, json_output=json_output)
            code = PERSON_NEEDED
        raise typer.Exit(code)


def config_path(ctx: typer.Context) -> Path:
    """The absolute path of the bleen.yaml that this call means. Raises ConfigurationError."""
    from bleen.config.locate import find_config

    named: Path | None = ctx.obj
    return find_config(Path.cwd(), named=named)


def service_place(path: Path) -> Place:
    """Which service the file describes and where its state lives. Raises ConfigurationError."""
    from bleen.config.locate import locate

    return locate(path)


def _unexpected(error: Exception, *, json_output: bool) -> None:
    if os.environ.get("BLEEN_DEBUG") == "1":
        traceback.print_exception(error)
    kind = type(error).__name__
    if json_output:
        output.emit("error", error=kind, message=str(error), next="BLEEN_DEBUG=1")
    output.say(f"bleen: unexpected {kind}: {output.clean(error)}; run with BLEEN_DEBUG=1 for the traceback")
