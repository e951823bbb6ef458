"""bleen.yaml as text: what is read, and what every kind of mistake says."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from bleen.config.adapters import CommandRuntime
from bleen.config.load import Loaded, load
from bleen.config.schema import Config
from bleen.errors import ConfigurationError

GOOD = """\
service: payments
environments:
  blue:
    endpoints: ["http://127.0.0.1:9001"]
  green:
    endpoints: ["http://127.0.0.1:9002"]
runtime:
  type: process
  command: [python, app.py]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "bleen.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, more: str = "", text: str = GOOD) -> Loaded:
    return load(write(folder, text + textwrap.dedent(more)), {})


def refusal(folder: Path, more: str = "", text: str = GOOD) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(folder, more, text)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_small_file_loads_with_the_defaults(tmp_path: Path) -> None:
    result = loaded(tmp_path)
    assert result.config.service == "payments"
    assert result.config.deployment.timeout == timedelta(minutes=30)
    assert result.config.deployment.weights == [10, 25, 50, 75, 100]
    assert result.path == tmp_path / "bleen.yaml"
    assert result.warnings == ()


def test_the_state_lives_beside_the_file_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "project", GOOD)
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = load(Path("../project/bleen.yaml"), {})
    assert result.state_dir == tmp_path / "project" / ".bleen"
    assert result.path == tmp_path / "project" / "bleen.yaml"


def test_an_absolute_state_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert loaded(tmp_path, f"state: {tmp_path}/elsewhere\n").state_dir == tmp_path / "elsewhere"


def test_origins_name_the_line_of_what_is_given_and_the_default_of_the_rest(tmp_path: Path) -> None:
    origins = loaded(tmp_path, "deployment:\n  bake: 5m\n").origins
    assert origins["service"] == "bleen.yaml:1"
    assert origins["runtime.command"] == "bleen.yaml:9"
    assert origins["deployment.bake"] == "bleen.yaml:11"
    assert origins["deployment.timeout"] == "default"


def test_a_command_runtime_is_told_apart_by_its_type(tmp_path: Path) -> None:
    text = GOOD.replace("type: process\n  command: [python, app.py]", "type: command\n  start: [a]\n  stop: [b]\n  status: [c]")
    assert isinstance(loaded(tmp_path, text=text).config.runtime, CommandRuntime)


def test_a_configuration_survives_being_stored_as_json(tmp_path: Path) -> None:
    config = loaded(tmp_path, "checks:\n  load_test: {command: [k6, run]}\n").config
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_dates_and_numbers_to_the_base_of_sixty_are_text(tmp_path: Path) -> None:
    text = GOOD + "  variables: {START: 2024-01-01, LENGTH: 1:30, NO: 'x'}\n"
    assert loaded(tmp_path, text=text).config.runtime.variables == {"START": "2024-01-01", "LENGTH": "1:30", "NO": "x"}


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    more = """\
        checks:
          load_test: &check {command: [k6, run], timeout: 1m}
          cache_warming: {<<: *check, command: [warm]}
        """
    checks = loaded(tmp_path, more).config.checks
    assert checks.cache_warming is not None
    assert (checks.cache_warming.command, checks.cache_warming.timeout) == (["warm"], timedelta(minutes=1))


def test_a_missing_file_names_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "bleen.yaml", {})
    assert caught.value.next_command == "bleen init"
    assert str(tmp_path / "bleen.yaml") in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("service: payments\n  state: x\n", "bleen.yaml:2:8: this is not YAML"),
        ("service: [a\n", "bleen.yaml:2:1: this is not YAML"),
        ("a: *nothing\n", "bleen.yaml:1:4: this is not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "bleen.yaml:2:1: this is not YAML: expected a single document"),
        ("service: \x07\n", "bleen.yaml:1: a control character"),
        ("- a\n- b\n", "bleen.yaml:1: only a mapping of keys is allowed at the top"),
        ("", "bleen.yaml:1: only a mapping of keys is allowed at the top"),
        ("payments\n", "bleen.yaml:1: only a mapping of keys is allowed at the top"),
    ],
)
def test_what_is_not_yaml_is_named_by_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text=text)


