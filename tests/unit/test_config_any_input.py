"""Whatever stands in the file, loading gives a configuration or a ConfigurationError."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bleen.config.effective import effective
from bleen.config.environment import VARIABLES
from bleen.config.load import load
from bleen.config.locate import locate
from bleen.errors import ConfigurationError

GOOD: dict[str, Any] = {
    "service": "payments",
    "environments": {
        "blue": {"endpoints": ["http://127.0.0.1:9001"], "health_url": None},
        "green": {"endpoints": ["http://127.0.0.1:9002"]},
    },
    "runtime": {"type": "process", "command": ["app"], "variables": {"A": "env:B"}},
    "traffic": {"type": "nginx", "listen": "*:80", "preview": "127.0.0.1:81", "control": "[::1]:82", "workers": 4},
    "deployment": {"bake": "1h30m", "weights": [1, 100], "step": {"dwell": "1.5s"}},
    "health": {"timeout": "1m", "path": "/h"},
    "checks": {"load_test": {"command": ["k6"], "undo": ["true"]}},
    "controller": {"lease": "5s"},
    "state": ".bleen",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["0s", "*:80", "http://[::1", "env:"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tolerant = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loads_or_refuses(path: Path, environ: dict[str, str]) -> None:
    with suppress(ConfigurationError):
        locate(path)
    with suppress(ConfigurationError):
        loaded = load(path, environ)
        rows = effective(loaded)
        json.dumps([row.value for row in rows])
        assert {row.key for row in rows} == set(loaded.origins)


@tolerant
@given(st.sampled_from(places(GOOD)), values)
def test_a_good_file_with_any_value_in_any_place(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    changed: Any = copy.deepcopy(GOOD)
    section = changed
    for part in place[:-1]:
        section = section[part]
    if place:
        section[place[-1]] = value
    else:
        changed = value
    path = tmp_path / "bleen.yaml"
    path.write_text(json.dumps(changed), encoding="utf-8")
    loads_or_refuses(path, {})


@tolerant
@given(st.text(alphabet="ab:-[]{}&*<!'\"#|>%@\\\n\t 01~?,.", max_size=60))
def test_a_file_of_any_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bleen.yaml"
    path.write_text(text, encoding="utf-8")
    loads_or_refuses(path, {})


@tolerant
@given(st.dictionaries(st.sampled_from([variable.name for variable in VARIABLES]), st.text(max_size=20)))
def test_a_good_file_with_any_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "bleen.yaml"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    loads_or_refuses(path, environ)
