"""The access log is followed as it is written: nothing lost, nothing double, what is missing is counted."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bleen.errors import Transient
from bleen.model.environment import Environment
from bleen.model.sample import Sample
from bleen.signals import follow
from bleen.signals.follow import LogCursor, LogFollower
from bleen.signals.signal import Observation, SampleBatch


class NumberedLog:
    """An AccessLog whose lines are numbers: `17` is a request of green, anything else no user's request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def parse(self, line: bytes) -> Sample | None:
        if not line.isdigit():
            return None
        return Sample(float(line), Environment.GREEN, 200, 200, 0.01, 0.01, "GET", "/")

    async def rotate(self, larger_than_bytes: int) -> bool:
        raise NotImplementedError


class Seen:
    """What a follower handed over."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.batches = 0
        self.lost = 0

    def __call__(self, observation: Observation) -> None:
        assert isinstance(observation, SampleBatch)
        self.batches += 1
        self.lost += observation.lost
        self.numbers += [int(sample.at) for sample in observation.samples]


@asynccontextmanager
async def following(follower: LogFollower, seen: Seen) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.observe(seen))
    try:
        yield
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


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def lines(*numbers: int) -> str:
    return "".join(f"{number}\n" for number in numbers)


@pytest.fixture
def log(tmp_path: Path) -> NumberedLog:
    return NumberedLog(tmp_path / "access.log")


async def test_lines_are_handed_over_as_they_are_written_from_the_present_end_on(log: NumberedLog) -> None:
    append(log.path, lines(1, 2, 3))
    follower, seen = LogFollower(log, None), Seen()
    append(log.path, lines(4))
    async with following(follower, seen):
        await until(lambda: seen.numbers == [4])
        append(log.path, lines(5, 6))
        await until(lambda: seen.numbers == [4, 5, 6])
    assert seen.lost == 0
    assert follower.cursor == LogCursor(log.path.stat().st_ino, log.path.stat().st_size)


async def test_a_file_that_is_not_there_yet_is_read_from_its_beginning(log: NumberedLog) -> None:
    follower, seen = LogFollower(log, None), Seen()
    assert follower.cursor == LogCursor(0, 0)
    async with following(follower, seen):
        await asyncio.sleep(0.05)
        append(log.path, lines(1, 2))
        await until(lambda: seen.numbers == [1, 2])
    assert seen.lost == 0


async def test_half_a_line_waits_for_its_end_and_the_cursor_stays_before_it(log: NumberedLog) -> None:
    append(log.path, "")
    follower, seen = LogFollower(log, None), Seen()
    async with following(follower, seen):
        append(log.path, "1\n12")
        await until(lambda: seen.numbers == [1])
        assert follower.cursor.offset == 2
        append(log.path, "34\n")
        await until(lambda: seen.numbers == [1, 1234])
        assert follower.cursor.offset == 7


async def test_lines_that_are_no_users_request_are_skipped_and_not_called_lost(log: NumberedLog) -> None:
    append(log.path, "")
    follower, seen = LogFollower(log, None), Seen()
    async with following(follower, seen):
        append(log.path, "probe\n\n1\nmonitor\n")
        await until(lambda: seen.numbers == [1] and follower.cursor.offset == log.path.stat().st_size)
    assert seen.lost == 0


async def test_a_rotation_by_rename_loses_nothing_even_what_is_written_to_the_old_file_afterwards(log: NumberedLog) -> None:
    append(log.path, "")
    follower, seen = LogFollower(log, None), Seen()
    with log.path.open("a") as slow_worker:
        async with following(follower, seen):
            append(log.path, lines(1))
            log.path.rename(follow.rotated(log.path))
            slow_worker.write(lines(2))
            slow_worker.flush()
            append(log.path, lines(3))
            await until(lambda: 3 in seen.numbers)
            slow_worker.write(lines(4))
            slow_worker.flush()
            append(log.path, lines(5))
            await until(lambda: sorted(seen.numbers) == [1, 2, 3, 4, 5])
            assert follower.cursor == LogCursor(log.path.stat().st_ino, log.path.stat().st_size)
    assert seen.lost == 0


async def test_many_rotations_under_load_lose_nothing_and_double_nothing(log: NumberedLog) -> None:
    append(log.path, "")
    follower, seen = LogFollower(log, None), Seen()
    total, may_rotate = 30_000, threading.Semaphore(0)

    def write() -> None:
        for start in range(0, total, 100):
            if start and start % 5000 == 0:
                assert may_rotate.acquire(timeout=20)
                log.path.rename(follow.rotated(log.path))
            append(log.path, lines(*range(start, start + 100)))

    async with following(follower, seen):
        writer = asyncio.create_task(asyncio.to_thread(write))
        for boundary in range(5000, total, 5000):
            # As in life the log is rotated now and then: the follower was in the present file before the next rotation.
            await until(lambda boundary=boundary: any(n >= boundary - 5000 for n in seen.numbers[-1:]))
            may_rotate.release()
        await writer
        await until(lambda: len(seen.numbers) >= total)
    assert seen.numbers == list(range(total))
    assert seen.lost == 0


async def test_a_rotation_that_was_missed_is_counted(log: NumberedLog) -> None:
    append(log.path, "")
    follower, seen = LogFollower(log, None, poll_s=0.2), Seen()
    async with following(follower, seen):
        append(log.path, lines(1))
        await until(lambda: seen.numbers == [1])
        for number in (2, 3):  # within one poll
            log.path.rename(follow.rotated(log.path))
            append(log.path, lines(number))
        await until(lambda: seen.numbers == [1, 3])
        await until(lambda: seen.lost == 1)


async def test_a_truncation_in_place_counts_as_lost_and_goes_on_from_the_beginning(log: NumberedLog) -> None:
    append(log.path, lines(1, 2, 3))
    follower, seen = LogFollower(log, LogCursor(log.path.stat().st_ino, 0)), Seen()
    async with following(follower, seen):
        await until(lambda: seen.numbers == [1, 2, 3])
        os.truncate(log.path, 0)
        await until(lambda: seen.lost == 1)
        append(log.path, lines(4))
        await until(lambda: seen.numbers == [1, 2, 3, 4])
    assert seen.lost == 1


async def test_a_restart_goes_on_where_the_cursor_was(log: NumberedLog) -> None:
    append(log.path, lines(1, 2))
    first, seen = LogFollower(log, LogCursor(log.path.stat().st_ino, 0)), Seen()
    async with following(first, seen):
        await until(lambda: seen.numbers == [1, 2])
    append(log.path, lines(3))
    second = LogFollower(log, LogCursor.from_dict(first.cursor.to_dict()))
    async with following(second, seen):
        await until(lambda: seen.numbers == [1, 2, 3])
    assert seen.lost == 0


async def test_a_restart_after_a_rotation_reads_the_old_file_to_its_end_and_then_the_new(log: NumberedLog) -> None:
    append(log.path, lines(1, 2, 3))
    cursor = LogCursor(log.path.stat().st_ino, 2)
    log.path.rename(follow.rotated(log.path))
    append(log.path, lines(4, 5))
    seen = Seen()
    async with following(LogFollower(log, cursor), seen):
        await until(lambda: seen.numbers == [2, 3, 4, 5])
    assert seen.lost == 0


async def test_a_restart_whose_file_is_gone_says_so_and_reads_the_present_file(log: NumberedLog) -> None:
    append(log.path, lines(7))
    seen = Seen()
    async with following(LogFollower(log, LogCursor(log.path.stat().st_ino + 1_000_000, 5)), seen):
        await until(lambda: seen.numbers == [7])
    assert seen.lost == 1


async def test_followers_that_are_stopped_anywhere_hand_over_every_line_once(log: NumberedLog) -> None:
    total = 20_000
    append(log.path, lines(*range(total)))
    cursor, seen = LogCursor(log.path.stat().st_ino, 0), Seen()
    for stop_after in (1, 2, 5, 9, 17):  # turns of the loop: in the middle of a read
        follower = LogFollower(log, cursor)
        async with following(follower, seen):
            for _ in range(stop_after):
                await asyncio.sleep(0)
        cursor = follower.cursor
    assert len(seen.numbers) < total
    async with following(LogFollower(log, cursor), seen):
        await until(lambda: len(seen.numbers) >= total)
    assert seen.numbers == list(range(total))
    assert seen.lost == 0


async def test_catching_up_with_a_large_file_leaves_turns_to_others(log: NumberedLog) -> None:
    append(log.path, lines(*range(100_000)))
    seen, turns = Seen(), 0
    async with following(LogFollower(log, LogCursor(log.path.stat().st_ino, 0)), seen):
        while len(seen.numbers) < 100_000:
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 100_000 / follow.SLICE_LINES


async def test_a_line_without_end_does_not_fill_the_memory(log: NumberedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LONGEST_LINE_BYTES", 1000)
    append(log.path, "")
    follower, seen = LogFollower(log, None), Seen()
    async with following(follower, seen):
        append(log.path, "9" * 5000)
        await until(lambda: follower.cursor.offset == 5000)
        append(log.path, "x\n" + lines(1))
        await until(lambda: seen.numbers == [1])
    assert seen.lost == 1


async def test_a_log_that_cannot_be_read_is_an_error_with_a_next_command(log: NumberedLog) -> None:
    log.path.mkdir()
    with pytest.raises(Transient, match="cannot be read") as caught:
        await asyncio.wait_for(LogFollower(log, LogCursor(0, 0)).observe(Seen()), 5)
    assert caught.value.next_command


async def test_no_descriptor_stays_open(log: NumberedLog) -> None:
    append(log.path, "")

    def open_here() -> list[str]:
        links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return [target for link in links if (target := str(link.readlink())).startswith(str(log.path))]

    seen = Seen()
    async with following(LogFollower(log, None), seen):
        append(log.path, lines(1))
        await until(lambda: seen.numbers == [1])
        log.path.rename(follow.rotated(log.path))
        append(log.path, lines(2))
        await until(lambda: seen.numbers == [1, 2])
        assert len(open_here()) == 2
    assert open_here() == []


async def test_the_old_file_is_let_go_after_a_while(log: NumberedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LINGER_S", 0.1)
    append(log.path, "")
    seen = Seen()
    follower = LogFollower(log, None)
    async with following(follower, seen):
        append(log.path, "1\nhalf")
        await until(lambda: seen.numbers == [1])
        log.path.rename(follow.rotated(log.path))
        append(log.path, lines(2))
        await until(lambda: seen.numbers == [1, 2])
        await until(lambda: not follower._old)
        await until(lambda: seen.lost == 1)  # the half line
