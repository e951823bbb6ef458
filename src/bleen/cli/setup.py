"""bleen init, check, config, schema, adopt, demo: the first steps."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleen.cli import output
from bleen.cli.boundary import REFUSED, JsonOption, config_path
from bleen.errors import Refused, UsageError
from bleen.model.environment import Environment
from bleen.model.release import Release

if TYPE_CHECKING:
    from bleen.manager import BlueGreenDeploymentManager  # heavy
    from bleen.traffic.router import Finding

SCHEMA_NAME = "bleen.schema.json"


def init(
    ctx: typer.Context,
    service: Annotated[str, typer.Option("--service", metavar="NAME", help="Name of the service; default: that of the folder.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a bleen.yaml that is there.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a bleen.yaml to begin with, and its schema for editors.

    \b
    Examples:
      bleen init --service payments
      bleen -c /etc/payments/bleen.yaml init --service payments
    """
    from bleen.config.starter import write_starter

    path = _target(ctx.obj)
    name = service or _service_name(path.parent.name)
    schema_path = path.with_name(SCHEMA_NAME)
    if schema_path.exists() and not path.exists() and not force:
        raise Refused(f"{schema_path} exists already; nothing was written", next_command="bleen init --force")
    write_starter(path, name, force=force)
    _write_schema(schema_path)
    if json_output:
        output.emit("config.written", path=str(path), schema=str(schema_path), service=name)
    output.say(f"wrote {output.clean(path)} for the service {name}, and {SCHEMA_NAME} beside it\n")
    output.say("Say in it how the service is started and where it answers, then:")
    output.say("  bleen check                      what is wrong before anything moves")
    output.say("  bleen deploy --version 1.0.0     the first release")
    output.say("  bleen demo                       a show on this machine, with a service of its own")


def check(ctx: typer.Context, json_output: JsonOption = False) -> None:
    """Say what is wrong before anything moves.

    Ends with 0 when a deployment may begin, with 2 when the configuration is wrong, with 4 when the world is not ready.

    \b
    Example:
      bleen check
    """
    path = config_path(ctx)

    from bleen.cli.session import ask
    from bleen.traffic.router import Finding, Severity

    async def look(manager: BlueGreenDeploymentManager) -> list[Finding]:
        warnings = [Finding(Severity.WARNING, "configuration", warning) for warning in manager.loaded.warnings]
        return warnings + await manager.check()

    findings = ask(path, look)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    for finding in findings:
        _tell_finding(finding, json_output=json_output)
    summary = f"{errors} errors, {len(findings) - errors} warnings" if findings else "nothing is wrong; a deployment may begin"
    if json_output:
        output.emit("check.ended", errors=errors, warnings=len(findings) - errors)
        output.say(summary)
    else:
        output.result(summary)
    if errors:
        raise typer.Exit(REFUSED)


def config(ctx: typer.Context, json_output: JsonOption = False) -> None:
    """Show every setting that holds, and where it comes from.

    \b
    Examples:
      bleen config
      bleen config --json
    """
    path = config_path(ctx)

    from bleen.config.effective import effective
    from bleen.config.load import load

    loaded = load(path, os.environ)
    rows = effective(loaded)
    if json_output:
        for row in rows:
            output.emit("config.value", key=row.key, value=row.value, origin=row.origin)
    else:
        output.result(
            output.columns([("KEY", "VALUE", "FROM"), *((row.key, output.clean(row.text), output.clean(row.origin)) for row in rows)])
        )
    for warning in loaded.warnings:
        output.say(f"warning: {output.clean(warning)}")


def schema(
    to_file: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there instead of to stdout.")] = None,
) -> None:
    """Give the JSON Schema of bleen.yaml, for editors.

    \b
    Examples:
      bleen schema --output bleen.schema.json
      bleen schema | jq .properties.deployment
    """
    if to_file is not None:
        _write_schema(to_file)
        output.say(f"wrote {output.clean(to_file)}")
        return
    output.result(_schema_text())


def adopt(
    ctx: typer.Context,
    environment: Annotated[Environment, typer.Option("--environment", help="Where the service runs already.")],
    version: Annotated[str, typer.Option("--version", metavar="V", help="What runs there.")],
    commit_hash: Annotated[str, typer.Option("--commit-hash", metavar="H", help="Commit that it was built from.")] = "",
    branch: Annotated[str, typer.Option("--branch", metavar="B", help="Branch that it was built from.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Take over a service that runs already, untouched.

    It becomes the active release: users reach it through the proxy, and the next deployment is compared with it.

    \b
    Example:
      bleen adopt --environment blue --version 1.3.0
    """
    Release(version, commit_hash, branch)  # a wrong name is told before anything is read
    path = config_path(ctx)

    from bleen.cli.session import ask

    adopted = ask(path, lambda manager: manager.adopt(environment, version, commit_hash, branch))
    if json_output:
        output.emit("release.adopted", deployment=adopted.id, version=version, environment=environment.value)
    output.say(f"{version} in {environment.value} is active as it runs; it was not touched\n  next: bleen deploy --version V")


def demo(
    rate: Annotated[int, typer.Option("--rate", min=1, max=10_000, metavar="N", help="Requests a second.")] = 600,
    json_output: JsonOption = False,
) -> None:
    """Show four deployments, good and bad, on this machine.

    A payments service of its own behind a real nginx, on free ports of 127.0.0.1, in a temporary folder; nothing is left.

    \b
    Example:
      bleen demo
    """
    from bleen.cli.demo import run_demo

    raise typer.Exit(run_demo(json_output=json_output, rate=rate))


def _target(named: Path | None) -> Path:
    """Where bleen.yaml is to be written: as named by -c, else by BLEEN_CONFIG, else here."""
    wanted = named or (Path(os.environ["BLEEN_CONFIG"]) if os.environ.get("BLEEN_CONFIG") else Path.cwd())
    return (wanted / "bleen.yaml" if wanted.is_dir() else wanted).absolute()


def _service_name(folder: str) -> str:
    """A name that the rules allow, as near to the folder's as they let it be."""
    return re.sub(r"[^a-z0-9]+", "-", folder.lower()).lstrip("-0123456789")[:39].strip("-") or "service"


def _schema_text() -> str:
    from bleen.config.schema import json_schema

    return json.dumps(json_schema(), indent=2)


def _write_schema(path: Path) -> None:
    try:
        path.write_text(_schema_text() + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", next_command="bleen schema") from error


def _tell_finding(finding: Finding, *, json_output: bool) -> None:
    if json_output:
        output.emit(
            "check.finding",
            severity=finding.severity.value,
            subject=finding.subject,
            message=finding.message,
            next=finding.next_command,
        )
        return
    output.result(f"{finding.severity.value}: {output.clean(finding.subject)}: {output.clean_lines(finding.message)}")
    if finding.next_command:
        output.result(f"  next: {output.clean(finding.next_command)}")
