"""A controller that kills itself at a chosen transaction: `python -m tests.chaos.killed_controller CONFIG N before|after [KIND [STOP]]`.

N counts the controller's fenced transactions, or only those that make the change KIND (see KINDS). `before` is after the
changes were made and before they were committed, `after` is once they hold. With STOP it only falls asleep there (SIGSTOP).

`--serve CONFIG` forks such controllers on demand, one at a time, because importing bleen takes longer than most of them live:
a line `N WHEN KIND` on stdin starts one, its pid is answered at once, and `ended STATUS` when it is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from bleen import wiring
from bleen.model.deployment import Lease
from bleen.store.store import Store
from bleen.store.writer import Writer

METHODS = {
    "begin_step": ("begin_step",),
    "note_step": ("note_step",),
    "end_step": ("end_step",),
    "set_route": ("set_route",),
    "set_applied": ("set_applied",),
    "set_status": ("set_status",),
    "resident": ("set_resident", "clear_resident", "retire_at"),
}
KINDS = (*METHODS, "any")


def main(arguments: list[str]) -> int:
    if arguments[0] == "--serve":
        return serve(Path(arguments[1]))
    config, n, when, kind, *sleeps = [*arguments, "any"] if len(arguments) == 3 else arguments
    arm(int(n), when, kind, signal.SIGSTOP if sleeps else signal.SIGKILL)
    return wiring.run_controller(Path(config))


def serve(config: Path) -> int:
    """Returns at the end of stdin."""
    for line in sys.stdin:
        n, when, kind = line.split()
        child = os.fork()
        if child == 0:
            _become(config, int(n), when, kind)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)
    return 0


def arm(n: int, when: str, kind: str, number: signal.Signals = signal.SIGKILL) -> None:
    """This process gets the signal at the n-th fenced transaction that makes a change of that kind."""
    original = Store.fenced
    left = n

    for name in {name for names in METHODS.values() for name in names}:
        setattr(Writer, name, _noting(name, getattr(Writer, name)))

    @contextlib.contextmanager
    def fenced(self: Store, lease: Lease) -> Iterator[Writer]:
        nonlocal left
        with original(self, lease) as writer:
            yield writer
            made: set[str] = getattr(writer, "_made", set())
            if kind == "any" or made & set(METHODS[kind]):
                left -= 1
                if left == 0 and when == "before":
                    _raise(number)
        if left == 0 and when == "after":
            left = -1
            _raise(number)

    Store.fenced = fenced  # type: ignore[method-assign]


def _noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noted(self: Writer, *arguments: Any, **options: Any) -> Any:
        self.__dict__.setdefault("_made", set()).add(name)
        return method(self, *arguments, **options)

    return noted


def _raise(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _become(config: Path, n: int, when: str, kind: str) -> NoReturn:
    status = 1
    try:
        state = config.parent / ".bleen"
        state.mkdir(mode=0o711, exist_ok=True)
        log = os.open(state / "controller.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        arm(n, when, kind)
        status = wiring.run_controller(config)
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
