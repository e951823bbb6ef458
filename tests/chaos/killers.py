"""Those who kill the controller, and see to it that there is a next one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from bleen import wiring
from tests.chaos.killed_controller import KINDS
from tests.rig import Rig

ROOT = Path(__file__).parents[2]
WHEN = ("before", "after")
NEVER = 10**9
LONGEST_LIFE_S = 2.2
KILLS_PER_GUARDIAN = 4  # then the guardian dies with its controller: it would wait longer and longer for a controller that keeps dying


class JournalKiller(threading.Thread):
    """Controllers that die at their n-th transaction of each kind, one after another; beyond the quota one that lives."""

    def __init__(self, rig: Rig, chance: random.Random, quota: int) -> None:
        super().__init__(name="journal-killer", daemon=True)
        self._chance = chance
        self._targets = [(kind, when) for kind in KINDS for when in WHEN]
        self.quota, self.kills = quota, 0
        self.by_kind: dict[str, int] = {}
        self.current = 0
        self._ending = threading.Event()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.killed_controller", "--serve", str(rig.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    @property
    def pids(self) -> set[int]:
        """Processes that are the test's own."""
        return {self._server.pid}

    @property
    def done(self) -> bool:
        return self.kills >= self.quota

    def run(self) -> None:
        assert self._server.stdin
        assert self._server.stdout
        rounds: list[tuple[str, str]] = []
        while not self._ending.is_set():
            if not rounds:
                rounds = self._chance.sample(self._targets, len(self._targets))
            kind, when = rounds.pop()
            n = NEVER if self.done else self._chance.randint(1, 12 if kind == "any" else 3)
            if self._live(self._server.stdin, self._server.stdout, f"{n} {when} {kind}") == -signal.SIGKILL and not self._ending.is_set():
                self.kills += 1
                self.by_kind[f"{kind} {when}"] = self.by_kind.get(f"{kind} {when}", 0) + 1
        with contextlib.suppress(OSError):
            self._server.stdin.close()

    def end(self) -> None:
        """No controller of this killer lives."""
        self._ending.set()
        if self.current:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.current, signal.SIGKILL)
        self.join(timeout=20)
        self._server.kill()
        self._server.wait()

    def _live(self, to: IO[str], answers: IO[str], order: str) -> int:
        """A controller lived; its exit status."""
        to.write(f"{order}\n")
        to.flush()
        self.current = int(answers.readline() or 0)
        ended = answers.readline().split()
        self.current = 0
        return int(ended[1]) if ended else 0


class RandomKiller(threading.Thread):
    """Kills whichever controller drives, at any time, every few times together with its guardian."""

    def __init__(self, rig: Rig, chance: random.Random, quota: int) -> None:
        super().__init__(name="random-killer", daemon=True)
        self._rig = rig
        self._chance = chance
        self.quota, self.kills = quota, 0
        self._ending = threading.Event()
        self.by_kind: dict[str, int] = {}
        self.pids: set[int] = set()

    @property
    def done(self) -> bool:
        return self.kills >= self.quota

    def run(self) -> None:
        while not self.done and not self._ending.is_set():
            pid = pid_in(self._rig, "controller")
            if not pid:
                self._ending.wait(0.02)
                continue
            self._ending.wait(self._chance.choice((0.3, LONGEST_LIFE_S)) * self._chance.random())
            if self._ending.is_set():
                return
            with_guardian = self.kills % KILLS_PER_GUARDIAN == KILLS_PER_GUARDIAN - 1
            victims = [("guardian", pid_in(self._rig, "guardian"))] if with_guardian else []
            victims.append(("controller", pid))
            for _, victim in victims:
                if victim:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
            self.kills += 1
            deadline = time.monotonic() + 5
            while any(victim and pid_in(self._rig, name) == victim for name, victim in victims) and time.monotonic() < deadline:
                self._ending.wait(0.005)
            if with_guardian:
                wiring.start_controller(self._rig.config)  # as the next command of a person would

    def end(self) -> None:
        """Nobody is killed any more."""
        self._ending.set()
        self.join(timeout=20)


def pid_in(rig: Rig, name: str) -> int:
    """The living process that wrote its number into that lock file; 0 when there is none.

    The lock itself is not touched: that would hinder those who take it.
    """
    try:
        pid = int((rig.state / f"{name}.lock").read_text() or 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" else pid
