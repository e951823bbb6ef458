"""The local show: a payments service behind a real nginx, four releases under load, good and bad, and nothing left running."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bleen.deployment import spawn
from bleen.deployment.plan import DeployRequest
from bleen.errors import AttentionNeeded
from bleen.manager import BlueGreenDeploymentManager, DeploymentResult
from bleen.model.release import Release
from bleen.records.status import StatusReport
from bleen.wiring import open_manager

CONNECTIONS = 50
LOAD_LIMIT_S = 300
REQUESTS_WANTED = 20_000  # at a lower rate, those of a minute
ALLOWED_FAILURES = {"1.2.0": 40, "1.3.0": 20}  # of users' requests, until the traffic is back

CONFIGURATION = """\
service: payments
environments:
  blue: {{endpoints: ["http://127.0.0.1:{blue}"]}}
  green: {{endpoints: ["http://127.0.0.1:{green}"]}}
runtime:
  type: process
  command: {command}
  variables: {{PAYMENTS_DB: {database}}}
  stop_timeout: 5s
traffic:
  type: nginx
  listen: 127.0.0.1:{listen}
  preview: 127.0.0.1:{preview}
  control: 127.0.0.1:{control}
deployment:
  step: {{dwell: {dwell}, min_requests: 50}}
  bake: 4s
