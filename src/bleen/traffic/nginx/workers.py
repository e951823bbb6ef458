"""Asks every worker of an nginx what it sees, over one kept connection per worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_ANSWER_TIMEOUT_S = 1.0
_SEARCH_TIMEOUT_S = 2.0  # to reach the workers that have no connection yet
_WORKER_TITLE = "nginx: worker process"  # a worker that shuts down carries a longer one


@dataclass(frozen=True, slots=True)
class Answer:
    """What one worker said."""

    pid: int
    identity: str  # whose proxy it is
    revision: str  # digest of the configuration that it runs with
    seen: str  # which of the flags asked for it can see


@dataclass(frozen=True, slots=True)
class Survey:
    """What came of asking. `listed` are the workers that there are, None where they cannot be listed from here."""

    answers: list[Answer]
    listed: frozenset[int] | None = None
    problem: str = ""  # why nobody answered

    @property
    def complete(self) -> bool:
        return self.listed is not None and self.listed == {answer.pid for answer in self.answers}


class Workers:
    """The workers behind one control address (`host:port`)."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._kept: dict[int, _Connection] = {}
        self._lock = asyncio.Lock()

    async def ask(self, low: str, high: str) -> Survey:
        """Every worker was asked for the flags of the two buckets, or the time was over. Never raises for a proxy that is away."""
        async with self._lock:
            answers = await self._ask_kept(low, high)
            if not answers:
                try:
                    first = await self._ask_new(low, high)
                except (OSError, ValueError, EOFError) as error:
                    return Survey([], problem=str(error) or type(error).__name__)
                answers[first.pid] = first
            listed = _workers_beside(next(iter(answers)))
            if listed is not None:
                await self._find(listed, answers, low, high)
                self._drop(self._kept.keys() - listed)
                answers = {pid: answer for pid, answer in answers.items() if pid in listed}
            return Survey(list(answers.values()), listed)

    async def close(self) -> None:
        """No connection is left."""
        async with self._lock:
            self._drop(list(self._kept))

    async def _ask_kept(self, low: str, high: str) -> dict[int, Answer]:
        pids = list(self._kept)
        try:
            replies = await asyncio.gather(*(self._kept[pid].ask(low, high) for pid in pids), return_exceptions=True)
        except asyncio.CancelledError:
            self._drop(pids)  # an answer under way would be taken for that to the next question
            raise
        answers = {}
        for pid, reply in zip(pids, replies, strict=True):
            if isinstance(reply, Answer) and reply.pid == pid:
                answers[pid] = reply
            else:
                self._drop([pid])
        return answers

    async def _ask_new(self, low: str, high: str) -> Answer:
        """The answer to a new connection, which is kept when its worker had none."""
        connection = await _Connection.open(self._host, self._port)
        kept = False
        try:
            answer = await connection.ask(low, high)
            kept = answer.pid not in self._kept
            if kept:
                self._kept[answer.pid] = connection
            return answer
        finally:
            if not kept:
                connection.close()

    async def _find(self, listed: frozenset[int], answers: dict[int, Answer], low: str, high: str) -> None:
        """The kernel spreads new connections over the workers: connect until everyone was met."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SEARCH_TIMEOUT_S):
                while missing := listed - answers.keys():
                    tries = 2 * len(missing) + 2
                    replies = await asyncio.gather(*(self._ask_new(low, high) for _ in range(tries)), return_exceptions=True)
                    found = {reply.pid: reply for reply in replies if isinstance(reply, Answer)}
                    if not found:
                        return
                    answers.update({pid: answer for pid, answer in found.items() if pid not in answers})

    def _drop(self, pids: Iterable[int]) -> None:
        for pid in list(pids):
            self._kept.pop(pid).close()


class _Connection:
    """One keep-alive connection; it stays with the worker that accepted it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, host: str, port: int) -> _Connection:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            return cls(*await asyncio.open_connection(host, port))

    async def ask(self, low: str, high: str) -> Answer:
        """Raises OSError, ValueError or EOFError when there is no answer, or one that is not bleen's."""
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            self._writer.write(f"GET /bleen/state?lo={low}&hi={high} HTTP/1.1\r\nHost: bleen\r\n\r\n".encode())
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError as error:
                raise ValueError("something that does not speak HTTP answers there") from error
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":")
            body = await self._reader.readexactly(int(length.partition(b":")[2]))
        fields = body.decode().split()
        if not head.startswith(b"HTTP/1.1 200 ") or len(fields) != 5 or fields[0] != "bleen":
            raise ValueError("something that is not bleen's nginx answers there")
        return Answer(pid=int(fields[3]), identity=fields[1], revision=fields[2], seen=fields[4].strip("-"))

    def close(self) -> None:
        self._writer.close()


def _workers_beside(pid: int) -> frozenset[int] | None:
    """The workers of the nginx to which worker `pid` belongs; None when they cannot be seen (another container, say)."""
    try:
        if not _title(pid).startswith(_WORKER_TITLE):
            return None
        master = psutil.Process(pid).ppid()
        if not _title(master).startswith("nginx: master process"):
            return None
        return workers_of(master)
    except (psutil.Error, OSError):
        return None


def workers_of(master: int) -> frozenset[int]:
    """The workers of that master that take requests; those that shut down are left out. Raises psutil.Error, OSError."""
    return frozenset(child for child in _children(master) if _is_worker(child))


def _children(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    if listing.exists():  # Linux: 0.1 ms, where psutil reads every process there is
        return [int(child) for child in listing.read_text().split()]
    return [child.pid for child in psutil.Process(pid).children()]


def _is_worker(pid: int) -> bool:
    try:
        return _title(pid) == _WORKER_TITLE
    except psutil.NoSuchProcess:
        return False


def _title(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline()).strip()
