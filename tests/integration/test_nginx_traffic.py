"""What requests meet in the rendered nginx, and what the access log says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bleen.model.environment import Environment
from bleen.model.sample import Sample
from bleen.model.traffic import CLOSED, Route, TrafficSplit
from bleen.traffic.router import Proxy
from tests.integration.test_nginx_world import World, clients, get, need, until, world

BLUE, GREEN = Environment.BLUE, Environment.GREEN


class Served:
    """An installed site; `samples` are what its log says since they were last asked for."""

    def __init__(self, site: World, proxy: Proxy) -> None:
        self.site, self.proxy, self.port = site, proxy, site.port
        self._seen = self._revision = 0

    async def shift(self, split: TrafficSplit) -> None:
        self._revision += 1
        await self.proxy.router.apply(Route(1, self._revision, split))

    async def samples(self, count: int = 1) -> list[Sample]:
        await until(lambda: len(self.site.lines()) >= self._seen + count)
        lines = self.site.lines()[self._seen :]
        self._seen += len(lines)
        parsed = [self.proxy.access_log.parse(line) for line in lines]
        assert None not in parsed, lines
        return [sample for sample in parsed if sample is not None]


@pytest.fixture(params=["wheel", "debian"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    async with world(tmp_path, need(request.param)) as site:
        proxy = site.proxy()
        await proxy.installer.install()
        await proxy.router.fence(1)
        made = Served(site, proxy)
        await made.shift(TrafficSplit.all_to(BLUE))
        yield made


async def test_an_answer_is_a_sample_of_the_environment_that_gave_it(served: Served) -> None:
    await get(served.port, "/api/v1/payments?token=secret")
    await served.shift(TrafficSplit.all_to(GREEN))
    await get(served.port, "/status/503")
    blue, green = await served.samples(2)
    assert (blue.environment, blue.status, blue.first_status, blue.method, blue.path) == (BLUE, 200, 200, "GET", "/api/v1/payments")
    assert (green.environment, green.status, green.first_status) == (GREEN, 503, 503)
    assert green.failed(5)
    assert not blue.failed(5)


async def test_an_odd_path_stays_one_line(served: Served) -> None:
    await get(served.port, "/a%09b%0Ac%22d" + "/long" * 100)
    [sample] = await served.samples()
    assert sample.path.startswith("/a\\x09b\\x0Ac\\x22d/long")
    assert len(sample.path) == 200


@pytest.mark.parametrize(("path", "status"), [("/slow/3", 504), ("/cut", 502)])
async def test_an_environment_that_does_not_answer_has_failed(served: Served, path: str, status: int) -> None:
    assert (await get(served.port, path)).status == status
    [sample] = await served.samples()
    assert (sample.environment, sample.status, sample.failed(5)) == (BLUE, status, True)


async def test_an_environment_that_is_down_has_failed_and_the_other_is_not_asked(served: Served) -> None:
    await served.site.blue.stop()
    assert (await get(served.port)).status == 502
    [sample] = await served.samples()
    assert (sample.environment, sample.failed(5)) == (BLUE, True)
    assert served.site.green.requests == []


async def test_a_client_that_left_early_speaks_against_nobody(served: Served) -> None:
    with clients(served.port) as [client]:
        leaving = asyncio.create_task(client.request("/slow/0.8"))
        await until(lambda: bool(served.site.blue.requests))
        leaving.cancel()
    [sample] = await served.samples()
    assert (sample.environment, sample.status) == (BLUE, 499)
    assert not sample.failed(5)
    assert sample.failed(0.0001)  # the limit is the caller's


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n", 413),
    ],
)
async def test_what_a_client_does_wrong_speaks_against_nobody(served: Served, raw: bytes, status: int) -> None:
    with clients(served.port) as [client]:
        assert (await client.send(raw)).status == status
    [sample] = await served.samples()
    assert (sample.status, sample.first_status, sample.failed(5)) == (status, status, False)


async def test_a_closed_route_speaks_against_no_environment(served: Served) -> None:
    await served.shift(CLOSED)
    assert (await get(served.port)).status == 503
    [sample] = await served.samples()
    assert (sample.environment, sample.status) == (None, 503)
    assert served.site.blue.requests == served.site.green.requests == []


async def test_without_weights_a_dead_environment_costs_no_request(served: Served) -> None:
    (served.site.site.flags / "current").unlink()
    await served.site.blue.stop()
    with clients(served.port) as [client]:
        assert {(await client.request()).body for _ in range(20)} == {"green"}
    samples = await served.samples(20)
    assert {(sample.environment, sample.status) for sample in samples} == {(None, 200)}
    retried = [sample for sample in samples if sample.first_status == 502]
    assert 1 <= len(retried) <= 4  # then the dead one is left alone for two seconds


async def test_a_kept_connection_that_turns_out_closed_costs_no_get_request(served: Served) -> None:
    served.site.blue.requests_per_connection = 1
    with clients(served.port) as [client]:
        assert [(await client.request()).status for _ in range(10)] == [200] * 10
    assert served.site.green.requests == []


async def test_a_post_is_never_sent_twice(served: Served) -> None:
    served.site.blue.requests_per_connection = 1
    with clients(served.port) as [client]:
        statuses = [(await client.request(f"/{number}", method="POST", body="x")).status for number in range(4)]
    assert statuses[:2] == [200, 502]
    targets = [request.target for request in served.site.blue.requests]
    assert len(targets) == len(set(targets)) == statuses.count(200)


async def test_the_application_sees_who_asked_and_never_the_preview_header(served: Served) -> None:
    await get(served.port, "/a%20b?c=%2F", {"X-Bleen-Preview": "green.x", "X-Forwarded-For": "10.0.0.1", "X-Request-Id": "abc-1"})
    await get(served.port, "/", {"X-Request-Id": 'odd"id'})
    first, second = served.site.blue.requests
    assert first.target == "/a%20b?c=%2F"
    assert first.headers["host"] == first.headers["x-forwarded-host"] == "shop.example:81"
    assert first.headers["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"
    assert first.headers["x-forwarded-proto"] == "http"
    assert first.headers["x-request-id"] == "abc-1"
    assert "x-bleen-preview" not in first.headers
    assert len(second.headers["x-request-id"]) == 32


async def test_the_preview_is_not_stored_not_logged_and_hides_its_key(served: Served) -> None:
    reply = await get(served.site.preview_port, "/", served.proxy.router.preview(GREEN).headers)
    assert (reply.body, reply.headers["cache-control"]) == ("green", "no-store")
    assert "x-bleen-preview" not in served.site.green.requests[0].headers
    await served.site.green.stop()
    assert (await get(served.site.preview_port, "/", served.proxy.router.preview(GREEN).headers)).status == 502
    refused = await get(served.site.preview_port)
    assert (refused.status, refused.body) == (404, "not found\n")
    assert served.site.lines() == []


async def test_a_websocket_passes(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
    finally:
        writer.close()


async def test_connections_to_the_environments_are_kept(served: Served) -> None:
    with clients(served.port) as [client]:
        for _ in range(20):
            await client.request()
    assert len(served.site.blue.requests) == 20
    assert len(served.site.blue.connections) <= 2  # one for each worker


async def test_the_control_address_answers_nothing_but_the_state_of_buckets(served: Served) -> None:
    port = int(served.site.site.options.control.rpartition(":")[2])
    secret = served.site.site.flags / "current" / "bsecret"
    secret.touch()
    try:
        assert (await get(port, "/bleen/state?lo=secret&hi=0")).body.split()[4] == "-B"
    finally:
        secret.unlink()
    assert (await get(port, "/bleen/state?lo=../current/b0&hi=..%2Fb0")).body.split()[4] == "-"
    assert (await get(port, "/bleen/state?lo=7&hi=101")).body.split()[4] == "-b"
    assert (await get(port, "/")).status == 404
