"""Starts, stops and asks the service in one environment: `service.py start|stop|status blue|green`.

Exit status, as systemctl has it: 0 done or running, 3 stopped, 1 failed. bleen sets HOST, PORT, VERSION and ENVIRONMENT.

The service inherits a lock. As long as somebody holds the lock the service lives, and the number in the lock file is its pid.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

FOLDER = Path(__file__).resolve().parent
APP = FOLDER.parent / "process" / "app.py"
STOP_S = 30.0
LOOK_S = 1.0  # `status` holds the lock for an instant, too: whoever holds it longer is the service


def main(command: str, environment: str) -> int:
    (FOLDER / "run").mkdir(exist_ok=True)
    with (FOLDER / "run" / f"{environment}.lock").open("a+") as lock:
        return {"start": start, "stop": stop, "status": status}[command](lock)


def start(lock: IO[str]) -> int:
    """The service runs, or ran already. It writes where this command writes: to bleen's log of the environment."""
    deadline = time.monotonic() + LOOK_S
    while not is_free(lock):
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.05)
    # The lock goes to the child: it stays taken until the child ends, however this process ends.
    child = subprocess.Popen([sys.executable, str(APP)], stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock.fileno()])
    lock.truncate(0)
    lock.write(str(child.pid))
    return 0


def stop(lock: IO[str]) -> int:
    """The service has ended, requests under way were answered."""
    deadline = time.monotonic() + STOP_S
    asked = False
    while not is_free(lock):
        if not asked:
            lock.seek(0)
            os.kill(int(lock.read()), signal.SIGTERM)
            asked = True
        if time.monotonic() > deadline:
            print(f"the service did not end within {STOP_S:.0f} s of SIGTERM")
            return 1
        time.sleep(0.05)
    return 0


def status(lock: IO[str]) -> int:
    return 3 if is_free(lock) else 0


def is_free(lock: IO[str]) -> bool:
    """True when no service holds the lock; this process holds it then."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
