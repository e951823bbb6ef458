"""What the command line tells of a deployment, derived from one report after another."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from bleen.cli.changes import Change, Tracker
from bleen.cli.lines import JsonLines, PlainLines, line_of
from bleen.cli.view import frame, idle_frame
from bleen.manager import DeploymentResult
from bleen.records.status import StatusReport
from tests.unit.test_cli_reports import BEGAN, deployment, live, report

ENDED = DeploymentResult("20261025-101500-ab12", "2.0.0", "rolled_back", "green answered 503", "health checks", 12.5, {"requests": 1000})


class Clock:
    """Time that a test turns on."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def events(changes: list[Change]) -> list[str]:
    return [change.event + (f" {change.body['step']}" if "step" in change.body else "") for change in changes]


def test_each_step_is_told_once_when_it_begins_and_once_when_it_is_done() -> None:
    tracker = Tracker()
    assert events(tracker.see(report(deployment(done=0)))) == ["step.started preflight"]
    assert events(tracker.see(report(deployment(done=0)))) == []
    assert events(tracker.see(report(deployment(done=1)))) == ["step.done preflight", "step.started start"]


def test_a_step_that_began_and_ended_between_two_reports_is_told_in_full() -> None:
    tracker = Tracker(report(deployment(done=0, state="waiting")))
    assert events(tracker.see(report(deployment(done=1, state="waiting")))) == ["step.started preflight", "step.done preflight"]


def test_undone_steps_are_told_in_the_order_in_which_they_were_undone() -> None:
    before = deployment(done=3, state="failed", status="rolling_back")
    undone = replace(before, steps=[replace(step, state="undone") if step.state == "done" else step for step in before.steps])
    tracker = Tracker(report(before))
    assert events(tracker.see(report(undone))) == ["step.undone wait-healthy", "step.undone start", "step.undone preflight"]


def test_what_was_before_a_rollback_is_not_told_again() -> None:
    tracker = Tracker(report(deployment(done=7, status="promoted")))
    rolling = deployment(done=7, status="rolling_back", reason="abort by ann", cause="command")
    assert events(tracker.see(report(rolling))) == ["deployment.rolling_back"]


def test_a_shift_is_told_only_when_the_proxy_has_confirmed_it() -> None:
    tracker = Tracker()
    tracker.see(report(deployment()))
    ordered = report(deployment(), route={"blue": 90, "green": 10}, route_applied=False)
    assert tracker.see(ordered) == []
    (shift,) = tracker.see(replace(ordered, route_applied=True))
    assert shift.body == {"deployment": "20261025-101500-ab12", "candidate": "green", "weight_pct": 10, "blue": 90, "green": 10}
    assert tracker.see(replace(ordered, route_applied=True)) == []


def test_pause_resume_and_a_lost_controller_are_told() -> None:
    tracker = Tracker(report(deployment()))
    gone = {"alive": False, "holder": "host:42", "epoch": 7, "expires_in_s": 0.0}
    assert events(tracker.see(report(deployment(paused=True)))) == ["deployment.paused"]
    assert events(tracker.see(report(deployment(), controller=gone))) == ["deployment.resumed", "controller.lost"]
    assert events(tracker.see(report(deployment()))) == ["controller.alive"]


def test_figures_of_another_deployment_are_no_verdict() -> None:
    tracker = Tracker(report(deployment()))
    assert tracker.see(report(deployment(), live=live() | {"deployment": "another"})) == []
    assert events(tracker.see(report(deployment(), live=live()))) == ["verdict shift-10"]


def test_json_lines_hold_event_and_time_and_at_most_one_verdict_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = JsonLines(Tracker(report(deployment())), clock)
    for tenth in range(20):
        clock.now = BEGAN + tenth / 10
        lines.show(report(deployment(), live=live(evidence=float(tenth))))
    lines.end(ENDED, 1)
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in out] == ["verdict", "verdict", "deployment.ended"]
    assert out[0]["at"] == "2026-10-26T07:33:20.000Z"
    assert datetime.fromisoformat(out[1]["at"]).timestamp() - BEGAN == pytest.approx(1.0)
    assert {key: out[-1][key] for key in ("outcome", "reason", "cause", "duration_s", "figures", "exit_code")} == {
        "outcome": "rolled_back",
        "reason": "green answered 503",
        "cause": "health checks",
        "duration_s": 12.5,
        "figures": {"requests": 1000},
        "exit_code": 1,
    }