def test_a_file_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "bleen.yaml"
    path.write_bytes(b"service: payments\nstate: \xff\n")
    with pytest.raises(ConfigurationError, match=r"bleen\.yaml:2: byte 25 is not UTF-8"):
        load(path, {})


def test_a_file_above_a_megabyte_is_refused(tmp_path: Path) -> None:
    assert "larger than 1000000 bytes" in refusal(tmp_path, "#" * 1_000_001)


@pytest.mark.parametrize(
    "links",
    [
        "[*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]",
        "{{<<: [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]}}",
    ],
)
def test_aliases_that_expand_to_billions_are_refused(tmp_path: Path, links: str) -> None:
    bomb = "a0: &a0 {}\n" + "".join(f"a{level}: &a{level} {links.format(level - 1)}\n" for level in range(1, 12))
    assert "more than 20000 values after aliases were expanded" in refusal(tmp_path, text=bomb)


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 3000 + "]" * 3000 + "\n"])
def test_endless_nesting_is_refused(tmp_path: Path, text: str) -> None:
    assert "nested too deeply, or an alias that contains itself" in refusal(tmp_path, text=text)


def test_python_objects_are_never_made(tmp_path: Path) -> None:
    said = refusal(tmp_path, "state: !!python/object/apply:os.system [id]\n") + refusal(tmp_path, "state: !!python/name:os.system x\n")
    assert "bleen.yaml:10: state: the tag !!python/name:os.system is not supported" in said
    assert 'bleen.yaml:10: state: ["id"] is not text' in said


def test_a_key_that_stands_twice_names_both_lines(tmp_path: Path) -> None:
    said = refusal(tmp_path, "deployment:\n  bake: 5m\n  bake: 6m\n")
    assert "bleen.yaml:12: deployment.bake: this key stands here already, in line 11" in said


