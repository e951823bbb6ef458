"""A deployment told as it goes: plain lines for people without a terminal, JSON lines for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from bleen.cli import output
from bleen.cli.changes import Change, Tracker
from bleen.cli.summary import idle_sentence, outcome_text
from bleen.records.status import StatusReport

if TYPE_CHECKING:
    from bleen.manager import DeploymentResult  # heavy, and needed by type checkers only

VERDICT_S = 3.0  # people: a new sentence at most this often
JSON_VERDICT_S = 1.0


class Display(Protocol):
    """Shows a deployment while it is followed, then how it ended."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def show(self, report: StatusReport) -> None: ...

    def idle(self, report: StatusReport) -> None:
        """Nothing is under way."""

    def end(self, result: DeploymentResult, exit_code: int) -> None: ...

    def detached(self, deployment: str) -> None:
        """The reader has left; the deployment goes on."""


class _Lines:
    """What both kinds of lines share: nothing is drawn, so nothing has to be cleaned up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class PlainLines(_Lines):
    """One line for each change on stderr."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.time) -> None:
        self._tracker = tracker
        self._clock = clock
        self._sentence = ""
        self._said_at = 0.0
        self._idle = ""

    def show(self, report: StatusReport) -> None:
        for change in self._tracker.see(report):
            if change.event != "verdict" or self._is_news(str(change.body.get("sentence", ""))):
                output.say(f"{output.local(self._clock(), '%H:%M:%S')}  {line_of(change)}")

    def idle(self, report: StatusReport) -> None:
        sentence = idle_sentence(report)
        if sentence != self._idle:
            output.say(f"{output.local(self._clock(), '%H:%M:%S')}  {sentence}")
        self._idle = sentence

    def end(self, result: DeploymentResult, exit_code: int) -> None:
        output.say(outcome_text(result))

    def detached(self, deployment: str) -> None:
        return None

    def _is_news(self, sentence: str) -> bool:
        now = self._clock()
        if not sentence or sentence == self._sentence or now - self._said_at < VERDICT_S:
            return False
        self._sentence, self._said_at = sentence, now
        return True


class JsonLines(_Lines):
    """One object for each change on stdout; the outcome on stderr too."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.time) -> None:
        self._tracker = tracker
        self._clock = clock
        self._verdict_at = 0.0
        self._idle = ""

    def show(self, report: StatusReport) -> None:
        for change in self._tracker.see(report):
            now = self._clock()
            if change.event == "verdict":
                if now - self._verdict_at < JSON_VERDICT_S:
                    continue
                self._verdict_at = now
            output.emit(change.event, now, **change.body)

    def idle(self, report: StatusReport) -> None:
        sentence = idle_sentence(report)
        if sentence != self._idle:
            output.emit("watch.idle", self._clock(), active_environment=report.active_environment, message=sentence)
        self._idle = sentence

    def end(self, result: DeploymentResult, exit_code: int) -> None:
        output.emit("deployment.ended", self._clock(), **result.to_dict(), exit_code=exit_code)
        output.say(outcome_text(result))

    def detached(self, deployment: str) -> None:
        output.emit("deployment.detached", self._clock(), deployment=deployment, exit_code=130)


def line_of(change: Change) -> str:
    """The change as one plain line."""
    body = {key: output.clean(value) for key, value in change.body.items()}
    return _LINES[change.event](body)


def _step(verb: str) -> Callable[[dict[str, Any]], str]:
    return lambda body: f"{body['phase']}: {body['step']} {verb}"


_LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "step.started": _step("begun"),
    "step.done": _step("done"),
    "step.failed": _step("FAILED"),
    "step.undone": _step("undone"),
    "traffic.shifted": lambda body: f"traffic: blue {body['blue']} %, green {body['green']} %",
    "verdict": lambda body: f"{body.get('judgement', 'verdict')}: {body.get('sentence', '')}",
    "deployment.paused": lambda body: "paused; the watch goes on (bleen resume)",
    "deployment.resumed": lambda body: "resumed",
    "deployment.rolling_back": lambda body: f"ROLLING BACK: {body['reason']}",
    "controller.lost": lambda body: "the controller went away; another one is being started",
    "controller.alive": lambda body: f"the controller drives: {body['holder']}",
}
