"""The store: fenced, leased, one active deployment, on a real SQLite file."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from bleen.errors import ConfigurationError, DeploymentActive, Fenced, LeaseHeld, StoreUnavailable
from bleen.model.deployment import CommandKind, Deployment, DeploymentStatus, Phase, PlannedStep, StepState
from bleen.model.environment import Environment
from bleen.model.release import Release
from bleen.model.traffic import CLOSED, TrafficSplit
from bleen.store.store import Store, open_store
from bleen.store.writer import Who

ALICE = Who("alice@host", "cli", "because")


@pytest.fixture
def store(tmp_path: Path):
    opened = open_store(tmp_path / "state", "payments")
    yield opened
    opened.close()


def a_deployment(name: str = "d1") -> Deployment:
    return Deployment(
        id=name,
        service="payments",
        release=Release("1.0.0", "abc123", "main", "digest"),
        candidate=Environment.GREEN,
        baseline=Environment.BLUE,
        baseline_release=Release("0.9.0"),
        plan=(
            PlannedStep("preflight", "preflight", Phase.PRE_DEPLOYMENT),
            PlannedStep("shift-10", "shift", Phase.TRAFFIC_SWITCHING, {"weight_pct": 10}),
        ),
        status=DeploymentStatus.RUNNING,
        paused=False,
        promote="",
        reason="submitted",
        cause="",
        submitted_by="alice@host",
        submitted_at=0.0,
        ended_at=0.0,
        active_s=0.0,
        options={"skip_tests": False},
        outcome={},
    )


def submit(store: Store, name: str = "d1") -> None:
    with store.write() as writer:
        writer.insert_deployment(a_deployment(name), {"service": "payments"})


def test_a_deployment_is_read_back_as_it_was_written(store: Store) -> None:
    submit(store)
    with store.read() as reader:
        found = reader.active()
        assert found is not None
        assert found.plan == a_deployment().plan
        assert found.release == a_deployment().release
        assert found.baseline_release == Release("0.9.0")
        assert found.submitted_at > 1_700_000_000
        assert reader.config("d1") == {"service": "payments"}


def test_a_second_active_deployment_is_refused_and_told_who_holds_the_first(store: Store) -> None:
    submit(store)
    with pytest.raises(DeploymentActive, match=r"d1 of 1\.0\.0 is running, submitted by alice@host"):
        submit(store, "d2")


def test_the_database_itself_refuses_a_second_active_deployment(store: Store, tmp_path: Path) -> None:
    submit(store)
    connection = sqlite3.connect(tmp_path / "state" / "store.db")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(deployment)") if row[1] not in ("number", "id")]
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"INSERT INTO deployment (id, {', '.join(columns)}) SELECT 'd2', {', '.join(columns)} FROM deployment")
    connection.close()


def test_an_ended_deployment_makes_room_for_the_next(store: Store) -> None:
    submit(store)
    with store.write() as writer:
        writer.set_status("d1", DeploymentStatus.ROLLED_BACK, reason="it failed", cause="error rates")
    submit(store, "d2")
    with store.read() as reader:
        assert [found.id for found in reader.history(5)] == ["d2", "d1"]
        ended = reader.deployment("d1")
        assert ended is not None
        assert (ended.cause, ended.ended_at > 0) == ("error rates", True)


def test_a_lease_is_refused_to_a_second_holder_and_given_when_the_first_is_known_to_be_gone(store: Store) -> None:
    first = store.take_lease("a", 10)
    with pytest.raises(LeaseHeld, match="a drives payments"):
        store.take_lease("b", 10)
    second = store.take_lease("b", 10, holder_is_gone=True)
    assert second.epoch == first.epoch + 1


def test_writes_under_an_overtaken_lease_are_refused_and_leave_nothing(store: Store) -> None:
    zombie = store.take_lease("a", 10)
    store.take_lease("b", 10, holder_is_gone=True)
    with pytest.raises(Fenced, match="epoch 1 of a was overtaken"), store.fenced(zombie) as writer:
        writer.set_route(zombie.epoch, TrafficSplit(50, 50))
    with pytest.raises(Fenced):
        store.renew_lease(zombie, 10)
    with store.read() as reader:
        assert reader.route().split == CLOSED


def test_an_expired_lease_writes_no_more(store: Store) -> None:
    lease = store.take_lease("a", 0.0)
    with pytest.raises(Fenced, match="has expired"), store.fenced(lease):
        pass
    assert store.take_lease("b", 10).epoch == 2


def test_a_lease_from_a_clock_that_jumped_back_counts_as_expired(store: Store) -> None:
    store.take_lease("a", 3600)
    assert store.take_lease("b", 10).epoch == 2


def test_a_command_fences_the_controller_in_the_same_transaction(store: Store) -> None:
    lease = store.take_lease("a", 10)
    submit(store)
    with store.write() as writer:
        writer.add_command("d1", CommandKind.ABORT, "", ALICE)
        writer.raise_epoch()
        writer.set_status("d1", DeploymentStatus.ROLLING_BACK, reason="abort", cause="command")
    with pytest.raises(Fenced), store.fenced(lease) as writer:
        writer.set_route(lease.epoch, TrafficSplit(75, 25))
    assert store.take_lease("a", 10).epoch == 3


def test_a_route_keeps_its_revision_until_it_changes(store: Store) -> None:
    lease = store.take_lease("a", 10)
    with store.fenced(lease) as writer:
        first = writer.set_route(lease.epoch, TrafficSplit(90, 10))
        again = writer.set_route(lease.epoch, TrafficSplit(90, 10))
        changed = writer.set_route(lease.epoch, TrafficSplit(100, 0))
    assert (first.revision, again.revision, changed.revision) == (1, 1, 2)


def test_the_journal_counts_attempts_and_keeps_what_was_noted(store: Store) -> None:
    submit(store)
    lease = store.take_lease("a", 10)
    with store.fenced(lease) as writer:
        assert writer.begin_step("d1", "shift-10", "do", lease.epoch) == 1
        writer.note_step("d1", "shift-10", {"since": 1.5})
        assert writer.begin_step("d1", "shift-10", "do", lease.epoch) == 2
    with store.read() as reader:
        (entry,) = reader.journal("d1")
    assert (entry.state, entry.attempt, entry.result) == (StepState.STARTED, 2, {"since": 1.5})


def test_events_are_read_by_cursor(store: Store) -> None:
    with store.write() as writer:
        for name in ("one", "two", "three"):
            writer.add_event(name, ALICE)
    with store.read() as reader:
        first = reader.events(0, limit=1)[0]
        assert [event.name for event in reader.events(first.seq)] == ["two", "three"]
        assert first.actor == "alice@host"


def test_the_store_keeps_its_identity_and_is_owner_only(tmp_path: Path) -> None:
    first = open_store(tmp_path / "state", "payments")
    identity = first.id
    first.close()
    second = open_store(tmp_path / "state", "payments")
    assert second.id == identity
    second.close()
    assert stat.S_IMODE((tmp_path / "state" / "store.db").stat().st_mode) == 0o600


def test_stores_opened_at_once_agree_on_one_identity(tmp_path: Path) -> None:
    found: list[str] = []

    def open_one() -> None:
        opened = open_store(tmp_path / "state", "payments")
        found.append(opened.id)
        opened.close()

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_store_of_another_schema_is_not_touched(tmp_path: Path) -> None:
    open_store(tmp_path / "state", "payments").close()
    connection = sqlite3.connect(tmp_path / "state" / "store.db")
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match="has schema 99"):
        open_store(tmp_path / "state", "payments")


def test_a_locked_store_says_so_and_names_the_file(store: Store, tmp_path: Path) -> None:
    blocker = sqlite3.connect(tmp_path / "state" / "store.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreUnavailable, match=r"store\.db did not take or give an answer: database is locked"):
            submit(store)
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made with a small tmpfs, which root may mount")
def test_a_full_disk_is_a_clear_error_and_nothing_is_half_written(tmp_path: Path) -> None:
    import subprocess

    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(state)], check=True)
    opened = None
    try:
        opened = open_store(state, "payments")
        with pytest.raises(StoreUnavailable, match="full"):
            for number in range(10_000):
                with opened.write() as writer:
                    writer.add_event("filled", ALICE, body={"number": number, "text": "x" * 1000})
        with opened.read() as reader:
            assert reader.active() is None
    finally:
        if opened is not None:
            opened.close()
        subprocess.run(["umount", str(state)], check=True)
