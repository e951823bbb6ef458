"""The command line as users meet it: a process, its exit code, its two streams."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from bleen.cli.main import app

BLEEN = [sys.executable, "-m", "bleen.cli.main"]
HOSTILE = ["1.0\n", "a/b", "a b", "'; rm -rf /", '"1"', "-1.0", "", "ü", "1" * 10_000, "\x1b[2J", "$(id)", "../../etc"]

# What `bleen status` may import beside the standard library: everything else costs its reader time.
STATUS_PACKAGES = {
    "bleen",
    "typer",
    "shellingham",
    "annotated_doc",
    "yaml",
    "_yaml",
    "cython_runtime",
    "click",
    "typing_extensions",
    "colorama",
    "_virtualenv",
}
STATUS_MODULES = {
    "bleen",
    "bleen.errors",
    "bleen.cli",
    "bleen.cli.boundary",
    "bleen.cli.control",
    "bleen.cli.controller",
    "bleen.cli.deploying",
    "bleen.cli.main",
    "bleen.cli.output",
    "bleen.cli.reading",
    "bleen.cli.setup",
    "bleen.cli.summary",
    "bleen.config",
    "bleen.config.document",
    "bleen.config.locate",
    "bleen.model",
    "bleen.model.environment",
    "bleen.model.release",
    "bleen.records",
    "bleen.records.history",
    "bleen.records.status",
    "bleen.store",
    "bleen.store.live",
}
HELP_MODULES = STATUS_MODULES - {"bleen.cli.summary", "bleen.config", "bleen.config.document", "bleen.config.locate"}


def bleen(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BLEEN_")} | {"COLUMNS": "100"} | environ
    return subprocess.run([*BLEEN, *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=60, check=False)


def here(*arguments: str) -> tuple[int, str, str]:
    """As `bleen`, in this process and folder: exit code, stdout, stderr."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Path]:
    """A folder with a bleen.yaml, and nothing that runs."""
    (tmp_path / "bleen.yaml").write_text(
        yaml.safe_dump(
            {
                "service": "payments",
                "environments": {
                    "blue": {"endpoints": ["http://127.0.0.1:9001"]},
                    "green": {"endpoints": ["http://127.0.0.1:9002"]},
                },
                "runtime": {"type": "process", "command": ["true"]},
            }
        )
    )
    return tmp_path


def test_init_writes_a_configuration_that_its_own_schema_and_loader_accept(tmp_path: Path) -> None:
    run = bleen(tmp_path, "init", "--service", "payments")
    assert (run.returncode, run.stdout) == (0, "")
    assert "bleen deploy --version" in run.stderr
    document = yaml.safe_load((tmp_path / "bleen.yaml").read_text())
    jsonschema.validate(document, json.loads((tmp_path / "bleen.schema.json").read_text()))
    assert document["service"] == "payments"
    assert bleen(tmp_path, "config").returncode == 0


def test_init_takes_the_name_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "7 Pay_ments!"
    folder.mkdir()
    assert bleen(folder, "init").returncode == 0
    assert yaml.safe_load((folder / "bleen.yaml").read_text())["service"] == "pay-ments"


