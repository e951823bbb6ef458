"""An nginx of the user's own: one file in its folder, tested, proven, taken back exactly, and nothing else touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bleen.errors import Refused, StoreMismatch
from bleen.model.environment import Endpoint, Environment
from bleen.model.traffic import ReadingState, Route, TrafficSplit
from bleen.traffic.router import Proxy
from tests.integration.test_nginx_world import World, clients, end_nginx, free_ports, get, need, until, world

GREEN = Environment.GREEN
CONFIGURATION = """
pid "{root}/nginx.pid"; error_log "{root}/error.log" warn; worker_processes 2;
events {{ worker_connections 256; }}
http {{
    access_log off;
    open_file_cache max=1000; open_file_cache_valid 60s;
    client_body_temp_path "{root}/body"; proxy_temp_path "{root}/proxy"; fastcgi_temp_path "{root}/fastcgi";
    uwsgi_temp_path "{root}/uwsgi"; scgi_temp_path "{root}/scgi";
    include "{root}/conf.d/*.conf";
}}
"""


class Users:
    """The user's nginx with a server of its own, and the site that bleen adds to it."""

    def __init__(self, root: Path, binary: str) -> None:
        self.root, self.conf_d = root, root / "conf.d"
        self.conf_d.mkdir(parents=True)
        [self.port] = free_ports(1)
        (root / "nginx.conf").write_text(CONFIGURATION.format(root=root) + ("user root root;" if os.geteuid() == 0 else ""))
        (self.conf_d / "other.conf").write_text(f"server {{ listen 127.0.0.1:{self.port}; return 200 theirs; }}")
        self.command = [binary, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "error.log")]
        subprocess.run(self.command, check=True, cwd=root)

    @property
    def file(self) -> Path:
        return self.conf_d / "blue-green.conf"

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.conf_d.iterdir()}


@pytest.fixture(params=["wheel", "debian"])
async def users(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Users]:
    made = Users(tmp_path / "users", need(request.param))
    try:
        yield made
    finally:
        end_nginx(made.root)


@pytest.fixture
async def site(users: Users, tmp_path: Path) -> AsyncIterator[World]:
    reload_command = [*users.command, "-s", "reload"]
    async with world(tmp_path, users.command[0], config_path=str(users.conf_d), reload_command=reload_command) as made:
        yield made


async def installed(site: World) -> Proxy:
    proxy = site.proxy()
    await proxy.installer.install()
    await proxy.router.fence(1)
    await proxy.router.apply(Route(1, 1, TrafficSplit.all_to(Environment.BLUE)))
    return proxy


async def test_it_serves_the_service_beside_what_was_there(users: Users, site: World) -> None:
    before = users.files()
    proxy = await installed(site)
    assert (await get(site.port)).body == "blue"
    assert (await get(users.port)).body == "theirs"
    assert {name: text for name, text in users.files().items() if name != "blue-green.conf"} == before
    assert site.preview_port
    assert (await get(site.preview_port, headers=proxy.router.preview(GREEN).headers)).body == "green"
    assert await proxy.installer.check() == []


async def test_a_cache_of_file_lookups_in_the_users_configuration_does_not_delay_a_shift(users: Users, site: World) -> None:
    proxy = await installed(site)
    with clients(site.port, 4) as open_clients:
        for client in open_clients:
            assert (await client.request()).body == "blue"
        await proxy.router.apply(Route(1, 2, TrafficSplit.all_to(GREEN)))
        assert {(await client.request()).body for client in open_clients} == {"green"}
    assert (await proxy.router.read()).confirms(TrafficSplit.all_to(GREEN))


async def test_installing_again_neither_writes_nor_reloads(users: Users, site: World) -> None:
    proxy = await installed(site)
    before, workers = users.file.stat(), await worker_pids(users)
    await proxy.installer.install()
    assert users.file.stat().st_mtime_ns == before.st_mtime_ns
    assert users.file.stat().st_ino == before.st_ino
    assert await worker_pids(users) == workers


async def test_a_changed_configuration_is_reloaded(users: Users, site: World) -> None:
    await installed(site)
    workers = await worker_pids(users)
    swapped = {Environment.BLUE: site.site.endpoints[GREEN], GREEN: site.site.endpoints[Environment.BLUE]}
    await site.proxy(endpoints=swapped).installer.install()
    assert (await get(site.port)).body == "green"
    await until(lambda: not worker_alive(workers))
    assert [path.name for path in users.conf_d.iterdir() if path.name.startswith(".")] == []


