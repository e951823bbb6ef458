"""Reports made by hand, as the tests of the command line's texts need them, and the proof that they are well made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bleen.records.status import DeploymentView, ResidentView, StatusReport, StepView, WayBack

BEGAN = 1_793_000_000.0
STEPS = (
    ("preflight", "pre-deployment"),
    ("start", "deployment"),
    ("wait-healthy", "deployment"),
    ("shift-10", "traffic switching"),
    ("shift-100", "traffic switching"),
    ("bake", "post-deployment"),
    ("record", "post-deployment"),
)


def deployment(done: int = 3, state: str = "started", **changes: Any) -> DeploymentView:
    """2.0.0 on its way to green: `done` steps are done, the next one is in `state`."""
    states = ["done"] * done + [state] + ["waiting"] * len(STEPS)
    view = DeploymentView(
        id="20261025-101500-ab12",
        version="2.0.0",
        commit_hash="",
        branch="",
        status="running",
        paused=False,
        candidate="green",
        baseline="blue",
        baseline_version="1.0.0",
        reason="submitted",
        cause="",
        submitted_by="ann@host",
        submitted_at=BEGAN,
        ended_at=0.0,
        active_s=12.0,
        steps=[StepView(name, phase, states[index]) for index, (name, phase) in enumerate(STEPS)],
        outcome={},
    )
    return replace(view, **changes)


def report(view: DeploymentView | None = None, **changes: Any) -> StatusReport:
    """1.0.0 serves everybody from blue."""
    whole = StatusReport(
        service="payments",
        route={"blue": 100, "green": 0},
        route_applied=True,
        active_environment="blue",
        residents=[ResidentView("blue", "1.0.0", "running", False, None), ResidentView("green", "2.0.0", "running", False, None)],
        deployment=view,
        controller={"alive": True, "holder": "host:42", "epoch": 7, "expires_in_s": 9.0},
        way_back=WayBack(True, "blue", "1.0.0", "1.0.0 in blue: 200 in 3 ms; takes under a second", None),
        live={},
    )
    return replace(whole, **changes)


def live(sentence: str = "200 requests, nothing speaks against it", **verdict: Any) -> dict[str, Any]:
    """What the controller saw within the last moment."""
    tally = {"requests": 1200, "failures": 3, "requests_per_s": 40.0, "p95_ms": 12.0, "probes_failed_in_a_row": 0}
    return {
        "deployment": "20261025-101500-ab12",
        "step": "shift-10",
        "verdict": {
            "judgement": "inconclusive",
            "sentence": sentence,
            "cause": "",
            "evidence": 1.5,
            "needed": 100.0,
            "environments": {"blue": tally, "green": tally | {"requests": 130}},
        }
        | verdict,
    }


def test_a_report_made_by_hand_has_one_step_under_way() -> None:
    assert deployment().current == StepView("shift-10", "traffic switching", "started")
    assert report(deployment()).to_dict()["deployment"]["version"] == "2.0.0"