@pytest.mark.parametrize("there", ["bleen.yaml", "bleen.schema.json"])
def test_init_never_writes_over_a_file_without_force(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine\n")
    run = bleen(tmp_path, "init")
    assert run.returncode == 4
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine\n")]
    assert bleen(tmp_path, "init", "--force").returncode == 0
    assert (tmp_path / there).read_text() != "mine\n"


def test_config_tells_each_value_and_where_it_comes_from(service: Path) -> None:
    run = bleen(service, "config", "--json", HEALTH_CHECK_TIMEOUT="60000")
    values = {event["key"]: event for event in events(run)}
    assert run.returncode == 0
    assert values["service"]["value"] == "payments"
    assert str(values["service"]["origin"]).startswith("bleen.yaml:")
    assert (values["health.timeout"]["value"], values["health.timeout"]["origin"]) == ("1m", "env HEALTH_CHECK_TIMEOUT")
    assert values["deployment.bake"]["origin"] == "default"
    assert "health.timeout" in bleen(service, "config").stdout


def test_a_wrong_configuration_is_exit_2_and_told_to_programs_and_people(service: Path) -> None:
    with (service / "bleen.yaml").open("a") as file:
        file.write("deploymnet: {}\n")
    run = bleen(service, "config", "--json")
    (error,) = events(run)
    assert run.returncode == 2
    assert error["event"] == "error"
    assert error["error"] == "ConfigurationError"
    assert "deploymnet" in str(error["message"])
    assert error["next"] == "bleen check"
    assert str(error["at"]).endswith("Z")
    assert "deploymnet" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_wrong_configuration_does_not_hide_the_status(service: Path) -> None:
    with (service / "bleen.yaml").open("a") as file:
        file.write("deploymnet: {}\n")
    assert bleen(service, "status").returncode == 0


def test_a_missing_configuration_names_init(tmp_path: Path) -> None:
    for arguments in (["status"], ["-c", "nowhere.yaml", "status"], ["deploy", "--version", "1.0.0"]):
        run = bleen(tmp_path, *arguments)
        assert run.returncode == 2
        assert "next: bleen init" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_found_upwards_by_flag_and_by_variable(service: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    inner = service / "deep" / "inside"
    inner.mkdir(parents=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for run in (
        bleen(inner, "status"),
        bleen(elsewhere, "-c", str(service), "status"),
        bleen(elsewhere, "--config", str(service / "bleen.yaml"), "status"),
        bleen(elsewhere, "status", BLEEN_CONFIG=str(service / "bleen.yaml")),
    ):
        assert (run.returncode, run.stderr) == (0, "")
        assert "payments" in run.stdout


def test_schema_is_the_same_on_stdout_and_in_a_file(tmp_path: Path) -> None:
    run = bleen(tmp_path, "schema")
    assert json.loads(run.stdout)["title"] == "bleen.yaml"
    assert bleen(tmp_path, "schema", "--output", "s.json").returncode == 0
    assert (tmp_path / "s.json").read_text() == run.stdout
    assert bleen(tmp_path, "schema", "--output", "no/such/folder/s.json").returncode == 2


def test_status_and_history_before_anything_happened(service: Path) -> None:
    status = bleen(service, "status")
    assert (status.returncode, status.stderr) == (0, "")
    assert "nobody is served yet" in status.stdout
    (event,) = events(bleen(service, "status", "--json"))
    assert (event["event"], event["service"], event["deployment"]) == ("status", "payments", None)
    assert bleen(service, "history").stdout == "nothing was deployed yet\n"
    assert bleen(service, "history", "--json").stdout == ""
    assert [path.name for path in service.iterdir()] == ["bleen.yaml"]


def test_a_store_that_is_no_store_is_refused_without_a_traceback(service: Path) -> None:
    (service / ".bleen").mkdir()
    (service / ".bleen" / "store.db").write_text("this is no database, it is long enough to be looked at\n" * 100)
    run = bleen(service, "status", "--json")
    assert run.returncode == 4
    assert events(run)[0]["error"] == "StoreUnavailable"
    assert "Traceback" not in run.stderr


def test_an_unexpected_error_is_one_line_and_exit_3(service: Path) -> None:
    (service / ".bleen").mkdir()
    connection = sqlite3.connect(service / ".bleen" / "store.db")
    connection.executescript("CREATE TABLE meta (x); CREATE TABLE route (service, blue, green, revision); CREATE TABLE applied (service);")
    connection.executescript(
        "CREATE TABLE environment (service, environment, release); INSERT INTO environment VALUES ('payments','blue','{');"
    )
    connection.execute("ALTER TABLE applied ADD COLUMN revision")
    connection.commit()
    connection.close()
    run = bleen(service, "status", "--json")
    assert run.returncode == 3
    assert events(run)[0]["event"] == "error"
    assert "run with BLEEN_DEBUG=1" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert "Traceback" in bleen(service, "status", BLEEN_DEBUG="1").stderr


@pytest.mark.parametrize("version", HOSTILE)
def test_a_hostile_version_is_refused_and_nothing_is_created(service: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.chdir(service)
    for command in (["deploy"], ["plan"], ["adopt", "--environment", "blue"]):
        code, out, err = here(*command, f"--version={version}", "--json")
        assert (code, json.loads(out)["error"]) == (2, "UsageError")
        assert "\x1b" not in out + err
        assert len(err) < 1000
    assert [path.name for path in service.iterdir()] == ["bleen.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["deploy"],
        ["deploy", "--version"],
        ["nonsense"],
        ["status", "--nonsense"],
        ["history", "--limit", "0"],
        ["logs", "red"],
        ["logs", "blue", "--controller"],
        ["adopt", "--environment", "red", "--version", "1"],
        ["controller", "nonsense"],
        ["controller", "stop", "--service"],  # nobody can be asked here
        ["init", "--service", "Not A Name"],
    ],
)
def test_wrong_usage_is_exit_2(service: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(service)
    code, out, err = here(*arguments)
    assert (code, out) == (2, "")
    assert err
    assert [path.name for path in service.iterdir()] == ["bleen.yaml"]


def test_logs_of_the_controller_are_its_last_lines_without_colours(service: Path) -> None:
    assert bleen(service, "logs", "--controller").returncode == 4
    (service / ".bleen").mkdir()
    lines = [f"\x1b[32mline {number}\x1b[0m\x07" for number in range(300)]
    (service / ".bleen" / "controller.log").write_text("\n".join(lines) + "\n")
    run = bleen(service, "logs", "--controller", "--lines", "2")
    assert (run.returncode, run.stdout) == (0, "line 298\\x07\nline 299\\x07\n")


def test_logs_without_an_active_environment_asks_for_one(service: Path) -> None:
    run = bleen(service, "logs")
    assert run.returncode == 4
    assert "name one" in run.stderr


def test_controller_status_says_that_none_runs(service: Path) -> None:
    (event,) = events(bleen(service, "controller", "status", "--json"))
    assert (event["event"], event["alive"]) == ("controller.status", False)
    assert "not alive" in bleen(service, "controller", "status").stdout


def test_watch_of_an_idle_service_ends_with_0_on_ctrl_c(service: Path) -> None:
    watching = subprocess.Popen([*BLEEN, "watch", "--json"], cwd=service, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["event"] == "watch.idle"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.communicate()


def test_ctrl_c_ends_the_following_in_order_and_a_second_one_at_once() -> None:
    script = textwrap.dedent(
        """
        import asyncio, sys
        from bleen.cli.follow import Interrupt, Interrupted, run

        async def deaf():
            while True:
                try:
                    print("working", flush=True)
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    if sys.argv[1] == "ends":
                        raise

        async def work(interrupt: Interrupt) -> int:
            try:
                await interrupt.unless(deaf())
            except Interrupted:
                print("left", flush=True)
                return 130
            return 0

        sys.exit(run(work))
        """
    )
    for kind, said in (("ends", "left"), ("deaf", "working")):
        process = subprocess.Popen([sys.executable, "-c", script, kind], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == f"{said}\n"
            if kind == "deaf":
                process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()
            process.communicate()


def test_wrong_usage_is_exit_2_for_a_shell_too(service: Path) -> None:
    run = bleen(service, "deploy", "--version", "1.0\n")
    assert run.returncode == 2
    assert "is not allowed" in run.stderr


def test_help_of_every_command_has_an_example() -> None:
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) == 17
    for command in [*([name] for name in names), *(["controller", name] for name in ("run", "start", "stop", "status"))]:
        code, out, _ = here(*command, "--help")
        assert code == 0
        assert "Example" in out, command


def test_version_is_said(tmp_path: Path) -> None:
    run = bleen(tmp_path, "--version")
    assert (run.returncode, run.stdout.split()[0]) == (0, "bleen")


def test_environments_complete_to_blue_and_green(tmp_path: Path) -> None:
    script = "import sys; sys.argv = ['bleen']; from bleen.cli.main import run; run()"
    environ = os.environ | {"_BLEEN_COMPLETE": "complete_bash", "COMP_WORDS": "bleen logs ", "COMP_CWORD": "2"}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.split() == ["blue", "green"]


@pytest.mark.parametrize(
    ("arguments", "allowed"), [(["status"], STATUS_MODULES), (["status", "--json"], STATUS_MODULES), (["--help"], HELP_MODULES)]
)
def test_status_and_help_import_nothing_that_their_reader_would_wait_for(service: Path, arguments: list[str], allowed: set[str]) -> None:
    script = textwrap.dedent(
        f"""
        import atexit, json, sys
        atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
        sys.argv = ["bleen", *{arguments!r}]
        from bleen.cli.main import run
        run()
        """
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=service, capture_output=True, text=True, timeout=60, check=True)
    modules = set(json.loads(run.stderr.splitlines()[-1]))
    packages = {name.split(".")[0] for name in modules}
    foreign = packages - set(sys.stdlib_module_names)
    assert {name for name in foreign if not name.startswith(("_cython", "__"))} <= STATUS_PACKAGES
    assert {name for name in modules if name.split(".")[0] == "bleen"} <= allowed
    assert "asyncio" not in modules


def test_a_check_with_a_name_that_nothing_replaces_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "bleen.yaml").write_text(
        "service: shop\n"
        "environments:\n  blue: {endpoints: ['http://127.0.0.1:9001']}\n  green: {endpoints: ['http://127.0.0.1:9002']}\n"
        "runtime: {type: process, command: [python, app.py]}\n"
        "checks:\n  load_test: {command: [python, load.py, '{url}']}\n"
    )
    argv = [sys.executable, "-m", "bleen.cli.main", "--config", str(tmp_path / "bleen.yaml"), "check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "checks.load_test.command[2]" in done.stderr
    assert "{preview_url}" in done.stderr
    assert not (tmp_path / ".bleen").exists()
