"""Secrets are referred to, resolved late and never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bleen.config.effective import effective
from bleen.config.load import load
from bleen.config.secrets import is_reference, looks_secret, masked, masked_text, resolve
from bleen.errors import ConfigurationError

TEXT = """\
service: payments
environments:
  blue: {endpoints: ["http://127.0.0.1:9001"]}
  green: {endpoints: ["http://127.0.0.1:9002"], health_url: "https://green.example/health?token=hunter2"}
runtime:
  type: process
  command: [app, --db-password, hunter2, "--api-key=hunter2", "--dsn", "env:DSN"]
  variables:
    DB_PASSWORD: hunter2
    API_TOKEN: env:API_TOKEN
    SECRET_KEY: file:secrets/key
    DATABASE_URL: postgres://app:hunter2@db.example/payments
    PASSWORD_FILE: /run/secrets/password
    MODE: production
checks:
  load_test: {command: [load, --token, hunter2]}
"""


def test_a_plain_value_passes_through(tmp_path: Path) -> None:
    assert resolve("http://x", tmp_path, {}) == "http://x"
    assert resolve("", tmp_path, {}) == ""


def test_a_reference_to_a_variable_is_resolved(tmp_path: Path) -> None:
    assert resolve("env:TOKEN", tmp_path, {"TOKEN": "a=b:c"}) == "a=b:c"


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^env:TOKEN: the environment variable TOKEN is not set"):
        resolve("env:TOKEN", tmp_path, {})


@pytest.mark.parametrize(("content", "expected"), [("s3cret\n", "s3cret"), ("s3cret", "s3cret"), ("a\nb\n\n", "a\nb\n"), ("", "")])
def test_a_file_is_read_relative_to_the_folder_without_one_newline(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text(content, encoding="utf-8")
    assert resolve("file:secrets/token", tmp_path, {}) == expected
    assert resolve(f"file:{tmp_path}/secrets/token", Path("/nowhere"), {}) == expected


def test_a_missing_file_names_the_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^file:nothing: .*nothing cannot be read: No such file"):
        resolve("file:nothing", tmp_path, {})


@pytest.mark.parametrize("content", [b"hunter2\xff", b"hunter2\0"])
def test_a_file_that_no_variable_can_hold_is_refused_without_its_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^file:token: ") as caught:
        resolve("file:token", tmp_path, {})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["DB_PASSWORD", "api_token", "SECRET_KEY_BASE", "SENTRY_DSN", "AWS_CREDENTIALS", "PASSPHRASE"])
def test_these_names_look_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["PORT", "MODE", "PASSWORD_FILE", "SSH_KEY_PATH", "SECRETS_DIR"])
def test_these_names_do_not(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("value", "expected"), [("env:A", True), ("file:a/b", True), ("env:", False), ("env:a b", False), ("file:", False), ("x", False)]
)
def test_a_reference_has_a_target(value: str, expected: bool) -> None:
    assert is_reference(value) is expected


@pytest.mark.parametrize(
    "text",
    [
        "postgres://u:hunter2@h/d",
        "redis://:hunter2@h",
        "--password=hunter2",
        "--db-token hunter2",
        "?api_key=hunter2&x=1",
        'PASSWORD="hunter2"',
    ],
)
def test_a_password_inside_a_text_is_masked(text: str) -> None:
    assert "hunter2" not in masked_text(text)
    assert "***" in masked_text(text)


def test_an_argument_list_keeps_what_is_no_secret() -> None:
    assert masked(("runtime", "command"), ["app", "--token", "x", "--port", "80"]) == ["app", "--token", "***", "--port", "80"]


def test_nothing_shows_a_secret_and_references_stay_readable(tmp_path: Path) -> None:
    (tmp_path / "bleen.yaml").write_text(TEXT, encoding="utf-8")
    loaded = load(tmp_path / "bleen.yaml", {"API_TOKEN": "hunter2"})
    rows = {row.key: row for row in effective(loaded)}
    assert "hunter2" not in json.dumps([[row.key, row.value, row.text, row.origin] for row in rows.values()])
    assert "hunter2" not in " ".join(loaded.warnings)
    assert rows["runtime.variables.DB_PASSWORD"].text == "***"
    assert rows["runtime.variables.API_TOKEN"].text == "env:API_TOKEN"
    assert rows["runtime.variables.SECRET_KEY"].text == "file:secrets/key"
    assert rows["runtime.variables.DATABASE_URL"].text == "postgres://app:***@db.example/payments"
    assert rows["runtime.variables.PASSWORD_FILE"].text == "/run/secrets/password"
    assert rows["runtime.variables.MODE"].text == "production"
    assert rows["runtime.command"].value == ["app", "--db-password", "***", "--api-key=***", "--dsn", "***"]


def test_a_secret_in_plain_text_brings_a_warning_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bleen.yaml").write_text(TEXT, encoding="utf-8")
    assert load(tmp_path / "bleen.yaml", {}).warnings == (
        "bleen.yaml:9: runtime.variables.DB_PASSWORD: a secret in plain text; use a reference: env:DB_PASSWORD or file:PATH",
        "bleen.yaml:12: runtime.variables.DATABASE_URL: a secret in plain text; use a reference: env:DATABASE_URL or file:PATH",
    )
