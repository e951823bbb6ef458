"""What must hold across keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from bleen.config.load import load
from bleen.errors import ConfigurationError

COMMAND = "{type: command, start: [a], stop: [b], status: [c]}"


def text(blue: str = "'http://127.0.0.1:9001'", green: str = "'http://127.0.0.1:9002'", runtime: str = "", more: str = "") -> str:
    return (
        f"service: payments\nenvironments:\n  blue: {{endpoints: [{blue}]}}\n  green: {{endpoints: [{green}]}}\n"
        f"runtime: {runtime or '{type: process, command: [app]}'}\n{more}\n"
    )


def refusal(folder: Path, content: str) -> str:
    (folder / "bleen.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(folder / "bleen.yaml", {})
    return caught.value.message


def accepted(folder: Path, content: str) -> None:
    (folder / "bleen.yaml").write_text(content, encoding="utf-8")
    load(folder / "bleen.yaml", {})


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        ("listen: '127.0.0.1:9001'", "traffic.listen: 127.0.0.1:9001 is taken by environments.blue.endpoints[0] (127.0.0.1:9001)"),
        ("listen: '*:9002'", "traffic.listen: *:9002 is taken by environments.green.endpoints[0]"),
        ("listen: '0.0.0.0:9002'", "traffic.listen: 0.0.0.0:9002 is taken by environments.green.endpoints[0]"),
        ("listen: 'localhost:9002'", "traffic.listen: localhost:9002 is taken by environments.green.endpoints[0]"),
        ("listen: '*:8081'", "traffic.preview: 127.0.0.1:8081 is taken by traffic.listen (*:8081)"),
        ("control: '127.0.0.1:8081'", "traffic.control: 127.0.0.1:8081 is taken by traffic.preview (127.0.0.1:8081)"),
        ("preview: '[::1]:8081', control: '[::1]:8081'", "traffic.control: [::1]:8081 is taken by traffic.preview ([::1]:8081)"),
    ],
)
def test_a_port_is_used_once(tmp_path: Path, traffic: str, said: str) -> None:
    message = refusal(tmp_path, text(more=f"traffic: {{{traffic}}}"))
    assert message.startswith("bleen.yaml:6: ") or "problems" in message
    assert said in message
    assert "allowed: a port of its own for each endpoint and listener" in message


def test_the_same_port_of_another_machine_is_no_clash(tmp_path: Path) -> None:
    accepted(tmp_path, text("'http://app.example:8080'", "'http://192.0.2.7:8080'", COMMAND, "traffic: {listen: '*:8080'}"))


@pytest.mark.parametrize("green", ["http://127.0.0.1:9001", "http://localhost:9001", "https://127.0.0.1:9001", "http://127.0.0.1:9001/"])
def test_blue_and_green_never_share_an_endpoint(tmp_path: Path, green: str) -> None:
    message = refusal(tmp_path, text(green=f"'{green}'"))
    assert message.startswith("bleen.yaml:4: environments.green.endpoints[0]: ")
    assert message.endswith(":9001 stands in environments.blue.endpoints[0] already; allowed: endpoints that only one environment has")


def test_a_process_has_exactly_one_endpoint_in_each_environment(tmp_path: Path) -> None:
    two = "'http://127.0.0.1:9001', 'http://127.0.0.1:9003'"
    message = refusal(tmp_path, text(two))
    assert message == (
        "bleen.yaml:3: environments.blue.endpoints: 2 endpoints with runtime.type process; allowed: exactly one, its process listens there"
    )
    accepted(tmp_path, text(two, runtime=COMMAND))


@pytest.mark.parametrize("host", ["192.0.2.7", "app.example", "[2001:db8::1]"])
def test_a_process_listens_on_this_machine(tmp_path: Path, host: str) -> None:
    message = refusal(tmp_path, text(f"'http://{host}:9001'"))
    assert message.startswith(f"bleen.yaml:3: environments.blue.endpoints[0]: {host}:9001 is not here")
    assert "allowed: an address of this machine, as in http://127.0.0.1:9001" in message
    accepted(tmp_path, text(f"'http://{host}:9001'", runtime=COMMAND))


@pytest.mark.parametrize("name", ["control", "preview"])
@pytest.mark.parametrize("host", ["*", "0.0.0.0", "192.0.2.7", "proxy.example", "[::]"])
def test_control_and_preview_are_loopback_only(tmp_path: Path, name: str, host: str) -> None:
    message = refusal(tmp_path, text(more=f"traffic: {{{name}: '{host}:7777'}}"))
    assert message == (
        f"bleen.yaml:6: traffic.{name}: {host}:7777 can be reached from other machines; allowed: a loopback address, as in 127.0.0.1:7777"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "[::1]"])
def test_every_loopback_address_will_do_for_control(tmp_path: Path, host: str) -> None:
    accepted(tmp_path, text(more=f"traffic: {{control: '{host}:7777'}}"))


def test_the_steps_fit_into_the_timeout_of_the_deployment(tmp_path: Path) -> None:
    more = "deployment: {timeout: 5m, step: {dwell: 1m}, gradual: %s}"
    assert refusal(tmp_path, text(more=more % "true")) == (
        "bleen.yaml:6: deployment.timeout: 5m is not enough for 5 steps of at least 1m each; "
        "allowed: more than 5m, or a shorter deployment.step.dwell"
    )
    accepted(tmp_path, text(more=more % "false"))


@pytest.mark.parametrize("name", ["interval", "probe_timeout"])
def test_a_probe_fits_into_the_timeout_of_health(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, text(more=f"health: {{timeout: 5s, {name}: 5s}}"))
    assert message == f"bleen.yaml:6: health.{name}: 5s is not shorter than health.timeout; allowed: less than 5s"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/health", "127.0.0.1/health", "http://user:pw@127.0.0.1/", "http:///x", "http://a b/"])
def test_a_health_url_is_of_the_web(tmp_path: Path, url: str) -> None:
    message = refusal(tmp_path, text().replace("9001']}", f"9001'], health_url: '{url}'}}"))
    assert message.startswith("bleen.yaml:3: environments.blue.health_url: ")
    assert "is not an address of the web; allowed: an http or https address without user and password" in message
    assert "pw" not in message.replace("password", "")


def test_a_health_url_may_have_a_path_and_a_query(tmp_path: Path) -> None:
    accepted(tmp_path, text().replace("9001']}", "9001'], health_url: 'https://blue.example/api/v1/health?full=1'}"))