def test_plain_lines_say_a_new_sentence_of_the_verdict_at_most_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = PlainLines(Tracker(report(deployment())), clock)
    for second in range(8):
        clock.now = BEGAN + second
        lines.show(report(deployment(), live=live(sentence=f"{second} requests")))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.rsplit(": ", 1)[1] for line in captured.err.splitlines()] == ["0 requests", "3 requests", "6 requests"]


def test_an_idle_service_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(Tracker())
    lines.idle(report())
    lines.idle(report())
    assert capsys.readouterr().err.count("1.0.0 in blue has all users") == 1


def test_every_change_has_a_plain_line() -> None:
    tracker = Tracker(report(deployment(done=0, state="waiting")))
    rolling = deployment(done=3, state="failed", status="rolling_back", paused=True, reason="green answered 503")
    gone = {"alive": False, "holder": "", "epoch": 7, "expires_in_s": 0.0}
    changes = tracker.see(report(rolling, route={"blue": 90, "green": 10}, controller=gone, live=live()))
    said = [line_of(change) for change in changes]
    assert "traffic switching: shift-10 FAILED" in said
    assert "traffic: blue 90 %, green 10 %" in said
    assert "ROLLING BACK: green answered 503" in said
    assert all(said)


def test_a_reason_with_control_characters_does_not_reach_the_terminal() -> None:
    change = Change("deployment.rolling_back", {"reason": "\x1b]0;owned\x07\x9b2J", "cause": ""})
    assert line_of(change) == "ROLLING BACK: \\x1b]0;owned\\x07\\x9b2J"


def drawn(shown: StatusReport, width: int = 80, picture: Callable[[StatusReport, float], RenderableType] = frame) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=False)
    console.print(picture(shown, BEGAN + 65))
    file: Any = console.file
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_live_view_fits_a_small_terminal_and_shows_step_weight_figures_and_verdict() -> None:
    lines = drawn(report(deployment(), route={"blue": 90, "green": 10}, live=live()))
    text = "\n".join(lines)
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 80
    for words in ("payments", "2.0.0 to green from 1.0.0 in blue", "running  1 min 5 s", "blue  90 %", "10 % green", "40.0", "12 ms"):
        assert words in text
    assert "inconclusive: 200 requests, nothing speaks against it" in text
    assert "1.5 of 100" in text
    assert "▸" in next(line for line in lines if line.startswith("traffic switching"))


@pytest.mark.parametrize("status", ["running", "rolling_back", "frozen", "promoted", "rolled_back", "failed", "refused"])
def test_the_live_view_shows_every_status_without_any_figures(status: str) -> None:
    text = "\n".join(drawn(report(deployment(status=status, reason="because"), route={"blue": 0, "green": 0}, residents=[], live={})))
    assert status.replace("_", " ") in text
    assert "closed: nobody is served yet" in text


def test_the_live_view_takes_markup_and_control_characters_as_text() -> None:
    hostile = "[bold]x[/] \x1b[2J"
    text = "\n".join(drawn(report(deployment(version=hostile, status="frozen", reason=hostile), live=live(sentence=hostile)), width=120))
    assert text.count("[bold]x[/] \\x1b[2J") == 3
    assert "\x1b" not in text


def test_the_live_view_of_an_idle_service_says_where_it_stands() -> None:
    for shown in (report(), report(deployment(7, status="promoted", ended_at=BEGAN + 9))):
        text = "\n".join(drawn(shown, picture=idle_frame))
        assert "blue: 1.0.0" in text
        assert "waiting for a deployment" in text
        assert "▸" not in text


def test_a_rollback_tells_the_traffic_before_the_steps_that_it_undid() -> None:
    tracker = Tracker(report(deployment(), route={"blue": 90, "green": 10}))
    before = deployment()
    undone = replace(before, status="rolled_back", steps=[replace(step, state="undone") for step in before.steps[:4]])
    names = [change.event for change in tracker.see(report(undone))]
    assert names == ["deployment.rolling_back", "traffic.shifted", *["step.undone"] * 4]
