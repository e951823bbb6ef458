"""Starts the controller and starts it again when it dies. Runs by file path, with the standard library alone.

    python guardian.py STATE_DIR PROGRAM ARGUMENT...

A controller that dies frees its lock file; one that is stopped lets its lease run out: both bring a new one. A
controller that ends with 0 was told to stop, and its guardian ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

POLL_S = 0.1
LEASE_S = 1.0  # between two looks at the lease
STALE_S = 1.0  # a lease that ran out this long ago belongs to a controller that is stopped
SPAWN_AGAIN_S = 10.0  # not more often for a controller that lives but does not renew
START_S = 60.0  # for the successor of one that died: it is starting, however slow the host is
BACKOFF_MAX_S = 3.0  # a split of traffic may be waiting for somebody to watch it
LOG_MAX_BYTES = 16 * 1024 * 1024


class Guardian:
    """Keeps one controller alive."""

    def __init__(self, state_dir: Path, argv: list[str]) -> None:
        self._state_dir = state_dir
        self._argv = argv
        self._children: list[subprocess.Popen[bytes]] = []
        self._told_to_stop = False
        self._failures = 0
        self._spawned = 0.0

    def run(self) -> int:
        """Returns when a controller ended as it was told, or this process was told to stop."""
        lock = os.open(self._state_dir / "guardian.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _taken(lock):
            return 0  # another guardian was quicker
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        looked = time.monotonic()
        while True:
            ended_well = self._reap()
            if ended_well and not self._children:
                return 0
            if not self._told_to_stop:
                if not self._children and not self._controller_lives():
                    self._spawn()
                elif time.monotonic() - looked > LEASE_S:
                    looked = time.monotonic()
                    holder = self._holder_of_stale_lease()
                    patience_s = SPAWN_AGAIN_S if _lives(holder) else START_S
                    if holder and time.monotonic() - self._spawned > patience_s:
                        self._spawn()
            elif not self._children:
                return 0
            time.sleep(POLL_S)

    def _stop(self, number: int, _frame: object) -> None:
        self._told_to_stop = True
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    def _reap(self) -> bool:
        """True when a controller ended as it was told to."""
        ended_well = False
        for child in list(self._children):
            status = child.poll()
            if status is None:
                continue
            self._children.remove(child)
            self._say("guardian.controller_ended", child.pid, status)
            ended_well = ended_well or status == 0
            self._failures = 0 if time.monotonic() - self._spawned > 60 else self._failures + 1
        return ended_well

    def _spawn(self) -> None:
        wait_s = 0.0 if self._failures < 2 else min(BACKOFF_MAX_S, 0.25 * 2**self._failures)
        if time.monotonic() - self._spawned < wait_s:
            return
        self._spawned = time.monotonic()
        path = self._state_dir / "controller.log"
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_MAX_BYTES:
                path.replace(path.with_suffix(".log.1"))
        log = self._open_log()
        try:
            environ = os.environ | {"BLEEN_GUARDED": "1"}
            environ.setdefault("MALLOC_ARENA_MAX", "2")  # a few idle threads should not each keep an arena of memory
            child = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)
        finally:
            os.close(log)
        self._children.append(child)
        self._say("guardian.started_controller", child.pid)

    def _open_log(self) -> int:
        return os.open(self._state_dir / "controller.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _say(self, event: str, pid: int, status: int | None = None) -> None:
        """A line in the controller's log, in the controller's own form."""
        body = {"event": event, "guardian": os.getpid(), "pid": pid, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
        with contextlib.suppress(OSError):
            log = self._open_log()
            os.write(log, (json.dumps(body if status is None else body | {"status": status}) + "\n").encode())
            os.close(log)

    def _controller_lives(self) -> bool:
        """Some controller holds the lock file."""
        try:
            descriptor = os.open(self._state_dir / "controller.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def _holder_of_stale_lease(self) -> str:
        """Who holds the lease and does not renew it; "" when nobody. A store that cannot be read says nothing."""
        try:
            connection = sqlite3.connect(f"file:{self._state_dir / 'store.db'}?mode=ro", uri=True, timeout=1.0)
        except sqlite3.Error:
            return ""
        try:
            row = connection.execute(
                "SELECT holder FROM lease WHERE holder != '' AND expires - (julianday('now') - 2440587.5) * 86400.0 < ?", (-STALE_S,)
            ).fetchone()
        except sqlite3.Error:
            return ""
        finally:
            connection.close()
        return str(row[0]) if row else ""


def _lives(holder: str) -> bool:
    """The process of that controller (host:pid:random) is there, running or stopped."""
    try:
        os.kill(int(holder.split(":")[1]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, IndexError):
        return False
    return True


def _taken(lock: int) -> bool:
    """The lock is ours. Tried again for a moment: somebody may only be looking whether it is held."""
    for _ in range(5):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_S)
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(Guardian(Path(sys.argv[1]), sys.argv[2:]).run())
