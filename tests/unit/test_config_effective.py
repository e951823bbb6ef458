"""What `bleen config` shows, and the digest of what a release runs with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bleen.config.digest import release_digest
from bleen.config.effective import Row, effective
from bleen.config.load import load
from bleen.config.schema import Config

TEXT = """\
service: payments
environments:
  blue: {endpoints: ["http://127.0.0.1:9001"]}
  green: {endpoints: ["http://127.0.0.1:9002"]}
runtime:
  type: process
  command: [app, --port, "{port}"]
  variables: {DB_PASSWORD: "env:DB_PASSWORD"}
checks:
  load_test: {command: [k6, run]}
"""


def config(folder: Path, text: str = TEXT, environ: dict[str, str] | None = None) -> Config:
    (folder / "bleen.yaml").write_text(text, encoding="utf-8")
    return load(folder / "bleen.yaml", environ or {}).config


def rows(folder: Path, environ: dict[str, str]) -> dict[str, Row]:
    (folder / "bleen.yaml").write_text(TEXT, encoding="utf-8")
    return {row.key: row for row in effective(load(folder / "bleen.yaml", environ))}


def test_every_key_has_a_value_and_an_origin(tmp_path: Path) -> None:
    found = rows(tmp_path, {"ENABLE_AUTO_ROLLBACK": "off"})
    assert found["deployment.auto_rollback"] == Row("deployment.auto_rollback", False, "env ENABLE_AUTO_ROLLBACK")
    assert found["deployment.bake"] == Row("deployment.bake", "10m", "default")
    assert found["checks.load_test.command"] == Row("checks.load_test.command", ["k6", "run"], "bleen.yaml:10")
    assert found["checks.load_test.timeout"] == Row("checks.load_test.timeout", "10m", "default")
    assert found["checks.cache_warming"] == Row("checks.cache_warming", None, "default")


def test_the_keys_come_in_the_order_of_the_schema(tmp_path: Path) -> None:
    keys = list(rows(tmp_path, {}))
    sections = list(dict.fromkeys(key.split(".")[0] for key in keys))
    assert sections == list(Config.model_fields)


def test_a_value_reads_as_text_or_json(tmp_path: Path) -> None:
    found = rows(tmp_path, {})
    assert found["deployment.gradual"].text == "true"
    assert found["deployment.weights"].text == "[10, 25, 50, 75, 100]"
    assert found["service"].text == "payments"


@pytest.mark.parametrize(
    ("old", "new"),
    [("[app,", "[other,"), ("env:DB_PASSWORD", "env:OTHER"), ("type: process", "type: process\n  directory: releases")],
)
def test_the_digest_changes_with_what_runs(tmp_path: Path, old: str, new: str) -> None:
    before = release_digest(config(tmp_path), "abc")
    assert release_digest(config(tmp_path, TEXT.replace(old, new)), "abc") != before


def test_the_digest_changes_with_the_commit(tmp_path: Path) -> None:
    assert release_digest(config(tmp_path), "abc") != release_digest(config(tmp_path), "abd")


def test_the_digest_does_not_change_with_timeouts_or_with_what_a_reference_resolves_to(tmp_path: Path) -> None:
    before = release_digest(config(tmp_path), "abc")
    text = (
        TEXT.replace("type: process", "type: process\n  stop_timeout: 5s") + "deployment: {timeout: 1h, bake: 1m}\nhealth: {timeout: 1m}\n"
    )
    assert release_digest(config(tmp_path, text), "abc") == before
    assert release_digest(config(tmp_path, environ={"DB_PASSWORD": "x", "DEPLOYMENT_TIMEOUT": "9000000"}), "abc") == before


def test_the_digest_stays_the_same_from_one_version_of_bleen_to_the_next(tmp_path: Path) -> None:
    # Recorded once. When this fails, every user's running release would look like another one after an upgrade.
    assert release_digest(config(tmp_path), "abc") == "a715f413aa4e2dc7fe4bb4df2ff773902d367139726fb353ac747915129c413c"
