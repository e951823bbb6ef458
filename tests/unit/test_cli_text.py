"""What status, history, plan and outcomes say to people."""

from __future__ import annotations

import pytest

from bleen.cli.output import clean, clean_lines, clean_log, columns, iso, span
from bleen.cli.summary import controller_sentence, figures_lines, history_text, idle_sentence, outcome_text, plan_text, status_text
from bleen.manager import DeploymentResult, PlanPreview
from bleen.model.deployment import Phase, PlannedStep
from bleen.model.environment import Environment
from bleen.records.history import Record
from bleen.records.status import ResidentView, WayBack
from tests.unit.test_cli_reports import BEGAN, deployment, report


def test_status_says_traffic_versions_step_way_back_and_controller() -> None:
    text = status_text(report(deployment(), route={"blue": 90, "green": 10}, active_environment=""))
    for words in (
        "payments",
        "blue 90 %",
        "green 10 %",
        "20261025-101500-ab12: running",
        "2.0.0 to green from 1.0.0 in blue",
        "traffic switching: shift-10, 3 of 7 steps done",
        "possible: 1.0.0 in blue: 200 in 3 ms; takes under a second",
        "alive: host:42, epoch 7",
    ):
        assert words in text


def test_status_says_that_an_ordered_route_is_not_confirmed() -> None:
    assert "the proxy has not confirmed it yet" in status_text(report(route_applied=False))


def test_status_says_why_no_rollback_is_possible() -> None:
    text = status_text(report(way_back=WayBack(False, "green", "1.0.0", "green is unhealthy: 503", None)))
    assert "not possible: green is unhealthy: 503" in text


def test_status_says_until_when_the_old_release_stands_ready() -> None:
    old = ResidentView("green", "1.0.0", "running", True, 3100.0)
    text = status_text(report(deployment(7, status="promoted"), residents=[old], way_back=WayBack(True, "green", "1.0.0", "x", 3100.0)))
    assert "1.0.0, running, adopted, retires in 51 min 40 s" in text
    assert "for another 51 min 40 s" in text


def test_status_before_the_first_deployment_names_the_next_command() -> None:
    text = status_text(report(route={"blue": 0, "green": 0}, active_environment="", residents=[]))
    assert "closed: nobody is served yet" in text
    assert "bleen deploy --version V" in text


def test_status_shows_control_characters_of_the_store_escaped() -> None:
    text = status_text(report(deployment(version="1\x1b[31m", reason="a\x07b\nc")))
    assert "\x1b" not in text.replace("\x1b[34m", "").replace("\x1b[32m", "").replace("\x1b[0m", "")  # its own colours
    assert "1\\x1b[31m" in text
    assert "a\\x07b" in text


def test_an_idle_service_is_told_in_one_sentence() -> None:
    assert idle_sentence(report()) == "no deployment is under way; 1.0.0 in blue has all users"
    assert "nobody is served yet" in idle_sentence(report(active_environment=""))


def test_a_controller_that_is_gone_is_told_with_the_command_that_starts_one() -> None:
    assert "bleen controller start" in controller_sentence({"alive": False, "holder": "host:1", "epoch": 3})


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("promoted", "2.0.0 is active"),
        ("already_active", "nothing to do"),
        ("rolled_back", "ROLLED BACK (health checks)"),
        ("refused", "nothing changed"),
        ("frozen", "a person is needed"),
        ("failed", "a person is needed"),
    ],
)
def test_every_outcome_is_told_with_its_reason(outcome: str, words: str) -> None:
    text = outcome_text(DeploymentResult("id", "2.0.0", outcome, "the reason", "health checks", 62.0))
    assert words in text
    assert "the reason" in text
    assert "took 1 min 2 s" in text


def test_figures_that_were_not_recorded_are_left_out() -> None:
    assert figures_lines({}) == []
    known = {"requests": 12000, "failed_requests": 4, "detected_after_s": 0.42, "restored_after_s": None}
    assert figures_lines(known) == ["  12,000 requests, 4 failed", "  detected after 0.4 s"]


def test_history_is_a_table_with_one_line_a_deployment() -> None:
    ended = deployment(7, status="rolled_back", reason="green answered 503\nsecond line", ended_at=BEGAN + 90)
    lines = history_text([Record(ended, []), Record(deployment(), [])]).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["ID", "VERSION", "OUTCOME", "WHEN", "TOOK", "BY", "REASON"]
    assert "rolled back" in lines[1]
    assert "1 min 30 s" in lines[1]
    assert lines[1].endswith("green answered 503")
    assert "under way" in lines[2]
    assert history_text([]) == "nothing was deployed yet"


def test_a_plan_names_the_candidate_the_steps_and_the_protections_that_are_off() -> None:
    steps = (
        PlannedStep("preflight", "preflight", Phase.PRE_DEPLOYMENT),
        PlannedStep("shift-10", "shift", Phase.TRAFFIC_SWITCHING, {"weight_pct": 10}),
    )
    text = plan_text(PlanPreview(Environment.GREEN, Environment.BLUE, steps, ["load test: skipped by this call"]), "2.0.0")
    assert "2.0.0 would go to green; users stay on blue until then" in text
    assert "weight_pct 10" in text
    assert text.endswith("without: load test: skipped by this call")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("plain ü", "plain ü"), ("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\nb"), ("\x9b", "\\x9b"), ("\u202e", "\\u202e"), ("\udcff", "\\udcff")],
)
def test_what_is_not_printable_is_shown_escaped(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_lines_stay_lines_where_an_error_lists_problems() -> None:
    assert clean_lines("one\ntwo\x1b") == "one\ntwo\\x1b"


def test_a_log_line_loses_its_colours_and_keeps_its_tabs() -> None:
    assert clean_log("\x1b[32mINFO\x1b[0m\tready\x07") == "INFO\tready\\x07"


def test_times_are_written_in_utc_with_milliseconds() -> None:
    assert iso(BEGAN + 0.1255) == "2026-10-26T07:33:20.125Z"


@pytest.mark.parametrize(("seconds", "said"), [(-1, "0.0 s"), (0.84, "0.8 s"), (42, "42 s"), (119.6, "2 min 0 s"), (3900, "1 h 5 min")])
def test_lengths_of_time_are_said_as_people_do(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_columns_are_aligned_and_never_cut() -> None:
    assert columns([("A", "B"), ("long " * 40, "x")]).splitlines()[1].endswith("x")
