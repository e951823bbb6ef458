"""The user's own commands: tests, migration, cache warming, load test."""

from __future__ import annotations

from typing import Any

from bleen.config.schema import CheckCommand
from bleen.deployment.context import Context
from bleen.errors import ProofFailed
from bleen.model.deployment import PlannedStep


class CheckCommandStep:
    """The command ended with 0. Commands must bear to be run again: a killed controller repeats the one that was under way."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        return _check(context, step).timeout.total_seconds() + 30

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        result = await context.ports.run_check(_check(context, step), _names(context), False)
        if not result.passed:
            said = f": {' | '.join(result.output[-5:])}" if result.output else ""
            log = context.ports.state_dir / "run" / "checks.log"
            raise ProofFailed(f"{step.name} failed, {result.evidence}{said}", next_command=f"less {log}")
        return {"evidence": result.evidence}

    async def undo(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        check = _check(context, step)
        if check.undo is None:
            return {"kept": "no undo is configured"} if step.name == "database-migration" else {}
        result = await context.ports.run_check(check, _names(context), True)
        return {"evidence": result.evidence} if result.passed else {"kept": f"failed: its undo: {result.evidence}"}


def _check(context: Context, step: PlannedStep) -> CheckCommand:
    check: CheckCommand | None = getattr(context.ports.config.checks, str(step.arguments["check"]))
    if check is None:
        raise ProofFailed(f"{step.name} is in the plan but not in the configuration that was pinned with it")
    return check


def _names(context: Context) -> dict[str, str]:
    """What is replaced in the command's arguments."""
    deployment, ports = context.deployment, context.ports
    preview = ports.proxy.router.preview(deployment.candidate)
    return {
        "service": deployment.service,
        "version": deployment.release.version,
        "commit_hash": deployment.release.commit_hash,
        "branch": deployment.release.branch,
        "environment": deployment.candidate.value,
        "base_url": ports.config.environments.of(deployment.candidate).endpoints[0],
        "preview_url": preview.url,
        "deployment": deployment.id,
    }
