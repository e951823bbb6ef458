"""The JSON Schema for editors agrees with the loader."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from bleen.config.fields import format_duration, parse_duration
from bleen.config.schema import Config, json_schema
from bleen.config.starter import starter

GOOD: dict[str, Any] = {
    "service": "payments",
    "environments": {"blue": {"endpoints": ["http://127.0.0.1:9001"]}, "green": {"endpoints": ["https://[::1]:9002"]}},
    "runtime": {"type": "process", "command": ["app"], "variables": {"A": "env:B"}},
    "traffic": {"type": "nginx", "listen": "*:80", "config_path": "", "workers": 4},
    "deployment": {"bake": "1h30m", "rollback_window": "0s", "weights": [1, 100], "step": {"dwell": "1.5s"}},
    "evidence": {"alpha": 0.05, "ratio": 2},
    "checks": {"load_test": {"command": ["k6"], "undo": ["true"]}, "cache_warming": None},
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(GOOD)
    section = changed
    *parents, last = path.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return changed


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$id" not in json_schema()
    assert json_schema()["title"] == "bleen.yaml"


def test_every_key_has_a_description() -> None:
    schema = json_schema()
    for name, section in [("bleen.yaml", schema), *schema["$defs"].items()]:
        assert section["description"], name
        for key, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, f"{name}.{key}"


def test_defaults_are_written_as_in_the_file() -> None:
    assert json_schema()["$defs"]["DeploymentOptions"]["properties"]["timeout"]["default"] == "30m"


@pytest.mark.parametrize(
    "document",
    [
        GOOD,
        yaml.safe_load(starter("payments")),
        with_change("runtime", {"type": "command", "start": ["a"], "stop": ["b"], "status": ["c"]}),
    ],
    ids=["good", "starter", "command"],
)
def test_what_the_loader_takes_the_schema_takes(document: dict[str, Any]) -> None:
    Config.model_validate(document)
    assert list(Draft202012Validator(json_schema()).iter_errors(document)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nonsense", 1),
        ("deployment.bakes", "1m"),
        ("deployment.step.dwel", "1m"),
        ("runtime.start", ["a"]),
        ("deployment.bake", 30),
        ("deployment.bake", "30"),
        ("deployment.bake", "0s"),
        ("deployment.bake", "1 m"),
        ("deployment.weights", []),
        ("deployment.weights", [10, 50]),
        ("deployment.weights", [0, 100]),
        ("deployment.weights", [100, 100]),
        ("deployment.gradual", "yes"),
        ("deployment", None),
        ("service", "Payments"),
        ("service", None),
        ("environments.blue.endpoints", []),
        ("environments.blue.endpoints", ["127.0.0.1:9001"]),
        ("environments.blue.health_url", "ftp://x/"),
        ("runtime", {"command": ["app"]}),
        ("runtime.type", "kubernetes"),
        ("runtime.command", "app"),
        ("runtime.command", []),
        ("runtime.variables", {"A-B": "x"}),
        ("runtime.variables", {"A": 1}),
        ("traffic.type", "haproxy"),
        ("traffic.listen", "127.0.0.1"),
        ("traffic.worker_user", "a; b"),
        ("health.failures", 0),
        ("health.path", "health"),
        ("evidence.alpha", 0.9),
        ("checks.load_test", {"timeout": "1m"}),
        ("state", "~/x"),
    ],
)
def test_a_mistake_fails_in_the_schema_and_in_the_loader(path: str, value: Any) -> None:
    document = with_change(path, value)
    assert list(Draft202012Validator(json_schema()).iter_errors(document)) != []
    with pytest.raises(ValidationError):
        Config.model_validate(document)


@given(st.integers(min_value=0, max_value=3650 * 86_400_000))
def test_a_written_duration_is_read_back_and_fits_the_schema(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    written = format_duration(duration)
    assert parse_duration(written) == duration
    assert _WINDOW.is_valid(written)


_WINDOW = Draft202012Validator(json_schema()["$defs"]["DeploymentOptions"]["properties"]["rollback_window"])


@given(st.text(max_size=12))
def test_no_text_makes_a_duration_fail_in_another_way_than_by_a_value_error(text: str) -> None:
    try:
        duration = parse_duration(text)
    except ValueError:
        return
    assert parse_duration(format_duration(duration)) == duration


@given(st.lists(st.tuples(st.integers(0, 10**12), st.sampled_from(["ms", "s", "m", "h", "d"])), min_size=1, max_size=4))
def test_durations_of_any_size_are_read_or_refused(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    try:
        assert parse_duration(text) <= timedelta(days=3650)
    except ValueError as error:
        assert "3650d" in str(error)  # noqa: PT017 - either outcome is right, each in its own way
