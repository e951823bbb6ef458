"""The flag folder: what its files mean, who may move `current`, what a crash leaves."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest

from bleen.errors import Fenced, RouterUnavailable, StoreMismatch
from bleen.model.traffic import CLOSED, TrafficSplit
from bleen.traffic.nginx.flags import FlagFolder


@pytest.fixture
def flags(tmp_path: Path) -> FlagFolder:
    made = FlagFolder(tmp_path / "flags", store_id="store-1", service="shop")
    made.claim()
    return made


def test_every_weight_says_one_colour_for_each_bucket(flags: FlagFolder) -> None:
    for green in range(101):
        names = set(os.listdir(flags.path / f"w{green:03d}"))  # noqa: PTH208 - only the names are of interest
        assert names == {f"g{bucket}" if bucket < green else f"b{bucket}" for bucket in range(100)}
    assert [path.name for path in (flags.path / "closed").iterdir()] == ["closed"]


def test_a_claimed_folder_is_closed_and_readable_for_everybody_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = FlagFolder(tmp_path / "flags", store_id="store-1", service="shop")
        made.claim()
    finally:
        os.umask(before)
    assert made.split() == CLOSED
    assert {path.stat().st_mode & 0o777 for path in (made.path, made.path / "w025", made.path / "closed")} == {0o755}


def test_claiming_again_keeps_what_holds(flags: FlagFolder) -> None:
    flags.fence(1)
    flags.point(TrafficSplit(75, 25), 1)
    inode = (flags.path / "w025").stat().st_ino
    flags.claim()
    assert flags.split() == TrafficSplit(75, 25)
    assert (flags.path / "w025").stat().st_ino == inode


def test_claiming_completes_what_a_crash_left(flags: FlagFolder) -> None:
    flags.fence(1)
    flags.point(TrafficSplit(75, 25), 1)
    (flags.path / "w040").rename(flags.path / "new-half-built")
    next((flags.path / "new-half-built").iterdir()).unlink()
    flags.claim()
    assert len(list((flags.path / "w040").iterdir())) == 100
    assert list(flags.path.glob("new-*")) == []
    assert flags.split() == TrafficSplit(75, 25)


def test_a_lost_current_is_not_made_up_by_claiming(flags: FlagFolder) -> None:
    (flags.path / "current").unlink()
    flags.claim()
    assert flags.split() is None


def test_claiming_at_the_same_time_is_safe(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def claim() -> None:
        try:
            FlagFolder(tmp_path / "flags", store_id="store-1", service="shop").claim()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list((tmp_path / "flags").glob("w*/[bg]*"))) == 101 * 100


def test_each_weight_reads_back(flags: FlagFolder) -> None:
    flags.fence(1)
    for split in (TrafficSplit(100, 0), TrafficSplit(93, 7), TrafficSplit(0, 100), CLOSED):
        flags.point(split, 1)
        assert flags.split() == split


@pytest.mark.parametrize("target", ["w101", "w25", "nonsense", "e000000000001"])
def test_a_current_that_shows_something_else_says_nothing(flags: FlagFolder, target: str) -> None:
    (flags.path / "current").unlink()
    (flags.path / "current").symlink_to(target)
    assert flags.split() is None


def test_a_late_rename_of_an_old_epoch_finds_nothing(flags: FlagFolder) -> None:
    flags.fence(1)
    staged = flags.path / "e000000000001" / "next"
    staged.symlink_to("w100")  # a writer that is stopped right here
    flags.fence(2)
    flags.point(TrafficSplit(100, 0), 2)
    with pytest.raises(FileNotFoundError):
        staged.rename(flags.path / "current")
    assert flags.split() == TrafficSplit(100, 0)
    with pytest.raises(Fenced, match="epoch 2"):
        flags.point(TrafficSplit(0, 100), 1)


def test_a_crash_between_staging_and_renaming_is_repaired_by_the_next_write(flags: FlagFolder) -> None:
    flags.fence(1)
    (flags.path / "e000000000001" / "next").symlink_to("w100")
    flags.point(TrafficSplit(60, 40), 1)
    assert flags.split() == TrafficSplit(60, 40)


def test_fencing_below_leaves_the_higher_epoch_and_no_trace(flags: FlagFolder) -> None:
    flags.fence(5)
    with pytest.raises(Fenced, match="epoch 5"):
        flags.fence(4)
    assert [path.name for path in flags.path.glob("e*")] == ["e000000000005"]


def test_of_epochs_that_fence_at_once_only_the_highest_can_write(flags: FlagFolder) -> None:
    def fence(epoch: int) -> None:
        with contextlib.suppress(Fenced):
            flags.fence(epoch)

    threads = [threading.Thread(target=fence, args=(epoch,)) for epoch in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flags.point(TrafficSplit(50, 50), 12)
    for epoch in range(1, 12):
        with pytest.raises(Fenced):
            flags.point(TrafficSplit(0, 100), epoch)
    assert flags.split() == TrafficSplit(50, 50)


@pytest.mark.parametrize(("store", "service"), [("store-2", "shop"), ("store-1", "stock")])
def test_another_store_or_service_changes_nothing(flags: FlagFolder, store: str, service: str) -> None:
    before = sorted(path.name for path in flags.path.iterdir())
    with pytest.raises(StoreMismatch, match="store-1"):
        FlagFolder(flags.path, store_id=store, service=service).claim()
    assert sorted(path.name for path in flags.path.iterdir()) == before
    assert json.loads((flags.path / "store.json").read_text()) == {"store": "store-1", "service": "shop"}


def test_a_folder_whose_owner_cannot_be_read_is_nobodys_to_take(flags: FlagFolder) -> None:
    (flags.path / "store.json").write_text("{")
    with pytest.raises(StoreMismatch):
        flags.claim()


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RouterUnavailable, match="cannot be written"):
        FlagFolder(tmp_path / "file" / "flags", store_id="store-1", service="shop").claim()
