"""Starting and stopping a guarded controller from outside of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bleen.deployment.lock import holder_pid, is_held
from bleen.errors import AttentionNeeded, StoreUnavailable

GUARDIAN = Path(__file__).with_name("guardian.py")
STOP_S = 20.0
LINGER_S = 2.0


def ensure_controller(state_dir: Path, argv: list[str]) -> None:
    """A controller runs, or a guardian is starting one. Raises StoreUnavailable when its folder cannot be written."""
    if _stands(state_dir / "guardian.lock") or _stands(state_dir / "controller.lock"):
        return
    ensure_guardian(state_dir, argv)


def ensure_guardian(state_dir: Path, argv: list[str]) -> None:
    """A guardian runs, in a session of its own, so that a lost terminal takes neither it nor its controller along."""
    if is_held(state_dir / "guardian.lock"):
        return
    try:
        subprocess.Popen(
            [sys.executable, "-E", str(GUARDIAN), str(state_dir), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    except OSError as error:
        raise StoreUnavailable(f"the controller could not be started: {error}") from error


def _stands(path: Path) -> bool:
    """The lock's holder lives. One that was killed can seem to hold it for a moment, through a child that has not begun its own program."""
    deadline = time.monotonic() + LINGER_S
    while is_held(path):
        if _lives(holder_pid(path)) or time.monotonic() > deadline:
            return True
        time.sleep(0.01)
    return False


def _lives(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_controller(state_dir: Path) -> bool:
    """Controller and guardian have ended; what they kept up goes on. False when none ran. Raises AttentionNeeded."""
    found = False
    for name in ("guardian.lock", "controller.lock"):
        path = state_dir / name
        pid = holder_pid(path)
        if not pid:
            continue
        found = True
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while is_held(path):
            if time.monotonic() > deadline:
                raise AttentionNeeded(f"process {pid} did not end within {STOP_S:.0f} s", next_command="bleen logs --controller")
            time.sleep(0.02)
    return found
