"""Deployments while their controller is killed again and again: `python -m tests.chaos.run [--kills 100] [--seed N]`.

Half of the kills come at any time, half at the controller's own transactions, before and after each kind of them. What must
hold is checked throughout (observer.py) and after each deployment (judgement.py). The last line is one JSON object; the exit
status is 1 when anything was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bleen import wiring
from bleen.config.load import load
from bleen.deployment.plan import DeployRequest
from bleen.errors import Refused
from bleen.manager import BlueGreenDeploymentManager, DeploymentResult
from bleen.model.deployment import Deployment
from bleen.model.release import Release
from bleen.store.store import open_store
from bleen.store.writer import Who
from tests.chaos.judgement import Violations, evidence, judge_effects, judge_processes, judge_steps
from tests.chaos.killers import JournalKiller, RandomKiller
from tests.chaos.observer import Observer, log_routes, routes
from tests.rig import Load, Rig, load_on, rig_in, until

LIMIT_S = 90.0  # for one deployment, with all the kills that fall into it
RATE = 150
CONFIG: dict[str, Any] = {
    "deployment": {"weights": [20, 60, 100], "step": {"dwell": "200ms", "min_requests": 20}, "bake": "400ms", "rollback_window": "1h"},
    "health": {"timeout": "4s"},
    "controller": {"lease": "4s"},
}
# What goes wrong with a release, in turn: most are good, because only those go all the way.
FAULTS = ("none", "fail:0.5", "none", "die:15", "none", "none", "exit", "none", "unready")
COMMANDS = ("", "", "", "abort", "pause", "promote", "full", "rollback")

Killer = JournalKiller | RandomKiller


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description="Kills the controller, and checks that nothing is lost.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args(arguments)
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(10**6)
    with rig_in(Path(tempfile.mkdtemp(prefix="bleen-chaos-")), **CONFIG) as rig:
        chaos = Chaos(rig, random.Random(seed))  # noqa: S311 - chance that can be repeated, no secret
        say(f"seed {seed}, {chosen.kills} kills, in {rig.folder}")
        figures = asyncio.run(chaos.run(chosen.kills))
    print(json.dumps(figures), flush=True)
    return 1 if any(figures[name] for name in ("wrong_routes", "double_effects", "orphans", "unfinished")) else 0


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Unfinished(Exception):
    """A deployment did not end: nothing can follow it."""


@dataclass
class Chaos:
    """One service under kills."""

    rig: Rig
    chance: random.Random
    violations: Violations = field(default_factory=Violations)
    deployments: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    failed_while_good: int = 0  # requests that failed while a good release was deployed
    load: Load | None = None

    async def run(self, kills: int) -> dict[str, Any]:
        """The kills were made and everything was judged; the figures of it."""
        began = time.monotonic()
        self.store = open_store(self.rig.state, "payments")
        log_routes(self.rig.state / "store.db")
        self.observer = Observer(self.rig)
        self.observer.start()
        done = 0
        with ExitStack() as stack:
            stack.callback(self.store.close)
            stack.callback(self.observer.end)
            with contextlib.suppress(Unfinished):
                for killer in (JournalKiller(self.rig, self.chance, kills // 2), RandomKiller(self.rig, self.chance, kills - kills // 2)):
                    await self._under(killer, stack)
                    done += killer.kills
                wiring.start_controller(self.rig.config)
                await self._deploy("none", "", None, stack)  # nobody is killed any more: all is as if nobody ever was
            failed = self.load.stop()["failed"] if self.load else 0
        figures: dict[str, Any] = {"suite": "chaos", "kills": done, "deployments": self.deployments}
        figures |= {name: len(getattr(self.violations, name)) for name in ("wrong_routes", "double_effects", "orphans", "unfinished")}
        say(
            f"took {time.monotonic() - began:.0f} s; outcomes {self.outcomes}; {self.observer.samples} looks at the flags, "
            f"{self.observer.changes} changes, {self.failed_while_good} requests failed while a good release was deployed"
        )
        return figures | {"failed_requests": failed}

    async def _under(self, killer: Killer, stack: ExitStack) -> None:
        """Deployments follow one another until the killer has had enough."""
        if isinstance(killer, RandomKiller):
            wiring.start_controller(self.rig.config)
        killer.start()
        stack.callback(killer.end)
        number = 0
        while not killer.done:
            if not killer.is_alive():
                raise RuntimeError(f"the {killer.name} has failed; what it said stands above")
            fault = FAULTS[number % len(FAULTS)]
            command = self.chance.choice(COMMANDS) if fault == "none" else self.chance.choice(("", "", "pause", "abort"))
            await self._deploy(fault, command if self.deployments else "", killer, stack)
            number += 1
        killer.end()
        say(f"{killer.name}: {killer.kills} kills {killer.by_kind or 'at any time'}")

    async def _deploy(self, fault: str, command: str, killer: Killer | None, stack: ExitStack) -> None:
        self.deployments += 1
        version, began, kills = f"4.{self.deployments}.0", time.monotonic(), killer.kills if killer else 0
        self.rig.write(runtime={"variables": {"PAYMENTS_DB": str(self.rig.folder / "payments.db"), "PAYMENTS_FAULT": fault}})
        self.observer.dying = fault.startswith("die")
        failed, revision = self._failed(), max(routes(self.rig.state / "store.db"), default=0)
        manager = self._manager(guarded=not isinstance(killer, JournalKiller))
        try:
            submitted = await manager.submit(DeployRequest(Release(version)))
            assert isinstance(submitted, Deployment)
            accepted = await self._command(manager, submitted, command)
            ended = await self._end(manager, submitted)
            if command == "rollback" and ended.status.value == "promoted":
                accepted = await _tried(manager.rollback)
                ended = await self._end(manager, submitted)
        finally:
            await manager.close()
        await self._judge(ended, fault, command if accepted else "", revision, killer)
        if self.load is None:
            self.load = stack.enter_context(load_on(self.rig, RATE, seconds=3600))
        await asyncio.sleep(0.5)  # the client's next report holds the last of it
        failed = self._failed() - failed
        self.failed_while_good += failed if fault == "none" else 0
        say(
            f"{version} {fault:8} {command or '-':8} {ended.status.value:11} {time.monotonic() - began:5.1f} s, "
            f"{(killer.kills if killer else 0) - kills} kills, {failed} failed requests: {ended.reason.splitlines()[0][:110]}"
        )

    async def _command(self, manager: BlueGreenDeploymentManager, deployment: Deployment, command: str) -> bool:
        """What a person asks for meanwhile, at any time. True when it was accepted."""
        orders: dict[str, Callable[[], Awaitable[Any]]] = {
            "abort": manager.abort,
            "pause": manager.pause,
            "promote": manager.promote,
            "full": lambda: manager.promote(full=True),
        }
        if command not in orders:
            return False
        await asyncio.sleep(self.chance.random() * 3)
        if command in ("promote", "full"):  # refused before the first weight
            with contextlib.suppress(AssertionError):
                await until(self._takes_traffic, 10)
        accepted = await _tried(orders[command])
        if command == "pause":
            await asyncio.sleep(self.chance.random())
            await _tried(manager.resume)
        return accepted

    def _takes_traffic(self) -> bool:
        with self.store.read() as reader:
            return not reader.route().split.holder()

    async def _end(self, manager: BlueGreenDeploymentManager, deployment: Deployment) -> Deployment:
        """Waited for as `bleen deploy` does, who starts a controller when none is left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                await manager.wait(deployment.id)
        with self.store.read() as reader:
            found = reader.deployment(deployment.id)
        if found is None or found.status.active:
            self._violated("unfinished", [f"{deployment.id} is active after {LIMIT_S:.0f} s: {found}"], deployment.id)
            raise Unfinished
        return found

    async def _judge(self, ended: Deployment, fault: str, command: str, revision: int, killer: Killer | None) -> None:
        """Everything that must hold now does, or is told with its evidence."""
        self.outcomes[ended.status.value] = self.outcomes.get(ended.status.value, 0) + 1
        right = "promoted" if fault == "none" and command not in ("abort", "rollback") else "rolled_back"
        wrong = [f"{ended.id} with fault {fault!r} after {command!r} is {ended.status}, not {right}: {ended.reason}"]
        self._violated("unfinished", wrong if ended.status.value != right else [], ended.id)
        self._violated("unfinished", judge_steps(self.store, ended), ended.id)
        self._violated("double_effects", judge_effects(self.rig, self.store, ended, revision), ended.id)
        ours = {os.getpid()} | (killer.pids if killer else set()) | ({self.load.client.pid} if self.load else set())
        orphans = await judge_processes(self.rig, self.store, ours=ours, guarded=not isinstance(killer, JournalKiller))
        self._violated("orphans", orphans, ended.id)
        wrong, self.observer.wrong = self.observer.wrong, []
        wrong += [] if self.observer.is_alive() else ["nobody watches the flags any more; why stands above"]
        self._violated("wrong_routes", wrong, ended.id)

    def _violated(self, kind: str, said: list[str], deployment: str) -> None:
        for sentence in said:
            say(f"VIOLATION {kind}: {sentence}\n{evidence(self.rig, self.store, deployment)}")
        getattr(self.violations, kind).extend(said)

    def _failed(self) -> int:
        return int(self.load.report()["failed"]) if self.load else 0

    def _manager(self, *, guarded: bool) -> BlueGreenDeploymentManager:
        """A manager as the command line has it; where the killer starts the controllers itself, it starts none."""
        loaded = load(self.rig.config, os.environ)
        store = open_store(loaded.state_dir, loaded.config.service)
        start = (lambda: wiring.start_controller(self.rig.config)) if guarded else (lambda: None)
        ports = wiring.wire(wiring.Site(loaded.path, loaded.state_dir, store.id), loaded.config)
        return BlueGreenDeploymentManager(loaded, store, ports, Who("chaos", "test"), start)


async def _tried(order: Callable[[], Awaitable[Any]]) -> bool:
    """True when the order was taken; False when it came too late."""
    try:
        async with asyncio.timeout(LIMIT_S):
            result = await order()
    except Refused as error:
        say(f"  refused: {error.message}")
        return False
    return not isinstance(result, DeploymentResult) or result.outcome == "rolled_back"


if __name__ == "__main__":
    sys.exit(main())
