"""From a configuration to a manager or a controller; the one importer of adapters."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import getpass
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from bleen.config.adapters import CommandRuntime
from bleen.config.load import Loaded, load
from bleen.config.schema import CheckCommand, Config
from bleen.config.secrets import resolve
from bleen.deployment import spawn
from bleen.deployment.controller import Controller
from bleen.deployment.ports import CheckResult, Ports
from bleen.errors import StoreUnavailable
from bleen.manager import BlueGreenDeploymentManager
from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult
from bleen.runtime.command import command_runtime
from bleen.runtime.helper import HelperCommand, run_helper
from bleen.runtime.process import process_runtime
from bleen.runtime.replacements import fill, templates
from bleen.runtime.runtime import Runtime
from bleen.runtime.site import RuntimeSite
from bleen.signals.follow import LogCursor, LogFollower
from bleen.signals.probes import Prober, ProbeTarget, ask
from bleen.store.store import open_store
from bleen.store.writer import Who
from bleen.traffic.nginx.proxy import NginxSite, nginx_proxy
from bleen.traffic.router import Proxy

# What is replaced in the commands of checks (`deployment.steps.checks` gives the values).
CHECK_NAMES = frozenset({"service", "version", "commit_hash", "branch", "environment", "base_url", "preview_url", "deployment"})


@asynccontextmanager
async def open_manager(path: str | Path = "bleen.yaml", *, source: str = "python") -> AsyncIterator[BlueGreenDeploymentManager]:
    """The manager of the service that the file describes, open for as long as the block lasts.

    Raises ConfigurationError for what is wrong with the file or the environment variables, StoreUnavailable.
    """
    loaded = load(Path(path), os.environ)
    _refuse_unknown_names(loaded)
    store = await asyncio.to_thread(open_store, loaded.state_dir, loaded.config.service)
    site = Site(loaded.path, loaded.state_dir, store.id)
    manager = BlueGreenDeploymentManager(
        loaded,
        store,
        wire(site, loaded.config),
        Who(whoami(), source),
        lambda: spawn.ensure_controller(loaded.state_dir, controller_argv(loaded)),
    )
    try:
        yield manager
    finally:
        await manager.close()


def run_controller(path: Path) -> int:
    """The controller of the service ran in this process until it was told to stop. Returns its exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    loaded = load(path, os.environ)
    store = open_store(loaded.state_dir, loaded.config.service)
    guarded = os.environ.get("BLEEN_GUARDED") == "1"
    controller = Controller(
        store=store,
        state_dir=loaded.state_dir,
        holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}",
        lease_s=loaded.config.controller.lease.total_seconds(),
        wire=lambda config: wire(Site(loaded.path, loaded.state_dir, store.id), config),
        config=loaded.config,
        keep_guardian=lambda: spawn.ensure_guardian(loaded.state_dir, controller_argv(loaded)) if guarded else None,
    )
    _give_back_memory()
    try:
        return asyncio.run(controller.run())
    finally:
        store.close()


