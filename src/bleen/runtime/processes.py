"""Processes of the host: told apart by more than their number, so that no signal meets a stranger."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil

from bleen.runtime.launcher import started_of
from bleen.runtime.run_file import Run
from bleen.runtime.site import MARK


def members(run: Run | None, mark: str, lock: Path) -> dict[int, int]:
    """The living processes of a release, pid to start time: its session and group, and whoever carries its mark.

    Once the leader is dead its number could belong to another session, so there the mark or the inherited lock decides.
    """
    leads = run is not None and alive(run)
    marked = f"{MARK}={mark}".encode()
    found: dict[int, int] = {}
    for pid in psutil.pids():
        in_session = run is not None and run.pid != 0 and run.pid in _session_and_group(pid)
        if (in_session and (leads or _holds(pid, lock))) or _carries(pid, marked):
            started = started_of(pid)
            if started is not None:
                found[pid] = started
    return found


def alive(run: Run) -> bool:
    """The very process that was recorded lives: its number, start time and boot agree, and it is no zombie."""
    return run.pid > 0 and run.boot_id == boot_id() and started_of(run.pid) == run.started


def send(pid: int, started: int, number: signal.Signals) -> None:
    """The process got the signal if it still is the one that started then; whoever has its number now got none."""
    try:
        if sys.platform == "linux":
            handle = os.pidfd_open(pid)  # from here on the number cannot change hands
            try:
                if started_of(pid) == started:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)
        elif started_of(pid) == started:
            os.kill(pid, number)
    except ProcessLookupError:
        return


def boot_id() -> str:
    """A text that changes with every boot of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _session_and_group(pid: int) -> tuple[int, ...]:
    try:
        return os.getsid(pid), os.getpgid(pid)
    except OSError:
        return ()


def _holds(pid: int, file: Path) -> bool:
    try:
        return any(Path(f"/proc/{pid}/fd/{name}").readlink() == file for name in os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names, no paths
    except OSError:
        return False


def _carries(pid: int, variable: bytes) -> bool:
    try:
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        pass
    if Path("/proc/self").exists():
        return False  # it ended, or belongs to somebody else
    try:
        name, _, value = variable.decode().partition("=")
        return psutil.Process(pid).environ().get(name) == value
    except (psutil.Error, OSError):
        return False
