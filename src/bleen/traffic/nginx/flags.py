"""The flag folder: a shift of traffic is one rename in it, and an old epoch's rename finds nothing.

flags/store.json   which store and service this folder belongs to
flags/w000..w100   per weight of green: one empty file per bucket, g<k> below the weight, b<k> from it on
flags/closed       holds the file `closed`: nobody is served yet
flags/current      symlink to one of them; what nginx looks through at every request
flags/e<epoch>     where the holder of that epoch prepares the next `current`; only the highest epoch has one
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bleen.errors import Fenced, RouterUnavailable, StoreMismatch
from bleen.model.traffic import CLOSED, TrafficSplit

BUCKETS = 100
_LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class FlagFolder:
    """The flags of one service on one nginx. Its calls block for a short time only."""

    path: Path
    store_id: str
    service: str

    def claim(self) -> None:
        """The folder is complete and belongs to this store and service, once and for all. Raises StoreMismatch.

        A crash in the middle leaves parts that are complete in themselves; the next claim adds what is missing.
        """
        with _available(self.path):
            _make_folder(self.path)
            with _locked(self.path / "lock"):
                self.check_owner()
                self._build()
                if not (self.path / "store.json").exists():
                    with contextlib.suppress(FileExistsError):
                        (self.path / "current").symlink_to("closed")
                    self._write_owner()
                _sync(self.path)

    def check_owner(self) -> None:
        """The folder belongs to this store and service, or to nobody yet. Raises StoreMismatch."""
        try:
            owner = json.loads((self.path / "store.json").read_text())
        except FileNotFoundError:
            return
        except ValueError as error:
            raise StoreMismatch(f"{self.path}/store.json cannot be read as JSON, so whose folder it is cannot be told") from error
        if owner != self._owner():
            raise StoreMismatch(
                f"{self.path} belongs to service {owner.get('service')!r} of store {owner.get('store')!r},"
                f" not to {self.service!r} of {self.store_id!r}; the traffic was not touched",
                next_command="give this service a state folder of its own, or remove the flag folder if its store is gone for good",
            )

    def fence(self, epoch: int) -> None:
        """No epoch below `epoch` can write any more. Raises Fenced when a higher one has been here."""
        own = self._stage(epoch)
        with _available(self.path):
            self._refuse_overtaken(epoch)
            with contextlib.suppress(FileExistsError):
                own.mkdir(mode=0o700)
            for other in self._epochs():
                if other < epoch:
                    self._remove_stage(other)
            # Asked again: a higher epoch may have come between the first look and our own folder.
            try:
                self._refuse_overtaken(epoch)
            except Fenced:
                self._remove_stage(epoch)
                raise
            _sync(self.path)

    def point(self, split: TrafficSplit, epoch: int) -> None:
        """`current` shows `split`. Raises Fenced when `epoch` was overtaken; nothing changed then."""
        staged = self._stage(epoch) / "next"
        with _available(self.path):
            try:
                with contextlib.suppress(FileNotFoundError):  # left by a crash between the two calls below
                    staged.unlink()
                staged.symlink_to(_name_of(split))
                staged.rename(self.path / "current")
            except FileNotFoundError as error:
                self._refuse_overtaken(epoch)
                raise Fenced(f"epoch {epoch} was never fenced on {self.path}; the traffic was not touched") from error

    def sync(self) -> None:
        """What was pointed at survives a loss of power."""
        with _available(self.path):
            _sync(self.path)

    def split(self) -> TrafficSplit | None:
        """What `current` says; None when it is missing or says nothing known."""
        try:
            name = (self.path / "current").readlink().name
        except OSError:
            return None
        if name == "closed":
            return CLOSED
        match = re.fullmatch(r"w(\d{3})", name)
        if match is None or int(match[1]) > BUCKETS:
            return None
        return TrafficSplit(blue=BUCKETS - int(match[1]), green=int(match[1]))

    def _owner(self) -> dict[str, str]:
        return {"store": self.store_id, "service": self.service}

    def _write_owner(self) -> None:
        fresh = self.path / f"new-{uuid.uuid4().hex}"
        with fresh.open("x") as file:
            json.dump(self._owner(), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.path / "store.json")

    def _build(self) -> None:
        for leftover in self.path.glob("new-*"):  # of a builder that died; the lock says that none is at work
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for green in range(BUCKETS + 1):
            self._build_one(f"w{green:03d}", [f"{'g' if bucket < green else 'b'}{bucket}" for bucket in range(BUCKETS)])
        self._build_one("closed", ["closed"])

    def _build_one(self, name: str, files: list[str]) -> None:
        target = self.path / name
        if target.exists():
            return
        fresh = self.path / f"new-{uuid.uuid4().hex}"
        _make_folder(fresh)
        for file in files:
            _add_empty(fresh / file, like=fresh / files[0])
        fresh.rename(target)

    def _stage(self, epoch: int) -> Path:
        return self.path / f"e{epoch:012d}"

    def _epochs(self) -> list[int]:
        return [int(entry.name[1:]) for entry in os.scandir(self.path) if re.fullmatch(r"e\d{12}", entry.name)]

    def _refuse_overtaken(self, epoch: int) -> None:
        highest = max(self._epochs(), default=epoch)
        if highest > epoch:
            raise Fenced(f"epoch {epoch} was overtaken by epoch {highest} on {self.path}; the traffic was not touched")

    def _remove_stage(self, epoch: int) -> None:
        # Renamed away before it is emptied: from that instant on a late writer finds nothing.
        gone = self.path / f"new-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            self._stage(epoch).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _name_of(split: TrafficSplit) -> str:
    return "closed" if split.closed else f"w{split.green:03d}"


def _make_folder(path: Path) -> None:
    """The folder exists and the proxy's workers can read it, whatever the umask is."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _add_empty(path: Path, like: Path) -> None:
    """An empty file that everybody can read. One more name for `like` where that is possible: ten times as fast on a busy disk."""
    try:
        path.hardlink_to(like)
    except OSError:
        path.touch()
        path.chmod(0o444)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else builds in the folder. Ends by itself when the process dies."""
    with path.open("a") as file:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise RouterUnavailable(f"{path} has been locked by another process for {_LOCK_TIMEOUT_S:g} s") from error
                time.sleep(0.01)
        yield


@contextlib.contextmanager
def _available(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RouterUnavailable(f"the flag folder {path} cannot be written: {error.strerror}", next_command=f"ls -ld {path}") from error
