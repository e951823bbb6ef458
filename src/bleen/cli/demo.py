"""bleen demo: the local show, seen on a terminal, as plain lines, or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bleen.cli import output
from bleen.cli.boundary import INTERRUPTED
from bleen.cli.follow import Interrupt, Interrupted, display_for, run
from bleen.cli.lines import Display
from bleen.demo.show import ACTS, Act, Finale, perform
from bleen.manager import DeploymentResult
from bleen.records.status import StatusReport


def run_demo(*, json_output: bool, rate: int) -> int:
    """0 when everything went as it should, 3 when not, 130 after Ctrl-C. Nothing is left running."""

    async def show(interrupt: Interrupt) -> int:
        audience = _Spectator(json_output=json_output)
        try:
            finale = await interrupt.unless(perform(audience, rate=rate))
        except Interrupted:
            audience.leave()  # first: the view would draw over the sentence
            output.say("interrupted: what the demo had started has been stopped")
            return INTERRUPTED
        finally:
            audience.leave()
        _tell(finale, json_output=json_output)
        return 3 if finale.complaints else 0

    return run(show)


class _Spectator:
    """Shows each deployment as `bleen deploy` would."""

    def __init__(self, *, json_output: bool) -> None:
        self._json = json_output
        self._display: Display | None = None

    def prepared(self, folder: Path, url: str) -> None:
        output.say(f"bleen demo: a payments service behind nginx at {url}, state in {folder}, removed at the end")

    def begins(self, act: Act, deployment: str) -> None:
        output.say(f"\n{act.version}: {act.story}")
        if self._json:
            output.emit("demo.deployment", version=act.version, deployment=deployment)
        self._display = display_for(json_output=self._json, hint="Ctrl-C ends the demo and stops all that it started")
        self._display.__enter__()

    def sees(self, report: StatusReport) -> None:
        if self._display is not None:
            self._display.show(report)

    def ended(self, act: Act, result: DeploymentResult, figures: dict[str, Any]) -> None:
        if self._display is not None:
            self._display.end(result, result.exit_code)
        self.leave()
        if "failed_requests" in figures:
            failed, requests = figures["failed_requests"], figures["requests"]
            output.say(f"{act.version}: {failed} of {requests:,} requests failed, counted at the client")

    def leave(self) -> None:
        """The display is closed."""
        if self._display is not None:
            self._display.__exit__(None, None, None)
            self._display = None


def _tell(finale: Finale, *, json_output: bool) -> None:
    rows = [("RELEASE", "OUTCOME", "SECONDS", "REQUESTS", "FAILED", "BROKEN", "DETECTED", "RESTORED")]
    for figures in finale.deployments:
        after = [f"{figures[name]:.2f} s" if name in figures else "-" for name in ("detected_after_s", "restored_after_s")]
        counts = (f"{figures['requests']:,}", str(figures["failed_requests"]), str(figures["broken_connections"]))
        rows.append((figures["version"], figures["outcome"], f"{figures['duration_s']:.1f}", *counts, *after))
    say = output.say if json_output else output.result
    say("\n" + output.columns(rows))
    total = f"{finale.requests:,} requests, {finale.failed} failed, {finale.broken_connections} broken connections"
    verdict = "; ".join(finale.complaints) if finale.complaints else f"all {len(ACTS)} releases ended as they should"
    say(f"\n{total}: {verdict}; nothing is left running")
    if json_output:
        output.emit("demo.finished", **finale.to_dict())
