"""What the engine costs: a step's journal, the light commands, a confirmed shift, the controller's memory, a resumed step.

Each figure is a median, with the plain tool measured beside it in the same run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bleen.config.load import load
from bleen.deployment.context import CONTROLLER, FencedStore
from bleen.deployment.route import hold_route
from bleen.model.deployment import StepState
from bleen.model.environment import Environment
from bleen.model.traffic import TrafficSplit
from bleen.store.store import open_store
from bleen.wiring import Site, wire
from tests.rig import Rig, load_on, rig_in

JOURNAL_ROUNDS = 200
START_ROUNDS = 15
SHIFT_ROUNDS = 200
RELOAD_ROUNDS = 10
RESUME_ROUNDS = 5


def run() -> dict[str, float]:
    """The figures of the suite; a table of them beside the plain tools goes to stderr."""
    with _folder() as folder:
        journal_ms, commit_ms = asyncio.run(_journal(folder))
    with _folder() as folder, rig_in(folder) as rig:
        _prepared(rig)
        status_ms = _start_ms([*_bleen(rig), "status"])
        help_ms = _start_ms([*_bleen(rig), "--help"])
        python_ms = _start_ms([sys.executable, "-c", "pass"])
        shift_ms, reload_ms = _shifts(rig)
    with _folder() as folder, rig_in(folder, deployment={"step": {"dwell": "5s", "min_requests": 0}, "bake": "1s"}) as rig:
        rss_mb, resume_s = asyncio.run(_controller(rig))
    rows = [
        ("a step's journal (intent and result)", journal_ms, "ms", "a bare SQLite commit", commit_ms),
        ("bleen status", status_ms, "ms", "python -c pass", python_ms),
        ("bleen --help", help_ms, "ms", "python -c pass", python_ms),
        ("command to confirmed weight", shift_ms, "ms", "nginx -s reload until a new worker answers", reload_ms),
        ("controller's memory at 200 requests/s", rss_mb, "MB", "an idle python", _python_mb()),
        ("kill -9 to the step going on", resume_s, "s", "", 0.0),
    ]
    for name, ours, unit, plain, theirs in rows:
        beside = f"   {plain}: {theirs:.2f} {unit}, ratio {ours / theirs:.2f}" if theirs else ""
        sys.stderr.write(f"{name:<42}{ours:9.2f} {unit}{beside}\n")
    return {
        "journal_ms": round(journal_ms, 2),
        "status_ms": round(status_ms, 1),
        "help_ms": round(help_ms, 1),
        "python_ms": round(python_ms, 1),
        "shift_confirmed_ms": round(shift_ms, 2),
        "manager_rss_mb": round(rss_mb, 1),
        "resume_s": round(resume_s, 2),
    }


async def _journal(folder: Path) -> tuple[float, float]:
    store = open_store(folder, "bench")
    fenced = FencedStore(store, store.take_lease("bench", 60))
    ours, plain = [], []
    connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (a TEXT)")
    for number in range(JOURNAL_ROUNDS):
        step = f"step-{number}"
        began = time.perf_counter()
        await fenced.write(lambda writer, step=step: (writer.begin_step("d", step, "do", 1), writer.add_event("step.started", CONTROLLER)))
        await fenced.write(
            lambda writer, step=step: (writer.end_step("d", step, "do", StepState.DONE, {}), writer.add_event("step.done", CONTROLLER))
        )
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES ('x')")
        connection.execute("COMMIT")
        plain.append(time.perf_counter() - began)
    connection.close()
    store.close()
    return statistics.median(ours) * 1000, statistics.median(plain) * 1000


def _prepared(rig: Rig) -> None:
    """One release is active."""
    done = rig.bleen("deploy", "--version", "1.0.0")
    if done.returncode != 0:
        raise AssertionError(done.stderr)


def _bleen(rig: Rig) -> list[str]:
    return [str(Path(sys.executable).with_name("bleen")), "--config", str(rig.config)]


def _start_ms(argv: list[str]) -> float:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as users have it
    return _median_ms(START_ROUNDS, lambda: subprocess.run(argv, check=True, capture_output=True, env=environ))


def _median_ms(rounds: int, work: Callable[[], Any]) -> float:
    work()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def _shifts(rig: Rig) -> tuple[float, float]:
    """From the order to the confirmation by every worker, the controller being away; beside a reload of the same nginx."""
    if rig.bleen("controller", "stop").returncode != 0:
        raise AssertionError("the controller did not stop")
    return asyncio.run(_shift_in_process(rig)), _reload_ms(rig)


async def _shift_in_process(rig: Rig) -> float:
    loaded = load(rig.config, os.environ)
    store = open_store(loaded.state_dir, "payments")
    ports = wire(Site(loaded.path, loaded.state_dir, store.id), loaded.config)
    fenced = FencedStore(store, store.take_lease("bench", 60, holder_is_gone=True))
    await ports.proxy.router.fence(fenced.lease.epoch)
    took = []
    for number in range(SHIFT_ROUNDS):
        split = TrafficSplit.with_weight(Environment.GREEN, number % 50)
        began = time.perf_counter()
        route = await fenced.write(lambda writer, split=split: writer.set_route(fenced.lease.epoch, split))
        await hold_route(ports, fenced, route)
        took.append(time.perf_counter() - began)
    await ports.close()
    store.close()
    return statistics.median(took) * 1000


def _reload_ms(rig: Rig) -> float:
    """The plain way: SIGHUP to the same master, until every worker is a new one."""
    master = psutil.Process(int((rig.state / "proxy" / "nginx.pid").read_text()))
    took = []
    for _ in range(RELOAD_ROUNDS):
        before = {worker.pid for worker in master.children()}
        began = time.perf_counter()
        master.send_signal(signal.SIGHUP)
        while before & {worker.pid for worker in master.children()}:
            time.sleep(0.001)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


async def _controller(rig: Rig) -> tuple[float, float]:
    """Memory while a deployment is watched at 200 requests/s; then the controller is killed again and again."""
    _prepared(rig)
    with load_on(rig, rate=200) as load:
        deploy = rig.start("deploy", "--version", "1.1.0")
        try:
            await _until(lambda: rig.status().route["green"] == 25)
            rss_mb = psutil.Process(rig.controller_pid()).memory_info().rss / 1e6
            resumed = [await _resume_s(rig) for _ in range(RESUME_ROUNDS)]
        finally:
            deploy.kill()
            deploy.wait()
        load.stop()
    return rss_mb, statistics.median(resumed)


async def _resume_s(rig: Rig) -> float:
    """From the kill to the next attempt of the step in the journal."""
    before = _attempts(rig)
    await _until(lambda: rig.controller_pid() != 0)
    began = time.perf_counter()
    os.kill(rig.controller_pid(), signal.SIGKILL)
    await _until(lambda: _attempts(rig) > before)
    return time.perf_counter() - began


def _attempts(rig: Rig) -> int:
    connection = sqlite3.connect(f"file:{rig.state / 'store.db'}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT sum(attempt) FROM journal").fetchone()[0])
    finally:
        connection.close()


async def _until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the bench waited in vain")
        await asyncio.sleep(0.01)


def _python_mb() -> float:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        time.sleep(0.5)
        return float(psutil.Process(process.pid).memory_info().rss) / 1e6
    finally:
        process.kill()
        process.wait()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bleen-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)
