"""Watches from outside that traffic is right at every moment, whoever is being killed."""

from __future__ import annotations

import contextlib
import http.client
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.killers import pid_in
from tests.rig import Rig

EVERY_S = 0.01
DRIVEN_S = 6.0  # a controller that was left alone for so long has put right what was wrong when it came
NEVER_S = 40.0  # wrong for so long is wrong, whoever was killed meanwhile
SERVICE = "payments"

ROUTE_LOG = """
CREATE TABLE IF NOT EXISTS chaos_route (revision INTEGER PRIMARY KEY, green TEXT NOT NULL, epoch INTEGER NOT NULL, at REAL NOT NULL);
CREATE TRIGGER IF NOT EXISTS chaos_inserted AFTER INSERT ON route BEGIN
  INSERT INTO chaos_route VALUES (NEW.revision, NEW.blue || '/' || NEW.green, NEW.epoch, (julianday('now') - 2440587.5) * 86400.0); END;
CREATE TRIGGER IF NOT EXISTS chaos_updated AFTER UPDATE ON route WHEN OLD.revision != NEW.revision BEGIN
  INSERT INTO chaos_route VALUES (NEW.revision, NEW.blue || '/' || NEW.green, NEW.epoch, (julianday('now') - 2440587.5) * 86400.0); END;
"""


def log_routes(store: Path) -> None:
    """Every route that ever held in the store is remembered in a table of the test's own."""
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        connection.executescript(ROUTE_LOG)


def routes(store: Path) -> dict[int, str]:
    """All routes by revision, as blue/green."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as connection:
        return dict(connection.execute("SELECT revision, green FROM chaos_route ORDER BY revision"))


@dataclass
class Health:
    """When an environment answered its health check last, asked directly."""

    port: int
    ok_at: float = 0.0
    said: str = "not asked yet"

    def ask(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1.0)
        try:
            connection.request("GET", "/api/v1/health")
            answer = connection.getresponse()
            self.said = f"{answer.status} {answer.read(200)!r}"
            ok = answer.status == 200
        except (OSError, http.client.HTTPException) as error:
            self.said, ok = repr(error), False
        finally:
            connection.close()
        if ok:
            self.ok_at = time.monotonic()
        return ok


@dataclass
class Observer(threading.Thread):
    """Looks at flags, store and releases many times a second; what is wrong is in `wrong`."""

    rig: Rig
    wrong: list[str] = field(default_factory=list)
    samples: int = 0
    changes: int = 0
    unreadable: int = 0
    dying: bool = False  # the release under way may end at any moment, so that its weight may meet nobody for a while

    def __post_init__(self) -> None:
        super().__init__(name="observer", daemon=True)
        self._ending = threading.Event()
        self._health = {name: Health(self.rig.ports[name]) for name in ("blue", "green")}
        self._routes: dict[int, str] = {0: "0/0"}
        self._flags, self._revision = "", 0
        self._drifted_since = 0.0
        self._weighted_since = {"blue": 0.0, "green": 0.0}
        self._driver, self._driven_since = 0, 0.0
        self._told: set[str] = set()

    def __hash__(self) -> int:
        return id(self)

    def end(self) -> None:
        self._ending.set()
        self.join(timeout=10)

    def run(self) -> None:
        asking = [threading.Thread(target=self._keep_asking, args=(health,), daemon=True) for health in self._health.values()]
        for thread in asking:
            thread.start()
        connection = sqlite3.connect(f"file:{self.rig.state / 'store.db'}?mode=ro", uri=True, timeout=5)
        try:
            while not self._ending.wait(EVERY_S):
                try:
                    self._look(connection)
                except (sqlite3.Error, OSError):
                    self.unreadable += 1  # the folder is not there before the first deployment
        finally:
            connection.close()
        for thread in asking:
            thread.join()

    def _keep_asking(self, health: Health) -> None:
        while not self._ending.wait(0.1):
            health.ask()

    def _look(self, connection: sqlite3.Connection) -> None:
        flags = split_of(self.rig.flags())
        rows = connection.execute("SELECT revision, green FROM chaos_route WHERE revision > ?", (max(self._routes),)).fetchall()
        self._routes |= dict(rows)
        residents = dict(connection.execute("SELECT environment, wanted FROM environment WHERE service = ?", (SERVICE,)).fetchall())
        steady = split_of(self.rig.flags()) == flags
        self.samples += 1
        self._notice_driver()
        before, self._revision = self._revision, max(self._routes)
        if flags != self._flags:
            self._judge_change(flags, before)
        if steady:
            self._judge_state(flags, residents)

    def _notice_driver(self) -> None:
        pid = pid_in(self.rig, "controller")
        if pid != self._driver:
            self._driver, self._driven_since = pid, time.monotonic()

    def _judge_change(self, flags: str, revision_before: int) -> None:
        """The flags moved to a route of the store: the present one, or the one before it while that write was on its way."""
        self.changes += 1
        allowed = {self._routes[revision] for revision in range(max(0, revision_before - 1), self._revision + 1)}
        if flags not in allowed:
            self._tell(f"the flags moved from {self._flags or 'nothing'} to {flags}, but the store's routes were {sorted(allowed)}")
        now = time.monotonic()
        for name, weight in zip(("blue", "green"), flags.split("/"), strict=True):
            if weight == "0":
                self._weighted_since[name] = 0.0
            elif not self._weighted_since[name]:
                self._weighted_since[name] = now
                if not self._health[name].ask() and not self.dying:
                    self._tell(f"{name} got {weight} % although it does not answer: {self._health[name].said}")
        self._flags = flags

    def _judge_state(self, flags: str, residents: dict[str, str]) -> None:
        now = time.monotonic()
        self._drifted_since = 0.0 if flags == self._routes[self._revision] else self._drifted_since or now
        if self._drifted_since and self._too_long(self._drifted_since, now):
            self._tell(f"the flags are {flags}, the store's route {self._revision} is {self._routes[self._revision]}, and nobody mends it")
        for name, weight in zip(("blue", "green"), flags.split("/"), strict=True):
            if weight == "0":
                continue
            if residents.get(name) != "running":
                self._tell(f"{name} has {weight} %, but nothing should run there: {residents}")
            if self._too_long(max(self._weighted_since[name], self._health[name].ok_at), now):
                self._tell(f"{name} has {weight} %, and has not answered for long: {self._health[name].said}")

    def _too_long(self, since: float, now: float) -> bool:
        driven = self._driver and now - max(since, self._driven_since) > DRIVEN_S
        return bool(driven) or now - since > NEVER_S

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.wrong.append(what)


def split_of(flags: str) -> str:
    """w010 as 90/10 (blue/green), closed as 0/0."""
    return "0/0" if flags == "closed" else f"{100 - int(flags[1:])}/{int(flags[1:])}"
