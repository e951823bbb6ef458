"""What status, history and plan say to people: text from reports, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bleen.cli.output import clean, clean_lines, columns, environment_style, local, span
from bleen.records.history import Record
from bleen.records.status import DeploymentView, ResidentView, StatusReport, WayBack

if TYPE_CHECKING:
    from bleen.manager import DeploymentResult, PlanPreview  # heavy, and needed by type checkers only


def status_text(report: StatusReport) -> str:
    """Where the service stands, a dozen lines."""
    lines = [("service", clean(report.service)), ("traffic", _traffic(report)), ("active", _active(report))]
    lines += [(resident.environment, _resident(resident, watched=bool(report.controller.get("alive")))) for resident in report.residents]
    lines += [("deployment" if index == 0 else "", line) for index, line in enumerate(_deployment(report.deployment))]
    lines += [("rollback", way_back_sentence(report.way_back)), ("controller", controller_sentence(report.controller))]
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def idle_sentence(report: StatusReport) -> str:
    """What is true while nothing is under way, in one line."""
    if not report.active_environment:
        return "no deployment is under way; nobody is served yet"
    version = next((resident.version for resident in report.residents if resident.environment == report.active_environment), "")
    return f"no deployment is under way; {clean(version or 'an unknown version')} in {report.active_environment} has all users"


def way_back_sentence(way_back: WayBack) -> str:
    """Whether a rollback is possible, to what, how fast and for how long; or why not."""
    if not way_back.possible:
        return f"not possible: {clean(way_back.evidence)}"
    left = f"; for another {span(way_back.expires_in_s)}" if way_back.expires_in_s is not None else ""
    return f"possible: {clean(way_back.evidence)}{left}"


def controller_sentence(controller: dict[str, Any]) -> str:
    """Whether somebody drives."""
    if controller.get("alive"):
        return f"alive: {clean(controller.get('holder', ''))}, epoch {controller.get('epoch', 0)}"
    if controller.get("holder"):
        return f"not alive; the last was {clean(controller['holder'])}, epoch {controller.get('epoch', 0)} (bleen controller start)"
    return "not alive (bleen deploy starts it)"


def outcome_text(result: DeploymentResult) -> str:
    """How it ended: the sentence, then the figures that were recorded."""
    version, reason = clean(result.version), clean_lines(result.reason)
    heads = {
        "promoted": f"{version} is active: {reason}",
        "already_active": f"nothing to do: {reason}",
        "rolled_back": f"{version} was ROLLED BACK ({clean(result.cause or 'no cause recorded')}): {reason}",
        "refused": f"REFUSED, nothing changed: {reason}",
        "frozen": f"FROZEN, a person is needed: {reason}\n  next: bleen rollback, or bleen status",
        "failed": f"FAILED, a person is needed: {reason}\n  next: bleen status",
    }
    lines = [heads.get(result.outcome, f"{clean(result.outcome)}: {reason}")]
    if result.figures.get("next"):
        lines.append(f"  next: {clean(result.figures['next'])}")
    if result.duration_s:
        lines.append(f"  took {span(result.duration_s)}")
    return "\n".join(lines + figures_lines(result.figures))


def figures_lines(figures: dict[str, Any]) -> list[str]:
    """The known figures of an outcome as sentences; a figure that is missing is left out."""
    lines = []
    if isinstance(requests := figures.get("requests"), int):
        lines.append(f"  {requests:,} requests, {figures.get('failed_requests', 0):,} failed")
    times = [
        f"{words} {span(float(figures[name]))}"
        for name, words in (("detected_after_s", "detected after"), ("restored_after_s", "restored after"))
        if isinstance(figures.get(name), int | float)
    ]
    return [*lines, *([f"  {', '.join(times)}"] if times else [])]


def history_text(records: list[Record]) -> str:
    """The deployments as a table, newest first."""
    if not records:
        return "nothing was deployed yet"
    head = ("ID", "VERSION", "OUTCOME", "WHEN", "TOOK", "BY", "REASON")
    return columns([head, *(_record_row(record.deployment) for record in records)])


def plan_text(preview: PlanPreview, version: str) -> str:
    """What a deployment would do, step by step."""
    baseline = f"users stay on {preview.baseline.value} until then" if preview.baseline else "the first deployment"
    rows = [("PHASE", "STEP", "WHAT")]
    phase = ""
    for step in preview.steps:
        words = ", ".join(f"{key} {clean(value)}" for key, value in step.arguments.items())
        rows.append(("" if step.phase.value == phase else step.phase.value, step.name, words))
        phase = step.phase.value
    lines = [f"{clean(version)} would go to {preview.candidate.value}; {baseline}", "", columns(rows)]
    return "\n".join([*lines, *([""] if preview.protections_off else []), *protections_lines(preview.protections_off)])


def protections_lines(protections_off: list[str]) -> list[str]:
    """One line for each protection that is switched off."""
    return [f"without: {clean(sentence)}" for sentence in protections_off]


def _traffic(report: StatusReport) -> str:
    if not any(report.route.values()):
        return "closed: nobody is served yet"
    shares = ", ".join(environment_style(name, f"{name} {weight} %") for name, weight in sorted(report.route.items()) if weight)
    return shares if report.route_applied else f"{shares} (ordered; the proxy has not confirmed it yet)"


def _active(report: StatusReport) -> str:
    if not report.active_environment:
        return "none"
    version = next((resident.version for resident in report.residents if resident.environment == report.active_environment), "")
    return environment_style(report.active_environment, report.active_environment) + (f": {clean(version)}" if version else "")


def _resident(resident: ResidentView, *, watched: bool) -> str:
    state = "running" if watched else "should run: without a controller nobody looks"
    words = [clean(resident.version), state if resident.wanted == "running" else clean(resident.wanted)]
    words += ["adopted"] if resident.adopted else []
    words += [f"retires in {span(resident.retire_in_s)}"] if resident.retire_in_s is not None and resident.wanted == "running" else []
    return ", ".join(words)


def _deployment(deployment: DeploymentView | None) -> list[str]:
    if deployment is None:
        return ["none yet (bleen deploy --version V)"]
    state = "paused" if deployment.active and deployment.paused and deployment.status == "running" else deployment.status.replace("_", " ")
    origin = f" from {clean(deployment.baseline_version)} in {deployment.baseline}" if deployment.baseline_version else ""
    lines = [f"{clean(deployment.id)}: {state}", f"{clean(deployment.version)} to {deployment.candidate}{origin}"]
    if deployment.active:
        current = deployment.current
        done = sum(step.state == "done" for step in deployment.steps)
        where = f"{current.phase}: {clean(current.name)}, " if current else ""
        lines.append(f"{where}{done} of {len(deployment.steps)} steps done")
    if deployment.reason and deployment.reason != "submitted":
        lines += clean_lines(deployment.reason).split("\n")
    return lines


def _record_row(deployment: DeploymentView) -> tuple[str, ...]:
    took = span(deployment.ended_at - deployment.submitted_at) if deployment.ended_at else "under way"
    return (
        clean(deployment.id),
        clean(deployment.version),
        deployment.status.replace("_", " "),
        local(deployment.submitted_at),
        took,
        clean(deployment.submitted_by),
        clean(deployment.reason.split("\n")[0]),
    )