def _give_back_memory() -> None:
    """What importing needed and nobody needs any more is the system's again: some 3 MB that would stay for months."""
    with contextlib.suppress(AttributeError, OSError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def start_controller(path: Path) -> None:
    """A guarded controller runs in the background, or is being started."""
    loaded = load(path, os.environ)
    open_store(loaded.state_dir, loaded.config.service).close()  # the folder is there, and it can be written
    spawn.ensure_controller(loaded.state_dir, controller_argv(loaded))


def stop_controller(path: Path) -> bool:
    """Controller and guardian have ended, releases and proxy go on. False when none ran."""
    return spawn.stop_controller(load(path, os.environ).state_dir)


def controller_argv(loaded: Loaded) -> list[str]:
    return [sys.executable, "-m", "bleen.wiring", str(loaded.path)]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a service's files are, and whose its proxy folder is."""

    path: Path  # of bleen.yaml
    state_dir: Path
    store_id: str


def wire(site: Site, config: Config) -> Ports:
    """Every adapter that the configuration names, behind its port."""
    proxy = _proxy(site, config)
    runtime = _runtime(site, config)

    async def ask_directly(environment: Environment, kind: ProbeKind = ProbeKind.HEALTH) -> ProbeResult:
        return await ask(target(config, environment, kind), config.health.probe_timeout.total_seconds())

    async def ask_preview(environment: Environment) -> ProbeResult:
        preview = proxy.router.preview(environment)
        urls = (preview.url + config.health.path,)
        question = ProbeTarget(environment, ProbeKind.HEALTH, urls, dict(preview.headers), config.health.version_field)
        return await ask(question, config.health.probe_timeout.total_seconds())

    async def run_check(check: CheckCommand, names: dict[str, str], undo: bool) -> CheckResult:
        preview = proxy.router.preview(Environment(names["environment"]))
        return await _run_check(site, check, names | {"preview_header": _header(preview.headers)}, undo)

    def prober(environments: list[Environment], interval_s: float) -> Prober:
        targets = tuple(target(config, environment, ProbeKind.HEALTH) for environment in environments)
        return Prober(targets, interval_s, config.health.probe_timeout.total_seconds())

    return Ports(
        config=config,
        state_dir=site.state_dir,
        runtime=runtime,
        proxy=proxy,
        ask=ask_directly,
        ask_preview=ask_preview,
        prober=prober,
        follower=lambda place: PlacedFollower(LogFollower(proxy.access_log, LogCursor.from_dict(place) if place else None)),
        run_check=run_check,
        close=proxy.router.close,
    )


@dataclass(frozen=True, slots=True)
class PlacedFollower:
    """The follower of the access log, its place as data for the journal."""

    follower: LogFollower

    async def observe(self, sink: Any) -> None:
        await self.follower.observe(sink)

    def place(self) -> dict[str, Any]:
        return self.follower.cursor.to_dict()


def target(config: Config, environment: Environment, kind: ProbeKind) -> ProbeTarget:
    """Where the environment is asked that kind of question."""
    options, health = config.environments.of(environment), config.health
    path = {ProbeKind.HEALTH: health.path, ProbeKind.READY: health.ready_path, ProbeKind.STARTUP: health.startup_path}[kind]
    urls = tuple(f"{endpoint}{path}" for endpoint in options.parsed())
    if kind is ProbeKind.HEALTH and options.health_url:
        urls = (options.health_url,)
    return ProbeTarget(environment, kind, urls, version_field=health.version_field)


def _proxy(site: Site, config: Config) -> Proxy:
    endpoints = {environment: config.environments.of(environment).parsed() for environment in Environment}
    folder = site.state_dir / "proxy"
    return nginx_proxy(NginxSite(config.traffic, endpoints, config.service, site.store_id, folder, preview_key(site.state_dir)))


def _runtime(site: Site, config: Config) -> Runtime:
    endpoints = {environment: config.environments.of(environment).parsed() for environment in Environment}
    runtime_site = RuntimeSite(config.service, endpoints, site.path.parent, site.state_dir / "run")

    def resolved(value: str) -> str:
        return resolve(value, site.path.parent, os.environ)

    if isinstance(config.runtime, CommandRuntime):
        return command_runtime(config.runtime, runtime_site, resolved)
    return process_runtime(config.runtime, runtime_site, resolved)


def _refuse_unknown_names(loaded: Loaded) -> None:
    """Raises ConfigurationError for a {name} in a command that nothing replaces, before anything is written."""
    _runtime(Site(loaded.path, loaded.state_dir, store_id=""), loaded.config)
    for name, check in loaded.config.checks:
        if check is not None:
            templates(check.command, f"checks.{name}.command", CHECK_NAMES)
            templates(check.undo or [], f"checks.{name}.undo", CHECK_NAMES)


async def _run_check(site: Site, check: CheckCommand, names: dict[str, str], undo: bool) -> CheckResult:
    secret = names.pop("preview_header")  # reaches the command as a variable, never as an argument that `ps` shows
    argv = (check.undo or []) if undo else check.command
    command = HelperCommand(
        argv=fill(templates(argv, "checks", CHECK_NAMES), names),
        directory=site.path.parent,
        variables={name.upper(): value for name, value in names.items()} | {"PREVIEW_HEADER": secret},
        timeout_s=check.timeout.total_seconds(),
        log=site.state_dir / "run" / "checks.log",
    )
    result = await run_helper(command)
    ended = (
        f"not ended after {command.timeout_s:.0f} s"
        if result.timed_out
        else f"exit status {result.exit_status} after {result.took_s:.1f} s"
    )
    return CheckResult(result.succeeded, f"{argv[0]}: {ended}", result.last_lines)


def _header(headers: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in headers.items())


def preview_key(state_dir: Path) -> str:
    """The key of the preview: made once, kept owner-only; a file that is removed is made anew for the next controller."""
    path = state_dir / "preview.key"
    try:
        if not path.exists():
            staged = state_dir / f"preview.key.{os.getpid()}"
            staged.touch(mode=0o600)
            staged.write_text(secrets.token_urlsafe(24) + "\n")
            with contextlib.suppress(FileExistsError):  # another process was quicker: its key holds
                path.hardlink_to(staged)
            staged.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be written: {error.strerror}", next_command=f"ls -ld {state_dir}") from error


def whoami() -> str:
    """Who acts, for the record: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


if __name__ == "__main__":
    sys.exit(run_controller(Path(sys.argv[1])))
