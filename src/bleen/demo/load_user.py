"""One user of the load client: a keep-alive connection of its own, one request at a time, never a second try."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import dataclass

from bleen.demo.load_report import Outcome, Record

MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes: an address, not a name, so that nothing is looked up again."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send."""

    name: str  # "GET /api/v1/accounts/acc-001"
    wire: bytes


class User:
    """Sends what it is given and records each outcome once; puts itself into `free` when it can take the next."""

    def __init__(self, target: Target, record: Record, free: deque[User]) -> None:
        self._target = target
        self._record = record
        self._free = free
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._ask: Ask | None = None
        self.began_at = 0.0  # of the request under way, on the clock of time.perf_counter

    @property
    def busy(self) -> bool:
        return self._ask is not None

    def send(self, ask: Ask) -> None:
        """The request is on its way, on this user's connection, or on a new one where that was closed while idle."""
        self._ask = ask
        self.began_at = time.perf_counter()
        if self._connection is not None and self._connection.usable():
            self._connection.write(ask.wire)
            return
        self.close()
        self._opening = asyncio.get_running_loop().create_task(self._open_and_send(ask))

    def answered(self, status: int, version: str, environment: str) -> None:
        self._finish(status=status, version=version, environment=environment)

    def spoiled(self, reason: str) -> None:
        """The answer cannot be understood: no answer."""
        self.close()
        self._finish(reason=reason)

    def lost(self, connection: Connection) -> None:
        """The other side closed: within a request this breaks it, between two it is its good right."""
        if connection is not self._connection:
            return
        self._connection = None
        if self._ask is not None:
            self._finish(reason="the connection was closed before the whole answer was there", broken=True)

    def give_up(self, reason: str) -> None:
        """The request under way has failed; its connection is closed by this side, which does not count as broken."""
        if self._opening is not None:
            self._opening.cancel()
        self.spoiled(reason)

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.abort()

    async def _open_and_send(self, ask: Ask) -> None:
        loop = asyncio.get_running_loop()
        # A socket of ours rather than asyncio's, so that it can be asked whether the other side has closed it.
        sock = socket.socket(self._target.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, (self._target.host, self._target.port))
            _, self._connection = await loop.create_connection(lambda: Connection(self, sock), sock=sock)
        except OSError as error:
            sock.close()
            self._opening = None
            self.spoiled(f"no connection: {error.strerror or error}")
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            self._opening = None
            if self._connection.usable():
                self._connection.write(ask.wire)
            else:
                self.spoiled("no connection: it was closed as soon as it was open")

    def _finish(self, *, status: int = 0, version: str = "", environment: str = "", reason: str = "", broken: bool = False) -> None:
        ask, self._ask = self._ask, None
        if ask is None:
            return
        self._record.add(Outcome(ask.name, status, time.perf_counter() - self.began_at, version, environment, reason, broken))
        self._free.append(self)


class Connection(asyncio.Protocol):
    """One TCP connection of a user, from connect to close."""

    def __init__(self, user: User, sock: socket.socket) -> None:
        self._user = user
        self._sock = sock
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def usable(self) -> bool:
        """True when the other side has not closed: the kernel may know of it before the event loop does."""
        if self._transport is None or self._transport.is_closing():
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True  # nothing to read: neither an end nor an answer that nobody asked for
        except OSError:
            return False
        return False

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - tells mypy what create_connection hands out
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._user.lost(self)

    def data_received(self, data: bytes) -> None:
        if not self._user.busy:
            self._user.close()  # an answer that nobody asked for
            return
        self._buffer += data
        try:
            answer = whole_answer(self._buffer)
        except ValueError as error:
            self._user.spoiled(str(error))
            return
        if answer is None:
            return
        self._buffer = b""
        if answer.closes:
            self._user.close()
        self._user.answered(answer.status, answer.version, answer.environment)


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    status: int
    version: str
    environment: str
    closes: bool  # the other side closes the connection after this answer


def whole_answer(buffer: bytes) -> WholeAnswer | None:
    """The answer that the bytes are, or None while some are missing. Raises ValueError for anything else."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0 and len(buffer) <= MAX_ANSWER_BYTES:
        return None
    first, *lines = buffer[: max(end, 0)].decode("latin-1").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("the answer is not HTTP/1.1")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_ANSWER_BYTES:
        raise ValueError("the answer has no usable Content-Length")
    missing = end + 4 + int(length) - len(buffer)
    if missing > 0:
        return None
    if missing < 0:
        raise ValueError("more came than the answer's Content-Length")
    closes = headers.get("connection", "").lower() == "close" or protocol == "HTTP/1.0"
    return WholeAnswer(int(rest[:3]), headers.get("x-version", ""), headers.get("x-environment", ""), closes)
