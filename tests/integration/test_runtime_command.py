"""The user's own commands: what they are told, what their exit status means, and what happens when they hang."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from bleen.config.adapters import CommandRuntime
from bleen.errors import ConfigurationError, RuntimeFailed
from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release
from bleen.runtime.command import command_runtime
from bleen.runtime.runtime import RunState, Runtime, StopOutcome
from bleen.runtime.site import RuntimeSite

BLUE = Environment.BLUE
RELEASE = Release("1.0.0", "abc123", "main")
PYTHON = [sys.executable, "-I", "-S", "-c"]

# The service is a file: started when it is there.
START = "open('service', 'a').write('started {version}\\n')"
STOP = "import os; os.path.exists('service') and os.remove('service')"
STATUS = "import os, sys; sys.exit(0 if os.path.exists('service') else 3)"


def runtime(
    folder: Path,
    start: str | list[str] = START,
    stop: str | list[str] = STOP,
    status: str = STATUS,
    timeout_s: float = 20,
    variables: dict[str, str] | None = None,
) -> Runtime:
    """A runtime whose commands are Python programs, or whole argument lists."""
    start, stop, status_argv = ([*PYTHON, each] if isinstance(each, str) else each for each in (start, stop, status))
    timeout = timedelta(seconds=timeout_s)
    options = CommandRuntime(type="command", start=start, stop=stop, status=status_argv, timeout=timeout, variables=variables or {})
    endpoints = {environment: [Endpoint("http", "127.0.0.1", 9000 + n)] for n, environment in enumerate(Environment, 1)}
    site = RuntimeSite("shop", endpoints, folder, folder / "run")
    return command_runtime(options, site, lambda value: "s3cret-value" if value == "env:SECRET" else value)


async def test_a_failed_start_shows_its_exit_status_and_its_last_lines(tmp_path: Path) -> None:
    made = runtime(tmp_path, start="import sys; [print('line', n) for n in range(30)]; sys.exit(7)")
    with pytest.raises(RuntimeFailed, match="start command ended with exit status 7") as failure:
        await made.start(RELEASE, BLUE, "one")
    assert "line 29" in failure.value.message
    assert "line 20" in failure.value.message
    assert "line 19" not in failure.value.message


async def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed, match=r"(?s)127.*no-such-program-anywhere"):
        await runtime(tmp_path, start=["no-such-program-anywhere"]).start(RELEASE, BLUE, "one")


async def test_a_command_that_hangs_is_killed_and_named(tmp_path: Path) -> None:
    made = runtime(tmp_path, start="import time; print('waiting', flush=True); time.sleep(60)", timeout_s=2)
    with pytest.raises(RuntimeFailed, match=r"(?s)start command was killed after .*waiting"):
        await made.start(RELEASE, BLUE, "one")


@pytest.mark.parametrize("status", ["import sys; sys.exit('no such unit')", "import time; time.sleep(60)"])
async def test_a_status_that_is_neither_running_nor_stopped_is_unknown_and_nothing_is_started(tmp_path: Path, status: str) -> None:
    made = runtime(tmp_path, status=status, timeout_s=2)
    told = await made.status(BLUE)
    assert told.state is RunState.UNKNOWN
    assert "status command" in told.evidence
    with pytest.raises(RuntimeFailed, match="cannot tell whether blue runs already"):
        await made.start(RELEASE, BLUE, "one")
    assert not (tmp_path / "service").exists()


async def test_a_service_that_bleen_did_not_start_is_not_started_over(tmp_path: Path) -> None:
    (tmp_path / "service").touch()
    with pytest.raises(RuntimeFailed, match="something that bleen did not start"):
        await runtime(tmp_path).start(RELEASE, BLUE, "one")


async def test_a_start_that_was_cut_off_after_it_had_worked_is_found_by_the_next(tmp_path: Path) -> None:
    hangs = runtime(tmp_path, start=START + "; import time; time.sleep(60)", timeout_s=2)
    with pytest.raises(RuntimeFailed):
        await hangs.start(RELEASE, BLUE, "one")
    await runtime(tmp_path).start(RELEASE, BLUE, "one")
    assert (tmp_path / "service").read_text() == "started 1.0.0\n"


async def test_a_stop_that_does_not_stop_is_an_error(tmp_path: Path) -> None:
    made = runtime(tmp_path, stop="pass", timeout_s=2)
    await made.start(RELEASE, BLUE, "one")
    with pytest.raises(RuntimeFailed, match="still says running"):
        await made.stop(BLUE)
    assert (await made.status(BLUE)).token == "one"


async def test_what_runs_already_and_was_not_started_here_can_still_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "service").touch()
    assert await runtime(tmp_path).stop(BLUE) is StopOutcome.DRAINED
    assert not (tmp_path / "service").exists()


async def test_commands_are_told_of_the_release_and_stop_of_what_was_started(tmp_path: Path) -> None:
    tell = "import json, os, sys; json.dump([sys.argv[1:], os.environ['VERSION'], os.environ['PORT']], open(sys.argv[1], 'w'))"
    start = [*PYTHON, START + "\n" + tell, "start", "{version}"]
    stop = [*PYTHON, STOP + "\n" + tell, "stop", "{version} {branch} {port}"]
    made = runtime(tmp_path, start, stop)
    await made.start(RELEASE, BLUE, "one")
    assert json.loads((tmp_path / "start").read_text()) == [["start", "1.0.0"], "1.0.0", "9001"]
    await made.stop(BLUE)
    assert json.loads((tmp_path / "stop").read_text()) == [["stop", "1.0.0 main 9001"], "1.0.0", "9001"]


async def test_a_secret_that_a_command_prints_is_not_in_the_error(tmp_path: Path) -> None:
    print_it = "import os, sys; sys.exit('cannot log in with ' + os.environ['PASSWORD'])"
    made = runtime(tmp_path, start=print_it, variables={"PASSWORD": "env:SECRET"})
    with pytest.raises(RuntimeFailed, match=r"cannot log in with \*\*\*") as failure:
        await made.start(RELEASE, BLUE, "one")
    assert "s3cret-value" not in str(failure.value)


async def test_an_unknown_name_in_braces_is_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"runtime\.stop\[5\].*\{pod\}"):
        runtime(tmp_path, stop=[*PYTHON, "x", "{pod}"])
