"""What must be true of a deployment once it has ended, and of everything that runs then."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from dataclasses import dataclass, field
from typing import Any

import psutil

from bleen.model.deployment import Deployment, StepState
from bleen.store.reader import Reader
from bleen.store.store import Store
from tests.chaos.observer import routes
from tests.rig import Rig, until

SETTLE_S = 25.0
WORKERS = 2  # of the embedded nginx, by default


@dataclass
class Violations:
    """Sentences by kind."""

    wrong_routes: list[str] = field(default_factory=list)
    double_effects: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [f"{kind}: {said}" for kind in ("wrong_routes", "double_effects", "orphans", "unfinished") for said in getattr(self, kind)]


def judge_steps(store: Store, deployment: Deployment) -> list[str]:
    """A promoted deployment has every step done, a rolled back one has every begun step undone."""
    with store.read() as reader:
        journal = reader.journal(deployment.id)
    done = {entry.step for entry in journal if entry.kind == "do" and entry.state is StepState.DONE}
    begun = {entry.step for entry in journal if entry.kind == "do"}
    undone = {entry.step for entry in journal if entry.kind == "undo" and entry.state is StepState.DONE}
    status = deployment.status.value
    if status == "promoted" and (missing := [step.name for step in deployment.plan if step.name not in done]):
        return [f"{deployment.id} is promoted, but not done: {missing}"]
    if status == "rolled_back" and (missing := sorted(begun - undone)):
        return [f"{deployment.id} is rolled back, but not undone: {missing}"]
    return []


def judge_effects(rig: Rig, store: Store, deployment: Deployment, revision_before: int) -> list[str]:
    """The release was started once, the deployment ended once, and its weights only rose, until they went back once."""
    with store.read() as reader:
        events = reader.events(0, deployment.id, limit=100_000)
        restarts = _restarts(reader, deployment.release.version)
    names = [event.name for event in events]
    wrong = []
    starts = _starts(rig, deployment.candidate.value, deployment.release.version)
    if starts > 1 + restarts:
        wrong.append(f"{deployment.release.version} was started {starts} times in {deployment.candidate}, {restarts} restarts are recorded")
    rollbacks = names.count("rollback.ordered")
    ends = names.count("deployment.ended")
    if ends not in ({1, 2} if "command.rollback" in names or rollbacks else {1}):
        wrong.append(f"{deployment.id} ended {ends} times")
    if rollbacks > 1:
        wrong.append(f"{deployment.id} was ordered back {rollbacks} times")
    for step in {str(event.body["step"]) for event in events if event.name == "step.done"}:
        times = sum(event.name == "step.done" and event.body["step"] == step for event in events)
        if times > 1:
            wrong.append(f"step {step} of {deployment.id} was done {times} times")
    moved = [split for revision, split in routes(rig.state / "store.db").items() if revision > revision_before]
    if said := _not_a_ladder(deployment, moved):
        wrong.append(said)
    return wrong


async def judge_processes(rig: Rig, store: Store, *, ours: set[int], guarded: bool) -> list[str]:
    """Within a while exactly what the store wants runs: its releases, one nginx, and one guardian with one controller."""
    try:
        await until(lambda: not _surplus(rig, store, ours, guarded=guarded), SETTLE_S)
    except AssertionError:
        return _surplus(rig, store, ours, guarded=guarded)
    return []


def _surplus(rig: Rig, store: Store, ours: set[int], *, guarded: bool) -> list[str]:
    with store.read() as reader:
        residents = reader.residents()
    wanted = {str(environment): resident.release.version for environment, resident in residents.items() if resident.wanted}
    runs: dict[str, list[tuple[Any, ...]]] = {"release": [], "nginx": [], "worker": [], "guardian": [], "controller": [], "other": []}
    for process in rig.processes():
        if process.pid in ours:
            continue
        with contextlib.suppress(psutil.Error):
            kind, about = _kind(process)
            runs[kind].append((process.pid, *about))
    found = []
    if sorted(about[1:] for about in runs["release"]) != sorted(wanted.items()):
        found.append(f"the store wants {wanted}, and {runs['release']} run")
    expected = {"nginx": 1, "worker": WORKERS, "guardian": int(guarded), "controller": 1, "other": 0}
    found += [f"{len(runs[kind])} of {kind} run, not {count}: {runs[kind]}" for kind, count in expected.items() if len(runs[kind]) != count]
    return found


def _kind(process: psutil.Process) -> tuple[str, tuple[str, ...]]:
    command = " ".join(process.cmdline())
    if "bleen.demo.payments" in command:
        variables = process.environ()
        return "release", (variables.get("ENVIRONMENT", ""), variables.get("VERSION", ""))
    for kind, sign in (
        ("nginx", "nginx: master process"),
        ("worker", "nginx: worker process"),
        ("guardian", "deployment/guardian.py"),
        ("controller", "-m bleen.wiring"),
        ("controller", "tests.chaos.killed_controller"),
    ):
        if sign in command:
            return kind, ()
    return "other", (command[:200],)


def _starts(rig: Rig, environment: str, version: str) -> int:
    """How often a process of that version came up, by what the release itself wrote."""
    sign = re.compile(rf"^payments {re.escape(version)} \({environment}\) listens", re.MULTILINE)
    logs = (rig.state / "run").glob(f"{environment}.log*")
    return sum(len(sign.findall(log.read_text(errors="replace"))) for log in logs)


def _restarts(reader: Reader, version: str) -> int:
    return sum(event.name == "release.restarted" and event.body["version"] == version for event in reader.events(0, limit=100_000))


def _not_a_ladder(deployment: Deployment, moved: list[str]) -> str:
    """The routes are the plan's weights in order (some may be left out), then at most one way back."""
    candidate, baseline = deployment.candidate.value, deployment.baseline
    place = 0 if candidate == "blue" else 1
    weights = [int(split.split("/")[place]) for split in moved]
    planned = [int(step.arguments["weight_pct"]) for step in deployment.plan if step.kind == "shift"]
    back = weights and weights[-1] == 0
    rising = weights[:-1] if back else weights
    closed_again = baseline is None and back and moved[-1] == "0/0"
    right = all(weight in planned for weight in rising) and rising == sorted(set(rising))
    right = right and (not back or baseline is not None or closed_again)
    ended_right = {"promoted": weights[-1:] == [100], "rolled_back": not rising or bool(back)}.get(deployment.status.value, True)
    return "" if right and ended_right else f"{deployment.id} ({deployment.status}) moved the routes {moved}, planned were {planned}"


