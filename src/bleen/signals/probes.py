"""Health probes: an environment is asked at a fixed pace, whether or not it answers."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult
from bleen.signals.loop_lag import LoopLag
from bleen.signals.signal import Sink

BODY_BYTES = 64 * 1024  # more of an answer is not read
_VERSION_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """One health question to one environment, which is well when every URL answers 2xx in time."""

    environment: Environment
    kind: ProbeKind
    urls: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)
    version_field: str = ""  # JSON field or header of the answer that names the version; empty: none


class Prober:
    """A Signal. Asks every target each `interval_s`, each answer waited for `timeout_s`.

    A probe does not wait for the one before it, so an environment that hangs from now on has failed three probes in a row
    after at most 3 * interval_s + timeout_s. At most as many are in flight as that pace makes.
    """

    def __init__(self, targets: tuple[ProbeTarget, ...], interval_s: float, timeout_s: float) -> None:
        self._targets = targets
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._in_flight_max = math.ceil(timeout_s / interval_s) + 1

    async def observe(self, sink: Sink) -> None:
        """Results are handed over, as they are known, until cancelled."""
        async with _asking() as (session, lag), asyncio.TaskGroup() as group:
            for target in self._targets:
                group.create_task(self._keep_asking(_Question(session, lag, target, self._timeout_s), sink, group))

    async def _keep_asking(self, question: _Question, sink: Sink, group: asyncio.TaskGroup) -> None:
        async def ask_once() -> None:
            sink(await question.ask())

        in_flight: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while True:
            if len(in_flight) < self._in_flight_max:
                task = group.create_task(ask_once())
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)
            # After a stall the pace is taken up again, without making good for what was left out.
            due = max(due + self._interval_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


async def ask(target: ProbeTarget, timeout_s: float) -> ProbeResult:
    """The answer to one question; an environment that is away is an answer too."""
    async with _asking() as (session, lag):
        return await _Question(session, lag, target, timeout_s).ask()


@asynccontextmanager
async def _asking() -> AsyncIterator[tuple[aiohttp.ClientSession, LoopLag]]:
    """A session that asks what a new user would meet: a connection for each question, no cookies, nothing unpacked."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    cookies, no_limit = aiohttp.DummyCookieJar(), aiohttp.ClientTimeout(total=None)  # the limit is set around each question
    with LoopLag() as lag:
        async with aiohttp.ClientSession(connector=connector, cookie_jar=cookies, timeout=no_limit, auto_decompress=False) as session:
            yield session, lag


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one URL answered."""

    ok: bool
    evidence: str
    version: str = ""
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """A target with all it takes to ask it."""

    session: aiohttp.ClientSession
    lag: LoopLag
    target: ProbeTarget
    timeout_s: float

    async def ask(self) -> ProbeResult:
        """Every URL was asked at the same time; the first that is not well is the evidence."""
        began = time.monotonic()
        answers = await asyncio.gather(*(self._ask_url(url) for url in self.target.urls))
        took_s = time.monotonic() - began
        bad = next((number for number, answer in enumerate(answers) if not answer.ok), None)
        shown = answers[bad or 0]
        where = f"{urlsplit(self.target.urls[bad]).netloc}: " if bad is not None and len(answers) > 1 else ""
        versions = {answer.version for answer in answers}
        return ProbeResult(
            at=time.time(),
            environment=self.target.environment,
            kind=self.target.kind,
            ok=bad is None,
            evidence=where + shown.evidence,
            took_s=took_s,
            version=versions.pop() if len(versions) == 1 else ", ".join(sorted(version or "none" for version in versions)),
            # Only a failure that is a matter of time can be this process's own fault.
            late=shown.timed_out and self.lag.stalled_since(began),
        )

    async def _ask_url(self, url: str) -> _Answer:
        """Never raises for what the environment does or does not do."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s), self._get(url) as response:
                body = await _read(response)
        except TimeoutError:
            return _Answer(False, f"no answer in {self.timeout_s * 1000:.0f} ms", timed_out=True)
        except aiohttp.ClientConnectorError as error:
            return _Answer(False, _why_not_connected(error.os_error))
        except (aiohttp.ClientError, OSError) as error:
            # The class alone: messages of the client may hold what the environment sent.
            return _Answer(False, f"no valid answer to GET {urlsplit(url).path or '/'} ({type(error).__name__})")
        version = _version(self.target.version_field, body, response)
        if not 200 <= response.status < 300:
            return _Answer(False, f"{response.status} to GET {urlsplit(url).path or '/'}", version)
        return _Answer(True, f"{response.status} in {(time.monotonic() - began) * 1000:.0f} ms", version)

    def _get(self, url: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {"User-Agent": "bleen-probe", "Accept-Encoding": "identity", **self.target.headers}
        return self.session.get(url, headers=headers, allow_redirects=False)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, or as much of it as is looked at."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(BODY_BYTES):
        body += chunk
        if len(body) >= BODY_BYTES:
            break
    return bytes(body[:BODY_BYTES])


def _why_not_connected(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"no connection: {error.strerror or type(error).__name__}"


def _version(name: str, body: bytes, response: aiohttp.ClientResponse) -> str:
    """What the answer says of its version, fit to be shown: a JSON field, else a header; empty if it says nothing."""
    if not name:
        return ""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, str | int | float):
        value = response.headers.get(name, "")
    return "".join(character for character in str(value) if character.isprintable())[:_VERSION_CHARACTERS]
