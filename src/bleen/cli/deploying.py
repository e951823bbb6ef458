"""bleen plan, deploy, watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleen.cli import output
from bleen.cli.boundary import DONE, INTERRUPTED, JsonOption, config_path, service_place
from bleen.model.release import Release

if TYPE_CHECKING:
    from bleen.cli.follow import Interrupt  # heavy: brings the manager
    from bleen.deployment.plan import DeployRequest

VersionOption = Annotated[str, typer.Option("--version", metavar="V", help="Version of the release.")]
CommitOption = Annotated[str, typer.Option("--commit-hash", metavar="H", help="Commit that it was built from.")]
BranchOption = Annotated[str, typer.Option("--branch", metavar="B", help="Branch that it was built from.")]
SkipTests = Annotated[bool, typer.Option("--skip-tests", help="Without the pre- and post-deployment tests.")]
SkipMigration = Annotated[bool, typer.Option("--skip-migration", help="Without the database migration.")]
SkipWarming = Annotated[bool, typer.Option("--skip-cache-warming", help="Without cache warming.")]
SkipLoad = Annotated[bool, typer.Option("--skip-load-testing", help="Without the load test.")]


def plan(
    ctx: typer.Context,
    version: VersionOption,
    commit_hash: CommitOption = "",
    branch: BranchOption = "",
    skip_tests: SkipTests = False,
    skip_migration: SkipMigration = False,
    skip_cache_warming: SkipWarming = False,
    skip_load_testing: SkipLoad = False,
    json_output: JsonOption = False,
) -> None:
    """Show what a deployment would do now. Changes nothing.

    \b
    Example:
      bleen plan --version 1.4.0
    """
    release = Release(version, commit_hash, branch)
    path = config_path(ctx)

    from bleen.cli.session import ask
    from bleen.cli.summary import plan_text
    from bleen.deployment.plan import DeployRequest

    request = DeployRequest(release, skip_tests, skip_migration, skip_cache_warming, skip_load_testing)
    found = ask(path, lambda manager: manager.plan(request))
    if not json_output:
        output.result(plan_text(found, version))
        return
    output.emit(
        "plan",
        version=version,
        candidate=found.candidate.value,
        baseline=found.baseline.value if found.baseline else "",
        steps=[step.to_dict() for step in found.steps],
        protections_off=found.protections_off,
    )


def deploy(
    ctx: typer.Context,
    version: VersionOption,
    commit_hash: CommitOption = "",
    branch: BranchOption = "",
    skip_tests: SkipTests = False,
    skip_migration: SkipMigration = False,
    skip_cache_warming: SkipWarming = False,
    skip_load_testing: SkipLoad = False,
    redeploy: Annotated[bool, typer.Option("--redeploy", help="Also when this version is active already.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is submitted; `bleen watch` follows it.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Make a release active, step by step.

    It is proven beside the old release, takes the traffic weight by weight, and the traffic goes back at the first real
    evidence of harm. Returns when the release is active and has baked (0), or when users are on the old one again (1).
    Ctrl-C leaves the deployment running in its controller (130).

    \b
    Examples:
      bleen deploy --version 1.4.0 --commit-hash abc123 --branch main
      bleen deploy --version 1.4.0 --json > events.jsonl
      bleen deploy --version 1.4.0 --detach --json
    """
    release = Release(version, commit_hash, branch)
    path = config_path(ctx)

    from bleen.cli.follow import run
    from bleen.deployment.plan import DeployRequest

    request = DeployRequest(release, skip_tests, skip_migration, skip_cache_warming, skip_load_testing, redeploy)
    raise typer.Exit(run(lambda interrupt: _deploy(path, request, interrupt, detach=detach, json_output=json_output)))


def watch(
    ctx: typer.Context,
    deployment: Annotated[str, typer.Argument(metavar="[DEPLOYMENT]", help="Its id; default: the one under way.", show_default=False)] = "",
    json_output: JsonOption = False,
) -> None:
    """Follow a deployment, by default the one under way, or wait for one.

    Ends when the deployment has ended, with the exit code that `bleen deploy` would have had.

    Ctrl-C leaves a deployment running (130); without one there is nothing to leave (0).

    \b
    Examples:
      bleen watch
      bleen watch 20261103-101530-4f2a
      bleen watch --json
    """
    path = config_path(ctx)

    from bleen.cli.follow import run

    raise typer.Exit(run(lambda interrupt: _watch(path, deployment, interrupt, json_output=json_output)))


async def _deploy(path: Path, request: DeployRequest, interrupt: Interrupt, *, detach: bool, json_output: bool) -> int:
    from bleen.cli.follow import display_for, follow
    from bleen.cli.summary import protections_lines
    from bleen.manager import DeploymentResult
    from bleen.wiring import open_manager

    async with open_manager(path, source="cli") as manager:
        preview = await manager.plan(request)
        for line in protections_lines(preview.protections_off):
            output.say(line)
        if interrupt.came:
            output.say("interrupted; nothing was submitted")
            return INTERRUPTED
        # Not cut short by Ctrl-C: whoever leaves shall know whether the deployment was submitted.
        submitted = await manager.submit(request)
        display = display_for(json_output=json_output)
        if isinstance(submitted, DeploymentResult):
            display.end(submitted, submitted.exit_code)
            return submitted.exit_code
        if json_output:
            output.emit(
                "deployment.submitted",
                deployment=submitted.id,
                version=request.release.version,
                candidate=submitted.candidate.value,
                baseline=submitted.baseline.value if submitted.baseline else "",
                protections_off=preview.protections_off,
            )
        output.say(f"deployment {submitted.id}: {request.release.version} to {submitted.candidate.value}")
        if detach:
            output.say(f"  next: bleen watch {submitted.id}")
            return DONE
        return await follow(manager, submitted.id, display, interrupt)


async def _watch(path: Path, deployment: str, interrupt: Interrupt, *, json_output: bool) -> int:
    from bleen.cli.follow import display_for, follow
    from bleen.wiring import open_manager

    place = service_place(path)
    deployment = deployment or await _first_active(place.state_dir, place.service, interrupt, json_output=json_output)
    if not deployment:
        return DONE
    async with open_manager(path, source="cli") as manager:
        return await follow(manager, deployment, display_for(json_output=json_output), interrupt)


async def _first_active(state_dir: Path, service: str, interrupt: Interrupt, *, json_output: bool) -> str:
    """The deployment under way, waited for when there is none; "" when the reader left before."""
    import asyncio

    from bleen.cli.follow import POLL_S, Interrupted, display_for
    from bleen.records.status import read_status

    report = read_status(state_dir, service)
    if report.deployment is not None and report.deployment.active:
        return report.deployment.id
    with display_for(json_output=json_output) as display:
        while report.deployment is None or not report.deployment.active:
            display.idle(report)
            try:
                await interrupt.unless(asyncio.sleep(POLL_S))
            except Interrupted:
                return ""
            report = read_status(state_dir, service)
    return report.deployment.id
