"""A world that is not ready: a clear error, exit 2 or 4, and nothing changed."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig import Rig, need_nginx, rig_in

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own, which root may do")


def nothing_changed(rig: Rig) -> None:
    """No release was started, and no route was ever written."""
    assert rig.releases("blue") == rig.releases("green") == []
    assert rig.status().route == {"blue": 0, "green": 0}


def test_an_nginx_that_is_not_there_is_named_before_anything_moves(tmp_path: Path) -> None:
    with rig_in(tmp_path, traffic={"binary": "/no/such/nginx"}) as rig:
        checked = rig.bleen("check")
        assert checked.returncode == 4
        assert "/no/such/nginx" in checked.stdout + checked.stderr
        deployed = rig.bleen("deploy", "--version", "1.0.0")
        assert deployed.returncode == 4, deployed.stderr
        assert "/no/such/nginx" in deployed.stderr
        assert "next:" in deployed.stderr
        nothing_changed(rig)


def test_a_port_that_somebody_else_holds_is_named_with_its_holder(tmp_path: Path) -> None:
    need_nginx()
    with rig_in(tmp_path) as rig, socket.create_server(("127.0.0.1", rig.ports["listen"])):
        deployed = rig.bleen("deploy", "--version", "1.0.0")
        assert deployed.returncode == 4, deployed.stderr
        assert f"127.0.0.1:{rig.ports['listen']}" in deployed.stderr
        assert str(os.getpid()) in deployed.stderr
        nothing_changed(rig)


def test_a_flag_folder_that_the_workers_cannot_reach_is_found_beforehand(tmp_path: Path) -> None:
    need_nginx()
    if os.geteuid() != 0:
        pytest.skip("only root can give the workers a user of their own")
    service = tmp_path / "service"
    service.mkdir(mode=0o700)  # nobody may not pass
    with rig_in(service, traffic={"worker_user": "nobody"}) as rig:
        deployed = rig.bleen("deploy", "--version", "1.0.0")
        assert deployed.returncode == 4, deployed.stderr
        assert "nobody" in deployed.stderr
        nothing_changed(rig)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@as_root
def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with rig_in(tmp_path) as rig, mounted(rig.state, "ro"):
        deployed = rig.bleen("deploy", "--version", "1.0.0")
        assert deployed.returncode == 4, deployed.stderr
        assert str(rig.state) in deployed.stderr
        assert rig.processes() == []


@as_root
def test_a_store_without_room_on_its_disk_says_so(tmp_path: Path) -> None:
    with rig_in(tmp_path) as rig, mounted(rig.state, "size=64k"):
        (rig.state / "ballast").write_bytes(b"x" * 60_000)
        deployed = rig.bleen("deploy", "--version", "1.0.0")
        assert deployed.returncode == 4, deployed.stderr
        assert "full" in deployed.stderr or "No space" in deployed.stderr
        assert "next:" in deployed.stderr
        assert rig.processes() == []


@pytest.mark.parametrize("version", ["1.0\n", "a/b", 'a"b', "a'b", "x" * 10_240, "", "-x"])
def test_a_version_that_is_no_version_creates_nothing(tmp_path: Path, version: str) -> None:
    with rig_in(tmp_path) as rig:
        deployed = rig.bleen("deploy", "--version", version)
        assert deployed.returncode == 2
        assert len(deployed.stderr) < 1000
        assert not rig.state.exists()
