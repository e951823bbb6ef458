"""Helper commands: their output, their end, and that none outlives whoever asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bleen.errors import RuntimeFailed
from bleen.runtime.helper import HelperCommand, HelperResult, run_helper

PYTHON = [sys.executable, "-I", "-S", "-c"]

# A command with a child of its own, as `npm run` and `make` have; both append their pids.
FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
with open(os.environ["NOTES"], "a") as notes:
    notes.write(f"{os.getpid()}\\n")
print("running", flush=True)
while True: time.sleep(60)
"""

CALLER = """
import asyncio, sys
from pathlib import Path
from bleen.runtime.helper import HelperCommand, run_helper
asyncio.run(run_helper(HelperCommand([sys.executable, "-I", "-S", "-c", sys.argv[1]], Path("."), {"NOTES": sys.argv[2]}, 60, None)))
"""


async def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "notes"
    yield path
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("NOTES") == str(path):
                process.kill()


def living(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().split() if lives(int(line))] if notes.exists() else []


async def run(program: str, folder: Path, timeout_s: float = 30, log: Path | None = None, **variables: str) -> HelperResult:
    return await run_helper(HelperCommand([*PYTHON, program], folder, variables, timeout_s, log))


async def test_a_result_holds_the_exit_status_and_the_last_lines(tmp_path: Path) -> None:
    result = await run("import sys\nfor n in range(50): print(n, flush=True)\nsys.exit('over')", tmp_path)
    assert (result.exit_status, result.timed_out, result.succeeded) == (1, False, False)
    assert result.last_lines == [*(str(n) for n in range(31, 50)), "over"]
    assert (await run("", tmp_path)).succeeded


async def test_a_command_runs_in_its_directory_with_its_variables_on_top_of_ours_and_without_input(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getcwd()); print(os.environ['COLOUR'], 'PATH' in os.environ, repr(sys.stdin.read()))"
    result = await run(program, tmp_path, COLOUR="teal")
    assert result.last_lines == [str(tmp_path), "teal True ''"]


async def test_the_log_is_appended_to_and_the_lines_are_those_of_this_run(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "tests.log"
    await run("print('before')", tmp_path, log=log)
    result = await run("print('now')", tmp_path, log=log)
    assert result.last_lines == ["now"]
    assert log.read_text() == "before\nnow\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeFailed, match="cannot be written"):
        await run("", tmp_path, log=tmp_path / "file" / "tests.log")


async def test_a_missing_program_and_a_missing_directory_are_results_that_name_them(tmp_path: Path) -> None:
    result = await run_helper(HelperCommand(["no-such-program-anywhere"], tmp_path, {}, 10, None))
    assert result.exit_status == 127
    assert "no-such-program-anywhere" in result.last_lines[-1]
    result = await run("", tmp_path / "nowhere")
    assert result.exit_status == 127
    assert "nowhere" in result.last_lines[-1]


async def test_a_signal_shows_as_a_shell_shows_it(tmp_path: Path) -> None:
    assert (await run("import os; os.kill(os.getpid(), 15)", tmp_path)).exit_status == 128 + 15


async def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path, notes: Path) -> None:
    result = await run(FAMILY, tmp_path, timeout_s=3, NOTES=str(notes))
    assert result.timed_out
    assert not result.succeeded
    assert result.last_lines == ["running", "running"]
    await until(lambda: living(notes) == [])


async def test_a_cancelled_call_kills_the_command_and_its_children(tmp_path: Path, notes: Path) -> None:
    running = asyncio.create_task(run(FAMILY, tmp_path, NOTES=str(notes)))
    await until(lambda: len(living(notes)) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: living(notes) == [], limit_s=5)


async def test_a_killed_caller_takes_the_command_and_its_children_with_it(notes: Path) -> None:
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", CALLER, FAMILY, str(notes))
    try:
        await until(lambda: len(living(notes)) == 2)
    finally:
        caller.kill()
        await caller.wait()
    await until(lambda: living(notes) == [], limit_s=5)


async def test_a_command_does_not_outlive_its_keeper_either(tmp_path: Path, notes: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's signal at a parent's death exists on Linux only")
    running = asyncio.create_task(run(FAMILY, tmp_path, NOTES=str(notes)))
    await until(lambda: len(living(notes)) == 2)
    [keeper] = [child for child in psutil.Process().children() if any("launcher.py" in part for part in child.cmdline())]
    command = keeper.children()[0].pid
    keeper.kill()
    result = await running
    assert result.exit_status == 128 + 9
    await until(lambda: not lives(command), limit_s=5)


async def test_variables_are_not_visible_in_any_argument_list(tmp_path: Path, notes: Path) -> None:
    running = asyncio.create_task(run(FAMILY, tmp_path, NOTES=str(notes), PASSWORD="s3cret-of-helper"))
    await until(lambda: len(living(notes)) == 2)
    shown = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    running.cancel()
    await asyncio.wait({running})
    assert any("launcher.py" in line for line in shown)
    assert not any("s3cret-of-helper" in line for line in shown)
