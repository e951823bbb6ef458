"""Every example runs as its README says: two releases, a rollback, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.rig import Rig

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITTEN = {"blue": 9001, "green": 9002, "listen": 8080, "preview": 8081, "control": 8082}  # the ports in every example's bleen.yaml


class Example(Rig):
    """One example in a copy of the folder of examples, on ports that are free."""

    name = ""

    @property
    def config(self) -> Path:
        return self.folder / self.name / "bleen.yaml"

    @property
    def state(self) -> Path:
        return self.folder / self.name / ".bleen"

    def write(self, **overrides: Any) -> None:
        text = self.config.read_text()
        for name, port in WRITTEN.items():
            text = text.replace(f":{port}", f":{self.ports[name]}")
        text = text.replace("dwell: 1s", "dwell: 300ms").replace("bake: 2s", "bake: 500ms")
        self.config.write_text(text)

    def processes(self) -> list[psutil.Process]:
        """Also by working directory: the title of an nginx worker names no folder, and a worker outlives a master that is killed."""
        found = super().processes()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.folder) and process not in found:
                    found.append(process)
        return found

    def version(self) -> str:
        """What a user is told by whoever answers through nginx."""
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            return str(json.load(answer)["version"])

    def done(self, *arguments: str) -> str:
        """The command ended with 0; its output."""
        ended = self.bleen(*arguments)
        assert ended.returncode == 0, f"bleen {' '.join(arguments)}: {ended.returncode}\n{ended.stdout}{ended.stderr}{self._log()}"
        return ended.stdout

    def _log(self) -> str:
        log = self.state / "controller.log"
        return log.read_text()[-4000:] if log.exists() else ""


class ProcessExample(Example):
    name = "process"


class CommandExample(Example):
    name = "command"


@pytest.fixture(params=[ProcessExample, CommandExample], ids=lambda kind: kind.name)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Example]:
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns(".bleen", "run", "__pycache__"))
    found = request.param(folder)
    try:
        yield found
    finally:
        found.tear_down()


@pytest.mark.timeout(300)
def test_an_example_is_deployed_twice_rolled_back_and_leaves_nothing(example: Example) -> None:
    example.done("check")

    example.done("deploy", "--version", "1.0.0")
    assert example.version() == "1.0.0"

    example.done("deploy", "--version", "1.1.0")
    assert example.version() == "1.1.0"

    example.done("rollback", "--reason", "to see the way back")
    assert example.version() == "1.0.0"
    status = json.loads(example.done("status", "--json"))
    assert status["deployment"]["status"] == "rolled_back"
    assert status["active_environment"] == "blue"

    example.done("controller", "stop", "--service", "--yes")
    assert example.processes() == []


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/bleen.yaml")))
def test_every_example_is_run_by_a_test(name: str) -> None:
    assert name in {kind.name for kind in Example.__subclasses__()}


@pytest.mark.parametrize("name", sorted(kind.name for kind in Example.__subclasses__()))
def test_the_readme_of_an_example_has_ten_lines_at_most(name: str) -> None:
    assert len((EXAMPLES / name / "README.md").read_text().splitlines()) <= 10
