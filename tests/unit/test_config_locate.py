"""Finding bleen.yaml, and the little of it that `bleen status` needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bleen.config.load import load
from bleen.config.locate import find_config, locate
from bleen.config.mounts import network_file_system
from bleen.config.starter import starter
from bleen.errors import ConfigurationError


def write(folder: Path, text: str = "service: payments\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bleen.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_service_and_state_are_those_of_the_loader(tmp_path: Path) -> None:
    path = write(tmp_path, starter("payments"))
    loaded = load(path, {})
    assert locate(path) == (loaded.config.service, loaded.state_dir)
    path.write_text(starter("payments").replace("#state: .bleen", "state: x/../y"), encoding="utf-8")
    assert locate(path) == ("payments", tmp_path / "y")
    assert load(path, {}).state_dir == tmp_path / "y"


def test_a_mistake_elsewhere_in_the_file_hides_no_status(tmp_path: Path) -> None:
    path = write(tmp_path, "service: payments\ndeployment: {bake: 30}\nnonsense: true\n")
    assert locate(path) == ("payments", tmp_path / ".bleen")


def test_without_a_service_there_is_nothing_to_ask_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"bleen.yaml:1: service: a name of the service is missing"):
        locate(write(tmp_path, "service: 5\n"))
    with pytest.raises(ConfigurationError, match=r"bleen.yaml:2: state: the folder of the state is missing"):
        locate(write(tmp_path, "service: payments\nstate: []\n"))


def test_locating_imports_neither_pydantic_nor_the_schema(tmp_path: Path) -> None:
    path = write(tmp_path)
    code = (
        "import sys; from pathlib import Path; from bleen.config.locate import find_config, locate; "
        f"locate(find_config(Path({str(tmp_path)!r}), {{}})); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'pydantic', 'jinja2', 'sqlalchemy', 'rich', 'structlog'}), "
        "'bleen.config.schema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env={"PATH": os.defpath})
    assert done.stdout.strip() == "[] False"
    assert path.exists()


def test_the_file_is_found_here_or_in_a_folder_above(tmp_path: Path) -> None:
    path = write(tmp_path / "project")
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    assert find_config(tmp_path / "project", {}) == path
    assert find_config(deep, {}) == path
    nearer = write(deep)
    assert find_config(deep, {}) == nearer


def test_no_file_at_all_names_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no bleen\.yaml in") as caught:
        find_config(tmp_path, {})
    assert caught.value.next_command == "bleen init"


def test_a_flag_wins_over_the_variable_and_the_variable_over_the_folder(tmp_path: Path) -> None:
    here, named, flagged = (write(tmp_path / name) for name in ("here", "named", "flagged"))
    assert find_config(here.parent, {"BLEEN_CONFIG": str(named)}) == named
    assert find_config(here.parent, {"BLEEN_CONFIG": str(named.parent)}) == named
    assert find_config(here.parent, {"BLEEN_CONFIG": str(named)}, flagged) == flagged


def test_a_named_file_that_is_not_there_is_not_replaced_by_another(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigurationError, match=r"BLEEN_CONFIG names .*other\.yaml: there is no such file"):
        find_config(tmp_path, {"BLEEN_CONFIG": str(tmp_path / "other.yaml")})
    with pytest.raises(ConfigurationError, match=r"^/nowhere/bleen\.yaml: there is no such file"):
        find_config(tmp_path, {}, Path("/nowhere/bleen.yaml"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_file_above_that_another_user_owns_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "inner").mkdir()
    os.chown(path, 4242, 4242)
    with pytest.raises(ConfigurationError, match=r"another user \(uid 4242\) owns it"):
        find_config(tmp_path / "inner", {})
    assert find_config(tmp_path, {}) == path
    assert find_config(tmp_path / "inner", {"SUDO_UID": "4242"}) == path
    assert find_config(tmp_path / "inner", {"BLEEN_CONFIG": str(path)}) == path


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.rclone", "ceph", "lustre"])
def test_a_network_file_system_is_named(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path}/a\\040b {kind} rw 0 0\n", encoding="utf-8")
    assert network_file_system(tmp_path / "a b" / "not yet there", mounts) == kind
    assert network_file_system(tmp_path / "a", mounts) == ""


def test_a_local_disk_mounted_inside_or_over_a_network_file_system_is_local(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n/dev/sdb {tmp_path}/disk ext4 rw 0 0\n", encoding="utf-8")
    assert network_file_system(tmp_path / "disk" / "state", mounts) == ""
    assert network_file_system(tmp_path / "state", mounts) == "nfs4"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n/dev/sdb {tmp_path} ext4 rw 0 0\n", encoding="utf-8")
    assert network_file_system(tmp_path / "state", mounts) == ""


def test_where_mounts_cannot_be_read_nothing_is_refused(tmp_path: Path) -> None:
    assert network_file_system(tmp_path, tmp_path / "no such file") == ""
