"""Probes of real servers: well, failing, hanging, dead, slow, too talkative; and a controller that is itself too slow."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bleen.model.environment import Environment
from bleen.model.sample import ProbeKind, ProbeResult
from bleen.signals.loop_lag import LoopLag
from bleen.signals.probes import BODY_BYTES, Prober, ProbeTarget, ask
from bleen.signals.signal import Observation

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
PATH = "/api/v1/health"
TIMEOUT_S = 5.0  # generous where no timeout is wanted


def answer(status: int = 200, body: bytes = b'{"status": "ok", "version": "1.4.0"}', headers: str = "") -> Handler:
    async def handle(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    return handle


async def hang(_: str, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def trickle(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _number in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def hang_up(_: str, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def nonsense(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.7 secret-of-the-server\r\n\r\n")


class Server:
    """A tiny HTTP server whose handler can be changed while it runs."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            await self.handler(request, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the probe has left, as it may
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    running: set[asyncio.Task[None]] = set()
    mine = Server(handler)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(mine.serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    mine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
    try:
        yield mine
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.fixture
def dead_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"


def target(*urls: str, version_field: str = "version", environment: Environment = Environment.GREEN) -> ProbeTarget:
    return ProbeTarget(environment, ProbeKind.HEALTH, urls, {"X-Preview-Key": "sesame"}, version_field)


async def test_a_healthy_environment_answers_with_its_version() -> None:
    async with serving(answer()) as server:
        result = await ask(target(server.url), TIMEOUT_S)
    assert result.ok
    assert result.evidence.startswith("200 in ")
    assert result.evidence.endswith(" ms")
    assert result.version == "1.4.0"
    assert result.environment is Environment.GREEN
    assert result.kind is ProbeKind.HEALTH
    assert abs(result.at - time.time()) < 30
    assert "X-Preview-Key: sesame" in server.requests[0]


@pytest.mark.parametrize("status", [503, 404, 302])
async def test_any_other_status_is_a_failure_and_redirects_are_not_followed(status: int) -> None:
    async with serving(answer(status, headers="Location: /elsewhere\r\n")) as server:
        result = await ask(target(server.url + "?token=secret"), TIMEOUT_S)
    assert not result.ok
    assert result.evidence == f"{status} to GET /api/v1/health"
    assert not result.late
    assert len(server.requests) == 1


@pytest.mark.parametrize("handler", [hang, trickle])
async def test_an_environment_that_does_not_finish_its_answer_in_time_fails(handler: Handler) -> None:
    async with serving(handler) as server:
        result = await ask(target(server.url), 0.3)
    assert not result.ok
    assert result.evidence == "no answer in 300 ms"
    assert 0.29 <= result.took_s < 5


async def test_a_refused_connection_fails_at_once(dead_url: str) -> None:
    result = await ask(target(dead_url), 30.0)
    assert not result.ok
    assert result.evidence == "connection refused"
    assert result.took_s < 10


@pytest.mark.parametrize("handler", [hang_up, nonsense])
async def test_an_answer_that_is_none_fails_without_repeating_what_was_sent(handler: Handler) -> None:
    async with serving(handler) as server:
        result = await ask(target(server.url), TIMEOUT_S)
    assert not result.ok
    assert result.evidence.startswith("no valid answer to GET /api/v1/health")
    assert "secret" not in result.evidence


async def test_a_huge_body_is_not_read_to_its_end() -> None:
    async with serving(endless) as server:
        result = await ask(target(server.url), TIMEOUT_S)
    assert result.ok
    assert result.version == ""


async def test_a_packed_body_is_not_unpacked() -> None:
    body = gzip.compress(b"x" * 100 * BODY_BYTES)
    async with serving(answer(body=body, headers="Content-Encoding: gzip\r\n")) as server:
        assert (await ask(target(server.url), TIMEOUT_S)).ok


@pytest.mark.parametrize(
    ("body", "headers", "version"),
    [
        (b'{"version": "2.0.0"}', "version: 1.0.0\r\n", "2.0.0"),
        (b"OK", "Version: 1.0.0\r\n", "1.0.0"),
        (b"OK", "", ""),
        (b"[1]", "", ""),
        (b"[" * 60000, "", ""),
        (b'{"version": {"a": 1}}', "", ""),
        (json.dumps({"version": "1\x1b[31m\n" + "9" * 500}).encode(), "", "1[31m" + "9" * 123),
    ],
)
async def test_the_version_is_a_field_of_the_body_or_a_header_fit_to_be_shown(body: bytes, headers: str, version: str) -> None:
    async with serving(answer(body=body, headers=headers)) as server:
        result = await ask(target(server.url), TIMEOUT_S)
    assert result.ok
    assert result.version == version


async def test_without_a_version_field_no_version_is_read() -> None:
    async with serving(answer()) as server:
        assert (await ask(target(server.url, version_field=""), TIMEOUT_S)).version == ""


async def test_an_environment_is_well_only_when_all_its_endpoints_are(dead_url: str) -> None:
    async with serving(answer()) as one, serving(answer(body=b'{"version": "1.5.0"}')) as two:
        well = await ask(target(one.url, two.url), TIMEOUT_S)
        half = await ask(target(one.url, dead_url), TIMEOUT_S)
    assert well.ok
    assert well.version == "1.4.0, 1.5.0"
    assert not half.ok
    assert half.evidence == f"{dead_url.split('/')[2]}: connection refused"


async def test_no_cookie_is_kept() -> None:
    async with serving(answer(headers="Set-Cookie: a=b\r\n")) as server, probing(Prober((target(server.url),), 0.01, TIMEOUT_S)):
        await until(lambda: len(server.requests) >= 3)
    assert not any("cookie" in request.lower() for request in server.requests)


class Results:
    def __init__(self) -> None:
        self.all: list[ProbeResult] = []

    def __call__(self, observation: Observation) -> None:
        assert isinstance(observation, ProbeResult)
        self.all.append(observation)

    def failed_in_a_row(self) -> int:
        return next((n for n, result in enumerate(reversed(self.all)) if result.ok), len(self.all))


@asynccontextmanager
async def probing(prober: Prober) -> AsyncIterator[Results]:
    results = Results()
    task = asyncio.create_task(prober.observe(results))
    try:
        yield results
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


async def test_an_environment_that_hangs_is_seen_without_waiting_for_one_answer_after_the_other() -> None:
    async with serving(answer()) as server, probing(Prober((target(server.url),), 0.1, 1.0)) as results:
        await until(lambda: len(results.all) >= 3)
        server.handler = hang
        await until(lambda: results.failed_in_a_row() >= 3)
    first, _, third = results.all[-3:]
    assert first.evidence == third.evidence == "no answer in 1000 ms"
    assert third.at - first.at < 1.9  # one after the other takes 2 s at least, this pace 0.2 s


async def test_an_environment_that_comes_back_is_seen_and_others_are_not_disturbed(dead_url: str) -> None:
    async with serving(answer(503)) as green:
        targets = (target(green.url), target(dead_url, environment=Environment.BLUE))
        async with probing(Prober(targets, 0.02, 0.5)) as results:
            await until(lambda: len(results.all) >= 6)
            green.handler = answer()
            await until(lambda: any(result.ok for result in results.all))
            await until(lambda: {result.environment for result in results.all[-4:]} == set(Environment))
    assert all(result.evidence == "connection refused" for result in results.all if result.environment is Environment.BLUE)


async def test_probes_in_flight_are_bounded() -> None:
    inside = most = 0

    async def count(_: str, __: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            await asyncio.sleep(60)
        finally:
            inside -= 1

    async with serving(count) as server:
        prober = Prober((target(server.url),), 0.05, 0.2)
        async with probing(prober) as results:
            await until(lambda: len(results.all) >= 10)
            in_flight = [task for task in asyncio.all_tasks() if "ask_once" in repr(task.get_coro())]
            assert 1 <= len(in_flight) <= 0.2 / 0.05 + 1
    assert most >= 2


async def test_a_stall_of_this_process_does_not_speak_against_the_environment() -> None:
    async with serving(hang) as server:
        asking = asyncio.create_task(ask(target(server.url), 0.5))
        await until(lambda: bool(server.requests))
        time.sleep(0.8)  # noqa: ASYNC251 - the stall itself
        result = await asking
    assert not result.ok
    assert result.late


async def test_a_stall_while_answers_were_on_their_way_fails_no_probe_that_counts() -> None:
    async with serving(answer()) as server, probing(Prober((target(server.url),), 0.02, 0.1)) as results:
        for _ in range(5):
            await asyncio.sleep(0.03)
            time.sleep(0.3)  # noqa: ASYNC251 - the stall itself
        await until(lambda: len(results.all) >= 10)
    assert [result for result in results.all if not result.ok and not result.late] == []


async def test_a_refused_connection_counts_however_late_this_process_was(dead_url: str) -> None:
    asking = asyncio.create_task(ask(target(dead_url), 5.0))
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - the stall itself
    assert not (await asking).late


async def test_a_stall_is_remembered_by_its_time() -> None:
    with LoopLag() as lag:
        before = time.monotonic()
        time.sleep(0.3)  # noqa: ASYNC251 - the stall itself
        assert lag.stalled_since(before)
        await asyncio.sleep(0.05)
        assert lag.stalled_since(before)
        await until(lambda: not lag.stalled_since(time.monotonic() - 0.1))
