"""A lean HTTP/1.1 server: keep-alive, Content-Length, an orderly end. What a sample service behind a proxy needs, and no more.

A general framework costs several times as much for each request, and the show shares its cores with the proxy and the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
IDLE_LIMIT_S = 90.0  # above nginx's 60 s for idle upstream connections: the proxy is always the one that closes first
SWEEP_S = 5.0
QUIET_S = 0.4  # after SIGTERM an idle connection may still bring the request that was on its way
STOP_LIMIT_S = 5.0  # then requests that are still in flight are cut off


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str  # without the query string
    headers: dict[str, str]  # names in lower case
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: dict[str, Any]


Handler = Callable[[Request], "Answer | asyncio.Future[Answer]"]


class BadRequest(Exception):
    """The bytes are no request that this server takes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HttpServer:
    """Serves `handler` from `start` until `stop`; `headers` go with every answer."""

    def __init__(self, handler: Handler, headers: dict[str, str]) -> None:
        self.handler = handler
        self.connections: set[Connection] = set()
        self.stopping = False
        self.fixed_headers = "Content-Type: application/json\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """The server accepts connections; returns its port (another one than `port` only where that is 0)."""
        loop = asyncio.get_running_loop()
        self._listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512)
        self._listener.setblocking(False)
        self._server = await loop.create_server(partial(Connection, self), sock=self._listener)
        self._sweeper = loop.create_task(self._close_forgotten())
        return int(self._listener.getsockname()[1])

    async def stop(self) -> None:
        """No connection is open: requests in flight were answered with `Connection: close`, idle connections closed."""
        self.stopping = True
        await self._stop_accepting()
        loop = asyncio.get_running_loop()
        quiet_until, limit = loop.time() + QUIET_S, loop.time() + STOP_LIMIT_S
        while self.connections and loop.time() < limit:
            if loop.time() >= quiet_until:
                for connection in [connection for connection in self.connections if connection.idle]:
                    connection.close()
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _stop_accepting(self) -> None:
        """Nothing listens; what the kernel had accepted by then is served, where a plain close would reset it."""
        if self._listener is None or self._server is None:
            return
        loop = asyncio.get_running_loop()
        accepted = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(self._listener.accept()[0])
        self._server.close()
        for connection in accepted:
            await loop.connect_accepted_socket(partial(Connection, self), connection)

    async def _close_forgotten(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            for connection in list(self.connections):
                if not connection.busy and loop.time() - connection.seen_at > IDLE_LIMIT_S:
                    connection.close()


class Connection(asyncio.Protocol):
    """One client's connection; one request at a time, in order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.busy = False  # a request was taken and not yet answered
        self.seen_at = self._loop.time()

    @property
    def idle(self) -> bool:
        return not self.busy and not self._buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - tells mypy what create_server hands out
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self.seen_at = self._loop.time()
        self._buffer += data
        if not self.busy:
            self._serve()
        elif len(self._buffer) > MAX_HEAD_BYTES + MAX_BODY_BYTES:
            self.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _serve(self) -> None:
        """Every whole request in the buffer was handed on; stops at one whose answer comes later."""
        while self._buffer and not self.busy and self._transport is not None:
            try:
                taken = take_request(self._buffer)
            except BadRequest as error:
                self._send(Answer(error.status, {"error": str(error)}), keep_alive=False)
                return
            if taken is None:
                return
            request, self._buffer = taken
            answer = self._handle(request)
            if isinstance(answer, Answer):
                self._send(answer, request.keep_alive, request.method)
            else:
                self.busy = True
                answer.add_done_callback(partial(self._send_later, request))

    def _handle(self, request: Request) -> Answer | asyncio.Future[Answer]:
        try:
            return self._server.handler(request)
        except Exception:  # noqa: BLE001 - whatever the handler raises, the client gets an answer and the log the reason
            return _unexpected(request, traceback.format_exc())

    def _send_later(self, request: Request, future: asyncio.Future[Answer]) -> None:
        if future.cancelled():
            self.abort()
            return
        error = future.exception()
        answer = future.result() if error is None else _unexpected(request, "".join(traceback.format_exception(error)))
        self.busy = False
        self._send(answer, request.keep_alive, request.method)
        self._serve()

    def _send(self, answer: Answer, keep_alive: bool, method: str = "GET") -> None:
        if self._transport is None:
            return
        keep_alive = keep_alive and not self._server.stopping
        body = json.dumps(answer.body).encode()
        head = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{self._server.fixed_headers}"
            f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        self._transport.write(head.encode("latin-1") + (b"" if method == "HEAD" else body))
        if not keep_alive:
            self._buffer = b""
            self._transport.close()


def take_request(buffer: bytes) -> tuple[Request, bytes] | None:
    """The first request of the buffer and what follows it; None while it is not whole. Raises BadRequest."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0 and len(buffer) <= MAX_HEAD_BYTES:
        return None
    if end < 0 or end > MAX_HEAD_BYTES:
        raise BadRequest(431, f"the head of a request has at most {MAX_HEAD_BYTES} bytes")
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(400, "the first line is no HTTP/1.1 request")
    headers = _headers(lines)
    if "transfer-encoding" in headers:
        raise BadRequest(411, "send the body with Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BadRequest(400, "Content-Length is no number")
    if len(length) > 9 or int(length) > MAX_BODY_BYTES:
        raise BadRequest(413, f"a body has at most {MAX_BODY_BYTES} bytes")
    start, stop = end + 4, end + 4 + int(length)
    if len(buffer) < stop:
        return None
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if parts[2] == "HTTP/1.1" else connection == "keep-alive"
    return Request(parts[0], parts[1].partition("?")[0], headers, buffer[start:stop], keep_alive), buffer[stop:]


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name.strip() != name:
            raise BadRequest(400, "a header is not `Name: value`")
        if name == "content-length" and name in headers:
            raise BadRequest(400, "Content-Length appears twice")
        headers[name] = value.strip()
    return headers


def _unexpected(request: Request, trace: str) -> Answer:
    sys.stderr.write(f"500 {request.method} {request.path}\n{trace}")
    return Answer(500, {"error": "internal error"})