@pytest.mark.parametrize("escape", ["\\0", "\\ud83d", "\\ud83d\\ude00"])
def test_what_no_process_takes_as_an_argument_is_refused(tmp_path: Path, escape: str) -> None:
    assert "bleen.yaml:10: state: a value cannot hold a NUL or half of a character" in refusal(tmp_path, f'state: "a{escape}b"\n')
    assert "bleen.yaml:10: a key is a word: no list, no mapping, no NUL, no half" in refusal(tmp_path, f'"a{escape}b": 1\n')


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("deployment: {bake: 30}", "deployment.bake: 30 is not a duration; allowed: a duration has a unit: 500ms, 30s, 5m, 2h or 1h30m"),
        ("deployment: {bake: 0s}", 'deployment.bake: "0s" is not longer than nothing; allowed: a duration above 0s'),
        ("deployment: {bake: 99999d}", 'deployment.bake: "99999d" is not a duration that can be waited for; allowed: at most 3650d'),
        ("deployment: {bake: 0.5ms}", 'deployment.bake: "0.5ms" is not a duration in whole milliseconds; allowed: nothing finer than 1ms'),
        ("deployment: {step: {dwell: 0s}}", 'deployment.step.dwell: "0s" is not longer than nothing'),
        ("deployment: {gradual: 'yes'}", 'deployment.gradual: "yes" is not true or false; allowed: true or false, without quotes'),
        ("deployment: {weights: [50, 25, 100]}", "deployment.weights: [50, 25, 100] is not a ladder of weights; allowed: whole percents"),
        ("deployment: {weights: [0, 100]}", "deployment.weights: [0, 100] is not a ladder of weights"),
        ("deployment: {weights: [10, 50]}", "deployment.weights: [10, 50] is not a ladder of weights"),
        ("deployment: {weights: [50, 50, 100]}", "deployment.weights: [50, 50, 100] is not a ladder of weights"),
        ("deployment: {weights: []}", "deployment.weights: [] is not a ladder of weights"),
        ("deployment: {weights: ['10']}", 'deployment.weights[0]: "10" is not a whole number; allowed: a whole number, without quotes'),
        ("deployment: {weights: 10}", "deployment.weights: 10 is not a list; allowed: a list"),
        ("deployment:", "deployment: null is not a section; allowed: keys below it (enabled, timeout,"),
        ("deployment: off", "deployment: false is not a section; allowed: keys below it (enabled,"),
        ("health: {failures: 0}", "health.failures: 0 is not allowed; allowed: greater than or equal to 1"),
        ("health: {failures: 2.5}", "health.failures: 2.5 is not a whole number"),
        ("health: {path: health}", 'health.path: "health" is not an HTTP path; allowed: an absolute HTTP path, as in /api/v1/health'),
        ("evidence: {alpha: x}", 'evidence.alpha: "x" is not a number; allowed: a number, as in 0.01'),
        ("evidence: {alpha: .nan}", "evidence.alpha: NaN is not allowed; allowed: "),
        ("state: ~/x", 'state: "~/x" is not a path; allowed: a path without control characters; ~ is not expanded'),
        ("state: 5", "state: 5 is not text; allowed: text; a number or a word such as yes or no becomes text in quotes"),
        ("controller: {lease: 1s}", 'controller.lease: "1s" is not long enough; allowed: at least 2s'),
        ("traffic: {listen: 127.0.0.1}", 'traffic.listen: "127.0.0.1" is not an address to listen on; allowed: an address with a port'),
        ("traffic: {listen: '127.0.0.1:99999'}", 'traffic.listen: "127.0.0.1:99999" is not an address to listen on'),
        ("traffic: {listen: '127.0.0.1:0'}", 'traffic.listen: "127.0.0.1:0" is not an address to listen on'),
        ("traffic: {listen: '1.2.3:80'}", 'traffic.listen: "1.2.3:80" is not an address to listen on'),
        ("traffic: {worker_user: 'www; evil'}", 'traffic.worker_user: "www; evil" is not a user name'),
        ("traffic: {config_path: \"/etc\\nx\"}", 'traffic.config_path: "/etc\\nx" is not a path'),
        ("traffic: {reload_command: nginx -s reload}", 'traffic.reload_command: "nginx -s reload" is not a list; allowed: a list'),
        ("traffic: {reload_command: []}", "traffic.reload_command: [] is not an argument list; allowed: an argument list needs a program"),
        ("checks: {load_test: {timeout: 1m}}", "checks.load_test.command: this key is missing; it means: Argument list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_line_path_value_and_what_is_allowed(tmp_path: Path, more: str, said: str) -> None:
    assert f"bleen.yaml:10: {said}" in refusal(tmp_path, f"{more}\n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "http://127.0.0.1:9001",
            "127.0.0.1:9001",
            'environments.blue.endpoints[0]: "127.0.0.1:9001" is not an endpoint; allowed: scheme, host',
        ),
        ("http://127.0.0.1:9001", "http://127.0.0.1", "is not an endpoint"),
        ("http://127.0.0.1:9001", "http://127.0.0.1:0", "is not an endpoint"),
        ("http://127.0.0.1:9001", "http://127.0.0.1:9001/app", "is not an endpoint"),
        ("http://127.0.0.1:9001", "ftp://127.0.0.1:9001", "is not an endpoint"),
        ("http://127.0.0.1:9001", "http://a;evil:9001", "is not an endpoint"),
        ("http://127.0.0.1:9001", "http://user:hunter2@127.0.0.1:9001", '"http://user:***@127.0.0.1:9001" is not an endpoint'),
        ('["http://127.0.0.1:9001"]', "[]", "environments.blue.endpoints: [] is not allowed; allowed: at least 1 item"),
        (
            "service: payments",
            "service: Payments!",
            'bleen.yaml:1: service: "Payments!" is not a name of a service; allowed: a lower case letter',
        ),
        ("service: payments\n", "", "service: this key is missing; it means: Name of the service"),
        ("  type: process\n", "", "bleen.yaml:7: runtime.type: this key is missing; known: process, command"),
        (
            "process",
            "proces",
            'runtime.type: "proces" is not an adapter that this version has; known: process, command; did you mean process?',
        ),
        ("process", "kubernetes", 'runtime.type: "kubernetes" is not an adapter that this version has; known: process, command'),
        ("[python, app.py]", "python app.py", 'runtime.command: "python app.py" is not a list'),
        ("[python, app.py]", "['']", 'runtime.command: [""] is not an argument list; allowed: an argument list needs a program'),
    ],
)
def test_a_wrong_value_where_one_is_required_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in refusal(tmp_path, text=GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("helth: {}", "helth: this key is unknown; known here: service, state, environments, health, runtime,"),
        ("helth: {}", "did you mean health?"),
        ("deployment: {bakes: 1m}", "deployment.bakes: this key is unknown; known here: enabled, timeout,"),
        ("deployment: {bakes: 1m}", "did you mean bake?"),
        ("bake: 1m", "did you mean deployment.bake?"),
        ("traffic: {type: haproxy}", 'traffic.type: "haproxy" is not an adapter that this version has; known: nginx'),
    ],
)
def test_an_unknown_key_or_type_names_the_known_ones(tmp_path: Path, more: str, said: str) -> None:
    assert said in refusal(tmp_path, f"{more}\n")


