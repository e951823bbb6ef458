"""The environment variables that override bleen.yaml."""

from __future__ import annotations

from datetime import timedelta
from operator import attrgetter
from pathlib import Path

import pytest

from bleen.config.environment import VARIABLES
from bleen.config.load import Loaded, load
from bleen.errors import ConfigurationError

TEXT = """\
service: payments
environments:
  blue: {endpoints: ["http://127.0.0.1:9001"]}
  green: {endpoints: ["http://127.0.0.1:9002"]}
runtime: {type: process, command: [app]}
deployment: {timeout: 20m}
"""
CHECKS = """\
checks:
  pre_deployment_tests: {command: [a]}
  post_deployment_tests: {command: [b]}
  database_migration: {command: [c]}
  cache_warming: {command: [d]}
  load_test: {command: [e], enabled: false}
"""
THE_SIXTEEN = [
    ("ENABLE_BLUE_GREEN_DEPLOYMENT", "false", "deployment.enabled", False),
    ("DEPLOYMENT_TIMEOUT", "1800000", "deployment.timeout", timedelta(minutes=30)),
    ("HEALTH_CHECK_TIMEOUT", "300001", "health.timeout", timedelta(milliseconds=300001)),
    ("ROLLBACK_TIMEOUT", "500", "deployment.rollback_timeout", timedelta(milliseconds=500)),
    ("ENABLE_AUTO_ROLLBACK", "0", "deployment.auto_rollback", False),
    ("ENABLE_GRADUAL_TRAFFIC_SWITCH", "No", "deployment.gradual", False),
    ("ENABLE_PRE_DEPLOYMENT_TESTS", "off", "checks.pre_deployment_tests.enabled", False),
    ("ENABLE_POST_DEPLOYMENT_TESTS", "OFF", "checks.post_deployment_tests.enabled", False),
    ("ENABLE_DATABASE_MIGRATION", "FALSE", "checks.database_migration.enabled", False),
    ("ENABLE_CACHE_WARMING", "no", "checks.cache_warming.enabled", False),
    ("ENABLE_LOAD_TESTING", "yes", "checks.load_test.enabled", True),
    ("LOAD_BALANCER_TYPE", "nginx", "traffic.type", "nginx"),
    ("LOAD_BALANCER_CONFIG_PATH", "/etc/nginx/conf.d", "traffic.config_path", "/etc/nginx/conf.d"),
    ("LOAD_BALANCER_RELOAD_COMMAND", "nginx -s 'reload $(id)'", "traffic.reload_command", ["nginx", "-s", "reload $(id)"]),
    ("BLUE_HEALTH_CHECK_URL", "http://blue.example/api/v1/health", "environments.blue.health_url", "http://blue.example/api/v1/health"),
    ("GREEN_HEALTH_CHECK_URL", "http://green.example/h", "environments.green.health_url", "http://green.example/h"),
]


def loaded(folder: Path, environ: dict[str, str], text: str = TEXT + CHECKS) -> Loaded:
    (folder / "bleen.yaml").write_text(text, encoding="utf-8")
    return load(folder / "bleen.yaml", environ)