def evidence(rig: Rig, store: Store, deployment_id: str) -> str:
    """Everything that a person needs to understand a violation."""
    with store.read() as reader:
        events, journal, deployment = reader.events(0, limit=100_000)[-80:], reader.journal(deployment_id), reader.deployment(deployment_id)
        residents, route = reader.residents(), reader.route()
    lines = [f"deployment: {deployment}", f"route: {route}", f"residents: {list(residents.values())}", "events:"]
    lines += [f"  {event.at:.3f} {event.name} {event.actor} {event.deployment} {event.body} {event.reason}" for event in events]
    lines += ["journal:"]
    lines += [f"  {entry.step} {entry.kind} {entry.state} x{entry.attempt} epoch {entry.epoch} {entry.result}" for entry in journal]
    with contextlib.suppress(sqlite3.Error):
        lines += [f"routes: {routes(rig.state / 'store.db')}"]
    lines += ["processes:"]
    for process in rig.processes():
        with contextlib.suppress(psutil.Error):
            lines += [f"  {process.pid} {process.ppid()} {process.status()} {' '.join(process.cmdline())[:160]}"]
    for log in ("controller.log", "run/blue.log", "run/green.log"):
        with contextlib.suppress(OSError):
            lines += [f"{log}:"] + [f"  {line}" for line in (rig.state / log).read_text(errors="replace").splitlines()[-40:]]
    return "\n".join(lines)
