"""Starts a program and steps out of its way. Standard library only, run by its path, never imported by the program.

`release`: the program becomes a session of its own that survives the caller. Before it runs it holds a lock that its
children inherit, and has written who it is (pid, start time, boot) to its run file. So at every instant a release
either left no trace or can be found again, whenever the caller dies.

`helper`: the program runs in a process group of its own that is killed the moment the caller dies, closes the pipe, or
this process dies.

The order arrives as one line of JSON on stdin, because arguments are visible to every user of the host. The caller
keeps stdin open for as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

CANNOT_RUN = 127  # as a shell says it
PR_SET_PDEATHSIG = 1


def main() -> None:
    line = _read_line(0)
    if line is None:
        return  # the caller died before it had said what to start
    order = json.loads(line)
    if sys.argv[1] == "release":
        start_release(order)
    else:
        keep_helper(order)


def start_release(order: dict[str, Any]) -> None:
    """The release runs detached, or its absence was reported on stdout: `recorded`, `busy` or `failed REASON`."""
    if os.fork():
        return  # the release is nobody's child
    os.setsid()
    report = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)  # the exec closes it: how the caller learns that it worked
    record = Path(order["record"])
    attempt, recorded = "", False
    try:
        attempt = f"lock {order['lock']}"
        if not _take_lock(order["lock"]) or _runs(record, order["body"]["boot_id"]):
            os.write(report, b"busy\n")
            return
        attempt = f"enter the directory {order['directory']}"
        os.chdir(order["directory"])
        attempt = f"append to {order['log']}"
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        if _caller_is_gone():
            return  # it would start what a later caller may have stopped by now
        attempt = f"write {record}"
        write_atomically(record, {**order["body"], "pid": os.getpid(), "started": started_of(os.getpid())})
        recorded = True
        os.write(report, b"recorded\n")
        attempt = f"run {order['argv'][0]!r} in {order['directory']}"
        _replace_this_process(order["argv"], order["variables"], log)
    except (OSError, ValueError) as error:
        if recorded:
            record.unlink(missing_ok=True)
        os.write(report, f"failed cannot {attempt}: {getattr(error, 'strerror', None) or error}\n".encode(errors="replace"))


def keep_helper(order: dict[str, Any]) -> None:
    """The helper has ended, and this process ends with its exit status (128 + number where a signal ended it)."""
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        _become_helper(order, keeper)
    with contextlib.suppress(OSError):  # whichever of the two comes first
        os.setpgid(child, child)

    def kill_when_the_caller_is_gone() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

    threading.Thread(target=kill_when_the_caller_is_gone, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def write_atomically(path: Path, body: dict[str, Any]) -> None:
    """`path` holds `body` as JSON, owner-only, on disk, and was never seen half written."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, json.dumps(body).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    staged.rename(path)


def started_of(pid: int) -> int | None:
    """When the process started, in clock ticks since the boot; None when none lives (a zombie does not).

    Where there is no /proc: microseconds since the epoch.
    """
    if not Path("/proc/self/stat").exists():
        return _started_of_elsewhere(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in "ZXx" else int(fields[19])


def _started_of_elsewhere(pid: int) -> int | None:
    import psutil  # noqa: PLC0415 - outside the standard library, so only where /proc is missing

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 1_000_000)
    except psutil.Error:
        return None


def _take_lock(path: str) -> bool:
    """The lock is held until the last process that inherits it ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.set_inheritable(lock, True)
    return True


def _runs(record: Path, boot_id: str) -> bool:
    """A release that closed the inherited lock is still found by its run file."""
    try:
        body = json.loads(record.read_bytes())
    except FileNotFoundError:
        return False
    return bool(body["boot_id"] == boot_id and started_of(body["pid"]) == body["started"])


def _caller_is_gone() -> bool:
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable)  # nothing more is ever written: readable means closed


def _become_helper(order: dict[str, Any], keeper: int) -> NoReturn:
    try:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            import ctypes  # noqa: PLC0415 - slow to import, and needed here alone

            # The signal comes when the thread that forked ends. The keeper forks from its only thread, so: when the keeper dies.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(CANNOT_RUN)
        os.chdir(order["directory"])
        _replace_this_process(order["argv"], order["variables"], None)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        os.write(2, f"bleen: cannot run {order['argv'][0]!r} in {order['directory']}: {reason}\n".encode(errors="replace"))
    finally:
        os._exit(CANNOT_RUN)


def _replace_this_process(argv: list[str], variables: dict[str, str], log: int | None) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if log is not None:
        os.dup2(log, 1)
        os.dup2(log, 2)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)  # Python ignores SIGPIPE, nohup SIGHUP: the program must not inherit it
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvpe(argv[0], argv, variables)  # noqa: S606 - no shell is the point


def _read_line(descriptor: int) -> bytes | None:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return None
        line += chunk
    return line


if __name__ == "__main__":
    main()
