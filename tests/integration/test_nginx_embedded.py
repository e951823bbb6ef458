"""The nginx that bleen runs itself: its life, its workers, and what is found before anything moves."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from bleen.errors import Refused
from bleen.model.environment import Endpoint, Environment
from bleen.model.traffic import ReadingState, Route, TrafficSplit
from bleen.traffic.router import Proxy, Severity
from tests.integration.test_nginx_world import BINARIES, World, free_ports, get, need, until, world

BLUE, GREEN = Environment.BLUE, Environment.GREEN
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as another user")


@pytest.fixture(params=["wheel", "debian"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, need(request.param)) as made:
        yield made


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every user can pass."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    shutil.rmtree(root, ignore_errors=True)


async def installed(site: World) -> Proxy:
    proxy = site.proxy()
    await proxy.installer.install()
    await proxy.router.fence(1)
    await proxy.router.apply(Route(1, 1, TrafficSplit.all_to(BLUE)))
    return proxy


async def test_it_runs_in_a_session_of_its_own(site: World) -> None:
    await installed(site)
    master = site.master()
    assert os.getsid(master.pid) == master.pid != os.getsid(0)
    assert master.ppid() != os.getpid()


async def test_it_outlives_the_process_that_started_it(site: World) -> None:
    await site.proxy().installer.install()
    await site.proxy().installer.stop()
    await asyncio.to_thread(start_from_a_process_that_ends, site)
    assert (await site.proxy().router.read()).state is ReadingState.CONFIRMED


def start_from_a_process_that_ends(site: World) -> None:
    script = (
        "import asyncio, pickle, sys; from bleen.traffic.nginx.proxy import nginx_proxy;"
        "asyncio.run(nginx_proxy(pickle.load(sys.stdin.buffer)).installer.ensure_running())"
    )
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps(site.site), check=True, start_new_session=True)


async def test_installing_again_neither_writes_nor_reloads(site: World) -> None:
    proxy = await installed(site)
    before = [path.stat().st_mtime_ns for path in (site.site.nginx_conf, site.site.blue_green_conf, site.site.preview_conf)]
    workers = {worker.pid for worker in site.workers()}
    await proxy.installer.install()
    assert [path.stat().st_mtime_ns for path in (site.site.nginx_conf, site.site.blue_green_conf, site.site.preview_conf)] == before
    assert {worker.pid for worker in site.workers()} == workers


async def test_a_changed_configuration_reaches_the_running_master(site: World) -> None:
    proxy = await installed(site)
    master = site.master().pid
    changed = site.proxy(preview_key="another-key-0123456789")
    await changed.installer.install()
    assert site.master().pid == master
    assert (await get(site.preview_port, headers=proxy.router.preview(GREEN).headers)).status == 404
    assert (await get(site.preview_port, headers=changed.router.preview(GREEN).headers)).body == "green"
    assert (await proxy.router.read()).confirms(TrafficSplit.all_to(BLUE))


async def test_a_configuration_that_nginx_refuses_leaves_the_old_one(site: World) -> None:
    await installed(site)
    text = site.site.blue_green_conf.read_text()
    broken = site.proxy(endpoints=site.site.endpoints | {GREEN: [Endpoint("http", "no-such-host.invalid", 80)]})
    with pytest.raises(Refused, match=r"no-such-host\.invalid"):
        await broken.installer.install()
    assert site.site.blue_green_conf.read_text() == text
    assert (await get(site.port)).body == "blue"


async def test_starting_twice_at_once_starts_one(site: World) -> None:
    proxy = await installed(site)
    await proxy.installer.stop()
    started = await asyncio.gather(*(site.proxy().installer.ensure_running() for _ in range(4)))
    assert sorted(started) == [False, False, False, True]
    masters = [
        process for process in psutil.process_iter(["cmdline"]) if str(site.site.nginx_conf) in " ".join(process.info["cmdline"] or ())
    ]
    assert len(masters) == 1


async def test_a_pid_file_that_names_another_process_does_not_mislead(site: World) -> None:
    proxy = await installed(site)
    await proxy.installer.stop()
    stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    try:
        site.site.pid_file.write_text(str(stranger.pid))
        assert await proxy.installer.ensure_running() is True
        assert site.master().pid != stranger.pid
        site.site.pid_file.write_text(str(stranger.pid))
        await proxy.installer.stop()
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_killed_master_is_replaced_together_with_the_workers_it_left(site: World) -> None:
    proxy = await installed(site)
    orphans = site.workers()
    master = site.master()
    master.kill()
    await until(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE)
    assert (await get(site.port)).body == "blue"  # the workers go on serving
    assert await proxy.installer.ensure_running() is True
    assert not any(orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE for orphan in orphans)
    assert (await proxy.router.read()).confirms(TrafficSplit.all_to(BLUE))
    assert (await get(site.port)).body == "blue"


async def test_stopping_lets_a_request_under_way_end(site: World) -> None:
    proxy = await installed(site)
    slow = asyncio.create_task(get(site.port, "/slow/0.5"))
    await until(lambda: any(request.target == "/slow/0.5" for request in site.blue.requests))
    await proxy.installer.stop()
    assert (await slow).body == "blue"
    assert (await proxy.router.read()).state is ReadingState.UNREACHABLE


async def test_a_port_that_somebody_holds_is_named_with_its_holder(site: World) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", site.port))
        holder.listen()
        [finding] = await site.proxy().installer.check()
        assert finding.severity is Severity.ERROR
        with pytest.raises(Refused) as refused:
            await site.proxy().installer.install()
    for text in (finding.message, refused.value.message):
        assert f"127.0.0.1:{site.port}" in text
        assert f"pid {os.getpid()}" in text


async def test_a_worker_that_died_is_asked_again_under_its_new_number(site: World) -> None:
    proxy = await installed(site)
    assert (await proxy.router.read()).workers_asked == 2
    victim = site.workers()[0]
    victim.kill()
    await until(lambda: len(site.workers()) == 2 and victim.pid not in {worker.pid for worker in site.workers()})
    reading = await proxy.router.read()
    assert reading.confirms(TrafficSplit.all_to(BLUE)), reading
    assert reading.workers_asked == reading.workers_total == 2


async def test_a_worker_that_hangs_makes_the_reading_unknown(site: World) -> None:
    proxy = await installed(site)
    assert (await proxy.router.read()).state is ReadingState.CONFIRMED
    hanging = site.workers()[0]
    hanging.send_signal(signal.SIGSTOP)
    try:
        reading = await proxy.router.read()
        assert (reading.state, reading.workers_asked, reading.workers_total) == (ReadingState.UNKNOWN, 1, 2)
    finally:
        hanging.send_signal(signal.SIGCONT)
    assert (await proxy.router.read()).state is ReadingState.CONFIRMED


async def test_every_worker_is_asked_however_many_there_are(tmp_path: Path) -> None:
    async with world(tmp_path, need("debian"), workers=12) as site:
        reading = await (await installed(site)).router.read()
        assert (reading.state, reading.workers_asked) == (ReadingState.CONFIRMED, 12)


async def test_a_reading_that_was_cancelled_does_not_spoil_the_next(site: World) -> None:
    proxy = await installed(site)
    assert (await proxy.router.read()).state is ReadingState.CONFIRMED
    for revision in range(2, 12):
        reading = asyncio.create_task(proxy.router.read())
        for _ in range(revision % 4 + 1):  # at several points of its way
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        split = TrafficSplit(100 - revision, revision)
        await proxy.router.apply(Route(1, revision, split))
        assert (await proxy.router.read()).confirms(split)


async def test_something_else_on_the_control_address_reads_as_unreachable(site: World) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await reader.read()
        writer.close()

    host, _, port = site.site.options.control.rpartition(":")
    async with await asyncio.start_server(answer, host, int(port)):
        assert (await site.proxy().router.read()).state is ReadingState.UNREACHABLE


async def test_the_nginx_of_another_service_on_the_control_address_reads_as_unreachable(site: World, tmp_path: Path) -> None:
    await installed(site)
    reading = await site.proxy(service="stock", folder=tmp_path / "stock").router.read()
    assert reading.state is ReadingState.UNREACHABLE
    assert "shop/store-1" in reading.evidence


async def test_the_access_log_is_rotated_and_written_on(site: World) -> None:
    proxy = await installed(site)
    await get(site.port, "/before")
    await until(lambda: len(site.lines()) == 1)
    assert await proxy.access_log.rotate(10_000) is False
    assert await proxy.access_log.rotate(10) is True
    moved = site.site.access_log.with_name("access.log.1")
    assert b"/before" in moved.read_bytes()

    async def reaches_the_new_one() -> bool:  # a worker may still write into the old one for an instant
        await get(site.port, "/after")
        return b"/after" in site.site.access_log.read_bytes()

    await until(reaches_the_new_one)
    assert site.site.access_log.stat().st_mode & 0o007 == 0


async def test_nothing_that_is_secret_can_be_read_by_others(site: World) -> None:
    await installed(site)
    texts = {path: path.read_text() for path in site.site.folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077}
    assert site.site.preview_conf.stat().st_mode & 0o777 == 0o600
    assert not [path for path, text in texts.items() if site.site.preview_key in text]
    assert site.site.preview_key not in repr(site.site)


async def test_check_finds_nothing_before_and_after_installing(site: World, tmp_path: Path) -> None:
    proxy = site.proxy(folder=tmp_path / "fresh")
    assert await proxy.installer.check() == []
    assert not (tmp_path / "fresh").exists()  # it only looked
    proxy = site.proxy()
    await proxy.installer.install()
    assert await proxy.installer.check() == []


async def test_check_names_a_binary_that_is_missing(tmp_path: Path) -> None:
    async with world(tmp_path, str(tmp_path / "no-nginx")) as site:
        [finding] = await site.proxy().installer.check()
        assert "no-nginx" in finding.message


async def test_check_names_a_value_that_cannot_be_rendered(tmp_path: Path) -> None:
    async with world(tmp_path, need("debian"), control=f"0.0.0.0:{free_ports(1)[0]}") as site:
        [finding] = await site.proxy().installer.check()
        assert "loopback" in finding.message


async def test_check_names_the_folder_of_another_store(site: World) -> None:
    await installed(site)
    finding = (await site.proxy(store_id="store-2").installer.check())[0]
    assert finding.subject == "flag folder"
    assert "store-1" in finding.message


@needs_root
@pytest.mark.parametrize("name", BINARIES)
async def test_workers_that_cannot_pass_the_folder_are_found_before_and_reported_after(name: str, passable: Path) -> None:
    shut = passable / "shut"
    shut.mkdir(mode=0o700)
    async with world(shut, need(name), worker_user="nobody") as site:
        [finding] = await site.proxy().installer.check()
        assert finding.severity is Severity.ERROR
        assert "nobody" in finding.message
        assert finding.next_command == f"chmod o+x {shut}"
        proxy = await installed(site)
        reading = await proxy.router.read()
        assert reading.state is ReadingState.UNREADABLE, reading
        assert str(site.site.flags) in reading.evidence
        assert (await get(site.port)).status == 200  # whichever is alive
        shut.chmod(0o711)
        assert await proxy.installer.check() == []
        assert (await proxy.router.read()).confirms(TrafficSplit.all_to(BLUE))


@needs_root
@pytest.mark.parametrize("name", BINARIES)
async def test_workers_of_another_user_serve_and_rotate(name: str, passable: Path) -> None:
    async with world(passable, need(name), worker_user="nobody") as site:
        proxy = await installed(site)
        assert {worker.username() for worker in site.workers()} == {"nobody"}
        assert (await proxy.router.read()).confirms(TrafficSplit.all_to(BLUE))
        await get(site.port, "/before")
        await until(lambda: len(site.lines()) == 1)
        assert await proxy.access_log.rotate(1) is True

        async def reaches_the_new_one() -> bool:
            await get(site.port, "/after")
            return b"/after" in site.site.access_log.read_bytes()

        await until(reaches_the_new_one)
