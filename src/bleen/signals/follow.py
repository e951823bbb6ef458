"""The access log as it is written: samples within milliseconds, none lost in a rotation, none twice."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bleen.errors import Transient
from bleen.model.sample import Sample
from bleen.signals.signal import SampleBatch, Sink
from bleen.traffic.router import AccessLog

READ_BYTES = 256 * 1024
SLICE_LINES = 400  # lines parsed before other tasks get their turn: about two milliseconds
LONGEST_LINE_BYTES = 1024 * 1024
LINGER_S = 5.0  # workers of a proxy reopen the log one by one: the old file is read this long after the new one appeared


@dataclass(frozen=True, slots=True)
class LogCursor:
    """The place up to which whole lines were handed over. Inode 0: there was no file yet."""

    inode: int
    offset: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> LogCursor:
        return cls(**body)


class LogFollower:
    """A Signal. Follows the log from `start` (None: from its present end) through rotation by rename and truncation.

    What is known to be missing is counted in `SampleBatch.lost`: a start that is in no file any more, a truncation, a
    rotation that was missed, half a line at the end of a file. A file that was truncated and has grown beyond the place
    of reading within one poll cannot be told from one that grew.
    """

    def __init__(self, log: AccessLog, start: LogCursor | None, poll_s: float = 0.01) -> None:
        self._log = log
        self._poll_s = poll_s
        self._cursor = start or _present_end(log.path)
        self._file: _LogFile | None = None
        self._old: list[tuple[_LogFile, float]] = []  # with the time (of the loop) at which each is let go
        self._lost = 0  # not handed over yet

    @property
    def cursor(self) -> LogCursor:
        """Where a new follower goes on. Lines that a rotated file gets after the new one has appeared are not in it."""
        return LogCursor(self._file.inode, self._file.offset) if self._file else self._cursor

    async def observe(self, sink: Sink) -> None:
        """Samples are handed over until cancelled. Raises Transient when the file cannot be read."""
        try:
            while True:
                if self._file is None:
                    self._file = self._open_start()
                read = [await self._hand_over(file, sink) for file, _ in self._old]
                if self._file:
                    read.append(await self._hand_over(self._file, sink))
                if not any(read):
                    self._look_around()
                    self._pass_on(sink, [])
                    await asyncio.sleep(self._poll_s)
        except OSError as error:
            raise Transient(f"the access log {self._log.path} cannot be read: {error.strerror}", next_command="bleen check") from error
        finally:
            self._let_go()

    async def _hand_over(self, file: _LogFile, sink: Sink) -> bool:
        """One read's worth of whole lines was parsed and handed over in slices. False at the end of the file."""
        lines = file.read_lines()
        if lines is None:
            return False
        for start in range(0, len(lines), SLICE_LINES):
            piece = lines[start : start + SLICE_LINES]
            self._pass_on(sink, [sample for sample in map(self._log.parse, piece) if sample])
            file.offset += sum(map(len, piece)) + len(piece)
            await asyncio.sleep(0)
        if file.drop_endless_line():
            self._lost += 1
        return True

    def _pass_on(self, sink: Sink, samples: list[Sample]) -> None:
        if samples or self._lost:
            lost, self._lost = self._lost, 0
            sink(SampleBatch(samples, lost))

    def _open_start(self) -> _LogFile | None:
        """The file in which the cursor is, at its place; else the present file from its beginning; None while there is none."""
        path = self._log.path
        for candidate in (path, rotated(path)):
            file = _LogFile.open(candidate)
            if file and file.inode == self._cursor.inode:
                file.go_to(self._cursor.offset)
                return file
            if file:
                file.close()
        if self._cursor.inode:
            self._lost += 1
            self._cursor = LogCursor(0, 0)
        return _LogFile.open(path)

    def _look_around(self) -> None:
        """At the end of what is there: truncations and rotations are noticed, old files let go in time."""
        now = asyncio.get_running_loop().time()
        for file, until in [entry for entry in self._old if entry[1] <= now]:
            self._lost += file.has_half_a_line
            file.close()
            self._old.remove((file, until))
        if self._file is None:
            return
        if self._file.is_truncated():
            self._lost += 1
            self._file.go_to(0)
        elif _inode_of(self._log.path) not in (0, self._file.inode):
            self._change_over(now)

    def _change_over(self, now: float) -> None:
        """The present file is followed from its beginning, the one before it for a little longer."""
        new = _LogFile.open(self._log.path)
        if new is None or self._file is None:
            return
        # More than one rotation since the last look: the files between were never read.
        self._lost += _inode_of(rotated(self._log.path)) not in (0, self._file.inode)
        self._old.append((self._file, now + LINGER_S))
        self._file = new

    def _let_go(self) -> None:
        self._cursor = self.cursor
        for file in [*(file for file, _ in self._old), *([self._file] if self._file else [])]:
            file.close()
        self._old, self._file = [], None


def rotated(path: Path) -> Path:
    """Where AccessLog.rotate moves the file."""
    return path.with_name(path.name + ".1")


class _LogFile:
    """One open file, read by whole lines."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._half = b""  # the beginning of a line whose end is not written yet
        self.inode = os.fstat(descriptor).st_ino
        self.offset = 0  # after the last whole line that was handed over

    @classmethod
    def open(cls, path: Path) -> _LogFile | None:
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None

    def go_to(self, offset: int) -> None:
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        self.offset, self._half = offset, b""

    def read_lines(self) -> list[bytes] | None:
        """The whole lines of the next read, without their newlines; None at the end of the file."""
        chunk = os.read(self._descriptor, READ_BYTES)
        if not chunk:
            return None
        *lines, self._half = (self._half + chunk).split(b"\n")
        return lines

    def drop_endless_line(self) -> bool:
        """A line that no proxy writes was given up, so that it does not fill the memory."""
        if len(self._half) <= LONGEST_LINE_BYTES:
            return False
        self.offset += len(self._half)
        self._half = b""
        return True

    def is_truncated(self) -> bool:
        return os.fstat(self._descriptor).st_size < self.offset + len(self._half)

    @property
    def has_half_a_line(self) -> bool:
        return bool(self._half)

    def close(self) -> None:
        os.close(self._descriptor)


def _inode_of(path: Path) -> int:
    """The inode of a file, 0 when there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _present_end(path: Path) -> LogCursor:
    try:
        found = path.stat()
    except FileNotFoundError:
        return LogCursor(0, 0)
    return LogCursor(found.st_ino, found.st_size)