async def test_a_configuration_that_fails_the_test_is_taken_back_exactly(users: Users, site: World) -> None:
    await installed(site)
    before, text, workers = users.file.stat(), users.file.read_text(), await worker_pids(users)
    broken = site.proxy(endpoints=site.site.endpoints | {GREEN: [Endpoint("http", "no-such-host.invalid", 80)]})
    with pytest.raises(Refused, match=r"no-such-host\.invalid"):
        await broken.installer.install()
    assert (users.file.stat().st_ino, users.file.read_text()) == (before.st_ino, text)
    assert await worker_pids(users) == workers
    assert (await get(site.port)).body == "blue"


async def test_a_first_configuration_that_fails_the_test_leaves_no_file(users: Users, site: World) -> None:
    before = users.files()
    broken = site.proxy(endpoints=site.site.endpoints | {GREEN: [Endpoint("http", "no-such-host.invalid", 80)]})
    with pytest.raises(Refused):
        await broken.installer.install()
    assert users.files() == before


async def test_a_reload_command_that_fails_leaves_the_old_file_and_traffic(users: Users, site: World) -> None:
    await installed(site)
    text = users.file.read_text()
    alias = users.root / "nginx"  # tests the user's files without being told, as an nginx of the system does
    alias.write_text(f'#!/bin/sh\nexec {" ".join(users.command)} "$@"\n')
    alias.chmod(0o755)
    elsewhere = site.site.endpoints | {GREEN: [Endpoint("http", "127.0.0.1", 9)]}
    failing = site.proxy(endpoints=elsewhere, binary=str(alias), reload_command=["false"])
    with pytest.raises(Refused, match="reload command"):
        await failing.installer.install()
    assert users.file.read_text() == text
    assert (await get(site.port)).body == "blue"


async def test_a_warning_of_nginx_counts_as_a_failure(users: Users, site: World) -> None:
    # A second server without a name on the same address: nginx accepts it with a warning, and ignores one of the two.
    taken = site.proxy(listen=f"127.0.0.1:{users.port}")
    with pytest.raises(Refused, match="conflicting server name"):
        await taken.installer.install()
    assert not users.file.exists()
    assert (await get(users.port)).body == "theirs"


async def test_a_configuration_that_was_broken_before_is_not_touched(users: Users, site: World) -> None:
    (users.conf_d / "broken.conf").write_text("nonsense;")
    before = users.files()
    with pytest.raises(Refused, match="before bleen adds its file"):
        await site.proxy().installer.install()
    assert users.files() == before


async def test_somebody_elses_file_of_that_name_is_refused(users: Users, site: World) -> None:
    users.file.write_text("# my own blue-green.conf\n")
    with pytest.raises(Refused, match="not written by bleen"):
        await site.proxy().installer.install()
    assert users.file.read_text() == "# my own blue-green.conf\n"
    assert "not written by bleen" in "".join(finding.message for finding in await site.proxy().installer.check())


async def test_the_file_of_another_store_is_refused(users: Users, site: World, tmp_path: Path) -> None:
    await installed(site)
    text = users.file.read_text()
    other = site.proxy(store_id="store-2", folder=tmp_path / "elsewhere")
    with pytest.raises(StoreMismatch):
        await other.installer.install()
    assert users.file.read_text() == text


async def test_it_is_never_started_or_stopped_by_bleen(users: Users, site: World) -> None:
    proxy = await installed(site)
    await proxy.installer.stop()
    assert await proxy.installer.ensure_running() is False
    assert (await proxy.router.read()).state is ReadingState.CONFIRMED
    assert await proxy.access_log.rotate(0) is False


async def test_check_names_a_missing_folder_and_a_missing_reload_command(users: Users, site: World, tmp_path: Path) -> None:
    missing = site.proxy(config_path=str(tmp_path / "nowhere"))
    assert [finding.subject for finding in await missing.installer.check()] == ["config_path"]
    without = site.proxy(reload_command=["no-such-program", "reload"])
    assert [finding.subject for finding in await without.installer.check()] == ["reload command"]


async def worker_pids(users: Users) -> set[int]:
    """The workers that take requests; waits until a reload is over."""
    master = int((users.root / "nginx.pid").read_text())
    pids: set[int] = set()

    def settled() -> bool:
        nonlocal pids
        children = [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
        titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0 ") for pid in children}
        pids = set(titles)
        return len(pids) == 2 and set(titles.values()) == {b"nginx: worker process"}

    await until(settled)
    return pids


def worker_alive(pids: set[int]) -> bool:
    return any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
