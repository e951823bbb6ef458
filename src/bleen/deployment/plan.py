"""The way of a deployment, from top to bottom: four phases, their steps in order."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bleen.config.schema import CheckCommand, Config
from bleen.model.deployment import Phase, PlannedStep
from bleen.model.release import Release


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """What somebody asks for."""

    release: Release
    skip_tests: bool = False
    skip_migration: bool = False
    skip_cache_warming: bool = False
    skip_load_testing: bool = False
    redeploy: bool = False

    def options(self) -> dict[str, Any]:
        """The flags of the call, for the record."""
        return {name: value for name, value in asdict(self).items() if name != "release"}


def plan(config: Config, request: DeployRequest, *, first: bool) -> tuple[PlannedStep, ...]:
    """Every step of the deployment in order; each kind is implemented, with its undo, in `deployment.steps`."""
    checks = config.checks
    pre, deploy, switch, post = Phase.PRE_DEPLOYMENT, Phase.DEPLOYMENT, Phase.TRAFFIC_SWITCHING, Phase.POST_DEPLOYMENT

    steps = [PlannedStep("preflight", "preflight", pre)]
    steps += _check("pre-deployment-tests", pre, checks.pre_deployment_tests, skip=request.skip_tests)
    steps += _check("database-migration", pre, checks.database_migration, skip=request.skip_migration)

    steps += [PlannedStep("start", "start", deploy), PlannedStep("wait-healthy", "wait-healthy", deploy)]
    steps += _check("cache-warming", deploy, checks.cache_warming, skip=request.skip_cache_warming)
    steps += [PlannedStep("verify-preview", "verify-preview", deploy)]
    steps += _check("post-deployment-tests", deploy, checks.post_deployment_tests, skip=request.skip_tests)
    steps += _check("load-test", deploy, checks.load_test, skip=request.skip_load_testing)

    # A first deployment has no baseline to compare with: verified above, then everybody at once, judged absolutely.
    weights = config.deployment.weights if config.deployment.gradual and not first else [100]
    steps += [PlannedStep(f"shift-{weight}", "shift", switch, {"weight_pct": weight}) for weight in weights]

    steps += [PlannedStep("bake", "bake", post), PlannedStep("final-verification", "final-verification", post)]
    steps += [PlannedStep("record", "record", post)]
    return tuple(steps)


def protections_off(config: Config, request: DeployRequest, *, first: bool) -> list[str]:
    """One sentence for each protection that this deployment goes without although bleen has it."""
    checks, deployment = config.checks, config.deployment
    found = []
    if first:
        found.append("first deployment: there is no baseline to compare with and no way back to an older release")
    if not deployment.auto_rollback:
        found.append("automatic rollback is off: evidence of harm freezes the deployment and asks a person")
    if not deployment.gradual:
        found.append("gradual traffic switch is off: all users move at once")
    if deployment.gradual and not first and deployment.step.min_requests == 0:
        found.append("deployment.step.min_requests is 0: a weight passes by time alone, even when nobody came")
    for name, check, skipped in (
        ("pre-deployment tests", checks.pre_deployment_tests, request.skip_tests),
        ("database migration", checks.database_migration, request.skip_migration),
        ("cache warming", checks.cache_warming, request.skip_cache_warming),
        ("post-deployment tests", checks.post_deployment_tests, request.skip_tests),
        ("load test", checks.load_test, request.skip_load_testing),
    ):
        if check is not None and (skipped or not check.enabled):
            found.append(f"{name}: configured, but {'skipped by this call' if skipped else 'switched off'}")
    return found


def _check(name: str, phase: Phase, check: CheckCommand | None, *, skip: bool) -> list[PlannedStep]:
    """The step, when it is configured, switched on and not skipped by the call."""
    if check is None or not check.enabled or skip:
        return []
    return [PlannedStep(name, "check-command", phase, {"check": name.replace("-", "_")})]
