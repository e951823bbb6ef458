"""The live view of a deployment on a terminal. Rich is imported here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bleen.cli import output
from bleen.cli.changes import live_of
from bleen.cli.summary import controller_sentence, outcome_text, status_text, way_back_sentence
from bleen.records.status import DeploymentView, StatusReport, StepView

if TYPE_CHECKING:
    from bleen.manager import DeploymentResult  # heavy, and needed by type checkers only

FRAME_S = 1 / 8
_MARKS = {"waiting": "·", "started": "▸", "done": "✓", "failed": "✗", "undone": "↩"}
_STYLES = {"waiting": "dim", "started": "bold yellow", "done": "green", "failed": "bold red", "undone": "yellow"}
_STATES = {"running": "bold", "rolling_back": "bold red", "frozen": "bold red", "promoted": "bold green", "rolled_back": "bold yellow"}
_LABEL_WIDTH = 18  # "traffic switching"


HINT = "Ctrl-C leaves it running; bleen pause, bleen abort"


class LiveView:
    """Redraws one frame at about 8 Hz on stderr; the last frame stays."""

    def __init__(self, hint: str = "") -> None:
        self._frame = partial(frame, hint=hint or HINT)
        self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False)
        self._drawn_at = 0.0
        self._last: StatusReport | None = None
        self._picture: Callable[[StatusReport, float], RenderableType] = self._frame

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._finish()

    def show(self, report: StatusReport) -> None:
        self._keep(report, self._frame)

    def idle(self, report: StatusReport) -> None:
        self._keep(report, idle_frame)

    def end(self, result: DeploymentResult, exit_code: int) -> None:
        """The outcome stands below the last frame."""
        self._finish()
        output.say(outcome_text(result))

    def detached(self, deployment: str) -> None:
        return None

    def _keep(self, report: StatusReport, picture: Callable[[StatusReport, float], RenderableType]) -> None:
        self._last, self._picture = report, picture
        if time.monotonic() - self._drawn_at >= FRAME_S:
            self._draw(report)

    def _finish(self) -> None:
        if not self._live.is_started:
            return
        if self._last is not None:
            self._draw(self._last)
        self._live.stop()

    def _draw(self, report: StatusReport) -> None:
        self._drawn_at = time.monotonic()
        self._live.update(self._picture(report, time.time()), refresh=True)


def frame(report: StatusReport, now: float, hint: str = HINT) -> RenderableType:
    """One picture of the deployment under way or ended last."""
    deployment = report.deployment
    if deployment is None:
        return idle_frame(report, now)
    live = live_of(report)
    return Group(
        _title(report.service, deployment, now),
        Text(),
        _phases(deployment.steps),
        Text(),
        _weights(report),
        Text(),
        _figures(report, live),
        *_verdict(live),
        _line("way back", Text(way_back_sentence(report.way_back))),
        _line("controller", Text(controller_sentence(report.controller))),
        *([Text(hint, style="dim")] if deployment.status == "running" else []),
    )


def idle_frame(report: StatusReport, now: float) -> RenderableType:
    """One picture of a service that nothing happens to."""
    return Group(Text.from_ansi(status_text(report)), Text("\nwaiting for a deployment; Ctrl-C ends", style="dim"))


def _title(service: str, deployment: DeploymentView, now: float) -> RenderableType:
    state = "paused" if deployment.paused and deployment.status == "running" else deployment.status.replace("_", " ")
    elapsed = (deployment.ended_at or now) - deployment.submitted_at
    origin = f" from {deployment.baseline_version} in {deployment.baseline}" if deployment.baseline_version else " (the first)"
    left = Text.assemble((output.clean(service), "bold"), "  ", output.clean(deployment.version), " to ")
    left.append(deployment.candidate, style=_environment(deployment.candidate)).append(output.clean(origin))
    right = Text.assemble((state, _STATES.get(deployment.status, "bold")), "  ", output.span(elapsed))
    table = Table.grid(expand=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(left, right)
    if deployment.status != "running" and deployment.reason:
        return Group(table, Text(output.clean(deployment.reason), style=_STATES.get(deployment.status, "")))
    return table


def _phases(steps: list[StepView]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=_LABEL_WIDTH, no_wrap=True)
    table.add_column()
    for phase in dict.fromkeys(step.phase for step in steps):
        inside = [step for step in steps if step.phase == phase]
        state = _phase_state(inside)
        words = Text()
        for step in inside:
            # Without a space: a line may end between two steps, never between a mark and its name.
            words.append(f"{_MARKS.get(step.state, '?')}{output.clean(step.name)}", style=_STYLES.get(step.state, "")).append("  ")
        table.add_row(Text(output.clean(phase), style=_STYLES[state]), words)
    return table


def _phase_state(steps: list[StepView]) -> str:
    states = {step.state for step in steps}
    for state in ("failed", "started", "undone"):
        if state in states:
            return state
    if states == {"done"}:
        return "done"
    return "started" if "done" in states else "waiting"


def _weights(report: StatusReport) -> RenderableType:
    """One bar: blue's share from the left, green's from the right."""
    blue, green = report.route.get("blue", 0), report.route.get("green", 0)
    if not blue + green:
        return _line("traffic", Text("closed: nobody is served yet", style="dim"))
    size = 36  # with its words it fits 80 columns
    cells = round(size * blue / 100)
    bar = Text.assemble(("█" * cells, "blue"), ("▒" * (size - cells), "green"))
    said = Text.assemble((f"blue {blue:>3} % ", "blue"), bar, (f" {green:>3} % green", "green"))
    return _line("traffic" if report.route_applied else "traffic, ordered", said)


def _figures(report: StatusReport, live: dict[str, Any]) -> RenderableType:
    tallies = live.get("verdict", {}).get("environments", {})
    versions = {resident.environment: resident.version for resident in report.residents}
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=_LABEL_WIDTH - 1, no_wrap=True)
    table.add_column(max_width=24, no_wrap=True, overflow="ellipsis")
    for _ in range(5):
        table.add_column(justify="right", no_wrap=True)
    table.add_row(*(Text(word, style="dim") for word in ("environment", "version", "req/s", "requests", "failed", "p95", "probes")))
    for environment in ("blue", "green"):
        tally = tallies.get(environment, {})
        table.add_row(
            Text(environment, style=_environment(environment)), Text(output.clean(versions.get(environment, "-"))), *_tally_cells(tally)
        )
    return table


def _tally_cells(tally: dict[str, Any]) -> list[Text]:
    if not tally:
        return [Text("-", style="dim")] * 5
    failures, missed = tally.get("failures", 0), tally.get("probes_failed_in_a_row", 0)
    return [
        Text(f"{tally.get('requests_per_s', 0):,.1f}"),
        Text(f"{tally.get('requests', 0):,}"),
        Text(f"{failures:,}", style="bold red" if failures else ""),
        Text(f"{tally.get('p95_ms', 0):,.0f} ms"),
        Text(f"{missed} failed" if missed else "ok", style="bold red" if missed else "green"),
    ]


def _verdict(live: dict[str, Any]) -> list[RenderableType]:
    verdict = live.get("verdict")
    if not verdict:
        return [Text(), _line("verdict", Text("none yet", style="dim")), _line("evidence", Text("-", style="dim"))]
    judgement = str(verdict.get("judgement", ""))
    style = {"pass": "green", "fail": "bold red"}.get(judgement, "yellow")
    sentence = Text.assemble((output.clean(judgement), style), ": ", output.clean(verdict.get("sentence", "")))
    evidence = f"{verdict.get('evidence', 1.0):,.1f} of {verdict.get('needed', 0):,.0f} that take the traffic back"
    return [Text(), _line("verdict", sentence), _line("evidence", Text(evidence))]


def _line(label: str, words: RenderableType) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=_LABEL_WIDTH, no_wrap=True)
    table.add_column()
    table.add_row(Text(label, style="dim"), words)
    return table


def _environment(name: str) -> str:
    return f"bold {name}" if name in ("blue", "green") else ""