def refusal(folder: Path, environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(folder, environ)
    return caught.value.message


@pytest.mark.parametrize(("name", "value", "key", "expected"), THE_SIXTEEN)
def test_a_variable_overrides_its_key_and_is_named_as_the_origin(tmp_path: Path, name: str, value: str, key: str, expected: object) -> None:
    result = loaded(tmp_path, {name: value})
    assert attrgetter(key)(result.config) == expected
    assert result.origins[key] == f"env {name}"
    assert [origin for origin in result.origins.values() if origin.startswith("env ")] == [f"env {name}"]
    assert result.warnings == ()


def test_the_sixteen_variables_are_all_there_are() -> None:
    assert sorted(variable.name for variable in VARIABLES) == sorted(name for name, *_ in THE_SIXTEEN)


def test_without_variables_the_file_holds(tmp_path: Path) -> None:
    result = loaded(tmp_path, {"PATH": "/bin"})
    assert result.config.deployment.timeout == timedelta(minutes=20)
    assert result.origins["deployment.timeout"] == "bleen.yaml:6"


@pytest.mark.parametrize(("word", "expected"), [("true", True), ("1", True), ("YES", True), ("On", True), ("0", False), (" off ", False)])
def test_a_switch_is_written_in_many_ways(tmp_path: Path, word: str, expected: bool) -> None:
    assert loaded(tmp_path, {"ENABLE_AUTO_ROLLBACK": word}).config.deployment.auto_rollback is expected


@pytest.mark.parametrize("word", ["maybe", "2", "tru", "t"])
def test_a_word_that_is_no_switch_is_refused(tmp_path: Path, word: str) -> None:
    assert refusal(tmp_path, {"ENABLE_AUTO_ROLLBACK": word}) == (
        f'env ENABLE_AUTO_ROLLBACK: deployment.auto_rollback: "{word}" is not a switch; '
        "allowed: true or false, 1 or 0, yes or no, on or off"
    )


@pytest.mark.parametrize("number", ["0", "-5", "1.5", "1e3", "30s", "0x10", "٣", "9" * 16])
def test_a_timeout_is_a_positive_whole_number_of_milliseconds(tmp_path: Path, number: str) -> None:
    assert refusal(tmp_path, {"DEPLOYMENT_TIMEOUT": number}) == (
        f'env DEPLOYMENT_TIMEOUT: deployment.timeout: "{number}" is not a number of milliseconds; '
        "allowed: a whole number of milliseconds above 0, as in 1800000"
    )


@pytest.mark.parametrize("variable", [variable.name for variable in VARIABLES])
def test_an_empty_variable_is_a_mistake(tmp_path: Path, variable: str) -> None:
    message = refusal(tmp_path, {variable: " "})
    assert message.startswith(f"env {variable}: ")
    assert "the variable is set but empty; allowed: " in message
    assert message.endswith(", or unset it")


def test_a_load_balancer_that_this_version_lacks_names_the_known_ones(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"LOAD_BALANCER_TYPE": "haproxy"}) == (
        'env LOAD_BALANCER_TYPE: traffic.type: "haproxy" is not an adapter that this version has; known: nginx'
    )


def test_unbalanced_quotes_in_the_reload_command_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"LOAD_BALANCER_RELOAD_COMMAND": "nginx -s 'reload"})
    assert message.startswith(
        'env LOAD_BALANCER_RELOAD_COMMAND: traffic.reload_command: "nginx -s \'reload" cannot be split into arguments'
    )
    assert "never run by a shell" in message


def test_a_health_url_from_the_environment_is_checked_and_its_password_hidden(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"BLUE_HEALTH_CHECK_URL": "http://user:hunter2@blue.example/"})
    assert message.startswith('env BLUE_HEALTH_CHECK_URL: environments.blue.health_url: "http://user:***@blue.example/" is not')


def test_a_rule_that_a_variable_breaks_names_the_variable(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"DEPLOYMENT_TIMEOUT": "60000"}).startswith(
        "env DEPLOYMENT_TIMEOUT: deployment.timeout: 1m is not enough for 5 steps of at least 30s each"
    )


@pytest.mark.parametrize("word", ["true", "false"])
def test_a_switch_of_a_check_that_is_not_configured_has_no_effect_and_says_so(tmp_path: Path, word: str) -> None:
    result = loaded(tmp_path, {"ENABLE_LOAD_TESTING": word}, TEXT)
    assert result.config.checks.load_test is None
    assert result.warnings == ("env ENABLE_LOAD_TESTING: it has no effect, checks.load_test is not configured in bleen.yaml",)


def test_mistakes_of_file_and_environment_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, {"ROLLBACK_TIMEOUT": "soon"}, TEXT + "state: 5\n")
    assert "bleen.yaml:7: state: 5 is not text" in caught.value.message
    assert 'env ROLLBACK_TIMEOUT: deployment.rollback_timeout: "soon" is not a number of milliseconds' in caught.value.message


def test_a_variable_with_stray_bytes_is_refused_in_printable_text(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"LOAD_BALANCER_CONFIG_PATH": "/etc/\udcff", "ENABLE_AUTO_ROLLBACK": "\x1b[31m\udcff"})
    message.encode("utf-8")
    assert 'env LOAD_BALANCER_CONFIG_PATH: traffic.config_path: "/etc/\\udcff" is not UTF-8' in message
    assert 'env ENABLE_AUTO_ROLLBACK: deployment.auto_rollback: "\\u001b[31m\\udcff" is not UTF-8' in message