"""


@dataclass(frozen=True, slots=True)
class Act:
    """One deployment of the show and how it ought to end."""

    version: str
    story: str
    outcome: str


ACTS = (
    Act("1.0.0", "the first release: nothing to compare with, verified and then given everybody", "promoted"),
    Act("1.1.0", "a good release", "promoted"),
    Act("1.2.0", "a release that fails 5 % of its requests while its health checks are good", "rolled_back"),
    Act("1.3.0", "a release that dies under load", "rolled_back"),
)


@dataclass(slots=True)
class Finale:
    """The figures of the whole show, counted at the client."""

    requests: int = 0
    failed: int = 0
    broken_connections: int = 0
    deployments: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # what did not go as it should

    def to_dict(self) -> dict[str, Any]:
        """As `bleen demo --json` ends."""
        return asdict(self)


class Audience(Protocol):
    """Whoever is shown the demo."""

    def prepared(self, folder: Path, url: str) -> None:
        """The stage is set."""

    def begins(self, act: Act, deployment: str) -> None:
        """A deployment was submitted."""

    def sees(self, report: StatusReport) -> None:
        """The service as it stands, several times a second."""

    def ended(self, act: Act, result: DeploymentResult, figures: dict[str, Any]) -> None:
        """A deployment has ended."""


async def perform(audience: Audience, *, rate: int, dwell: str = "3s") -> Finale:
    """The show was given. Nothing that it started runs any more, also when it is cancelled in the middle."""
    finale = Finale()
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bleen-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = _write_configuration(folder, dwell)
        manager = await stack.enter_async_context(open_manager(folder / "bleen.yaml", source="demo"))
        stack.push_async_callback(_strike, manager)
        audience.prepared(folder, url)
        first, *others = ACTS
        await _deploy(manager, first, audience)
        load = await stack.enter_async_context(Load(url, rate, folder / "load.json"))
        for act in others:
            result, figures = await _act(manager, act, audience, load)
            finale.deployments.append(figures)
            _complain(finale, act, result, figures)
        wanted = min(REQUESTS_WANTED, rate * 60)
        await load.until(wanted)
        report = await load.stop()
        finale.requests, finale.failed, finale.broken_connections = report["requests"], report["failed"], report["broken_connections"]
        if finale.requests < wanted:
            finale.complaints.append(f"only {finale.requests} of {wanted} requests were sent")
    return finale


async def _act(manager: BlueGreenDeploymentManager, act: Act, audience: Audience, load: Load) -> tuple[DeploymentResult, dict[str, Any]]:
    """One deployment, with what the client counted while it ran."""
    before = load.counts()
    result = await _deploy(manager, act, audience)
    await asyncio.sleep(2 * Load.REPORT_EVERY_S)  # the client's next report holds the last of it
    after = load.counts()
    figures: dict[str, Any] = {"version": act.version, "outcome": result.outcome}
    if result.outcome != "promoted":
        figures["reason"] = result.reason
    figures["duration_s"] = round(result.duration_s, 2)
    figures["requests"] = after["requests"] - before["requests"]
    figures["failed_requests"] = after["failed"] - before["failed"]
    figures["broken_connections"] = after["broken_connections"] - before["broken_connections"]
    figures |= {name: result.figures[name] for name in ("detected_after_s", "restored_after_s") if name in result.figures}
    audience.ended(act, result, figures)
    return result, figures


async def _deploy(manager: BlueGreenDeploymentManager, act: Act, audience: Audience) -> DeploymentResult:
    submitted = await manager.submit(DeployRequest(Release(act.version, "demo", "main")))
    if isinstance(submitted, DeploymentResult):
        return submitted
    audience.begins(act, submitted.id)
    result = await manager.wait(submitted.id, audience.sees)
    if act is ACTS[0]:
        audience.ended(act, result, {"version": act.version, "outcome": result.outcome, "duration_s": round(result.duration_s, 2)})
        if result.outcome != act.outcome:
            raise AttentionNeeded(f"the first release was not promoted: {result.reason}")
    return result


def _complain(finale: Finale, act: Act, result: DeploymentResult, figures: dict[str, Any]) -> None:
    if result.outcome != act.outcome:
        finale.complaints.append(f"{act.version} ended {result.outcome}, not {act.outcome}: {result.reason}")
    allowed = ALLOWED_FAILURES.get(act.version, 0)
    if figures["failed_requests"] > allowed:
        finale.complaints.append(f"{act.version}: {figures['failed_requests']} failed requests, at most {allowed} are allowed")
    if act.outcome == "promoted" and figures["broken_connections"]:
        finale.complaints.append(f"{act.version}: {figures['broken_connections']} broken connections")


async def _strike(manager: BlueGreenDeploymentManager) -> None:
    """Controller, releases and proxy have stopped, whatever state they are in."""
    loaded = manager.loaded
    await asyncio.to_thread(spawn.stop_controller, loaded.state_dir)
    await manager.shut_down(force=True)


class Load:
    """The load client, a process of its own that never retries."""

    REPORT_EVERY_S = 0.2

    def __init__(self, url: str, rate: int, report: Path) -> None:
        self._arguments = ["--url", url, "--connections", str(CONNECTIONS), "--rate", str(rate), "--seconds", str(LOAD_LIMIT_S)]
        self._report = report

    async def __aenter__(self) -> Load:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "bleen.demo.load", *self._arguments, "--report", str(self._report)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,  # its counts are read from the report
            start_new_session=True,  # a Ctrl-C is for the show, which ends the load itself
        )
        await self.until(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def counts(self) -> dict[str, int]:
        """What the client has counted so far: requests, failed, broken_connections."""
        try:
            report = json.loads(self._report.read_text())
        except (OSError, ValueError):
            report = {}
        return {name: int(report.get(name, 0)) for name in ("requests", "failed", "broken_connections")}

    async def until(self, requests: int, limit_s: float = 90.0) -> None:
        """So many requests were sent, or the time is over, or the client has ended."""
        deadline = time.monotonic() + limit_s
        while self.counts()["requests"] < requests and time.monotonic() < deadline and self._process.returncode is None:
            await asyncio.sleep(0.1)

    async def stop(self) -> dict[str, int]:
        """The client has finished what was in flight and ended."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(15):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        return self.counts()


def _write_configuration(folder: Path, dwell: str) -> str:
    """bleen.yaml for this machine, on ports that are free. Returns the URL for users."""
    names = ("blue", "green", "listen", "preview", "control")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    command = json.dumps([sys.executable, "-m", "bleen.demo.payments"])
    text = CONFIGURATION.format(command=command, database=json.dumps(str(folder / "payments.db")), dwell=dwell, **ports)
    (folder / "bleen.yaml").write_text(text)
    return f"http://127.0.0.1:{ports['listen']}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