def test_a_key_of_the_other_adapter_is_unknown_and_names_those_of_this_one(tmp_path: Path) -> None:
    assert "bleen.yaml:10: runtime.start: this key is unknown; known here: type, command, directory" in refusal(
        tmp_path, text=GOOD + "  start: [a]\n"
    )


def test_a_variable_of_the_release_needs_a_name_that_a_process_can_have(tmp_path: Path) -> None:
    assert 'runtime.variables.A-B: "A-B" is not a name of a variable' in refusal(tmp_path, text=GOOD + '  variables: {A-B: "x"}\n')


def test_a_secret_is_not_shown_when_its_value_is_wrong(tmp_path: Path) -> None:
    said = refusal(tmp_path, text=GOOD + "  variables: {DB_PASSWORD: 424242, PORT: 8080, OTHER: 'env:not a name'}\n")
    assert "bleen.yaml:10: runtime.variables.DB_PASSWORD: " in said
    assert "424242" not in said
    assert "runtime.variables.PORT: 8080 is not text" in said
    assert 'runtime.variables.OTHER: "env:not a name" is not a reference; allowed: env:NAME' in said


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    said = refusal(tmp_path, f"health: {{path: {'x' * 500}}}\n")
    assert "xxx... is not an HTTP path" in said
    assert "x" * 61 not in said


def test_all_problems_are_listed_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        """\
        deployment: {bake: 30}
        health: {timeout: 1s, probe_timeout: 2s}
        traffic: {control: "0.0.0.0:8082"}
        state: 5
        state: 6
        nonsense: 1
        """,
    )
    lines = said.splitlines()
    assert lines[0] == f"6 problems in the configuration {tmp_path}/bleen.yaml"
    assert [line.split(": ")[0].strip() for line in lines[1:-1]] == [f"bleen.yaml:{number}" for number in range(10, 16)]
    assert lines[-1] == "  next: bleen check"


def test_a_state_folder_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/export {tmp_path}/shared nfs4 rw 0 0\n", encoding="utf-8")
    path = write(tmp_path, GOOD + "state: shared/state\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, mounts=mounts)
    assert caught.value.message == (
        f"bleen.yaml:10: state: {tmp_path}/shared/state is on a network file system (nfs4), where locks do not hold; "
        "allowed: a folder on a local disk"
    )
    write(tmp_path, GOOD)
    assert load(path, {}, mounts=mounts).state_dir == tmp_path / ".bleen"
