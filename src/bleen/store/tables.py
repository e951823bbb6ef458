"""The tables, and the settings that make SQLite keep what it was told."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

SCHEMA_VERSION = 1
WAL_LIMIT_S = 3.0

metadata = sa.MetaData()

meta = sa.Table("meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),  # "" when nobody holds it
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)

route = sa.Table(
    "route",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("blue", sa.Integer, nullable=False),
    sa.Column("green", sa.Integer, nullable=False),
)

environment = sa.Table(
    "environment",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("environment", sa.Text, primary_key=True),
    sa.Column("release", sa.JSON, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),  # the token that its runtime was given
    sa.Column("wanted", sa.Text, nullable=False),  # "running" or "stopped"
    sa.Column("adopted", sa.Boolean, nullable=False),  # somebody else started it: never restarted, never stopped by bleen
    sa.Column("retire_at", sa.Float, nullable=False),  # 0: not to be retired
)

deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("release", sa.JSON, nullable=False),
    sa.Column("candidate", sa.Text, nullable=False),
    sa.Column("baseline", sa.Text),
    sa.Column("baseline_release", sa.JSON),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),  # as it was when submitted; secrets are references
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("promote", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("submitted_by", sa.Text, nullable=False),
    sa.Column("submitted_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("active_s", sa.Float, nullable=False),
    sa.Column("paused_s", sa.Float, nullable=False),
    sa.Column("rollback_s", sa.Float, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("outcome", sa.JSON, nullable=False),
)
# One active deployment a service: the second insert fails, whoever is quicker.
sa.Index(
    "one_active_deployment",
    deployment.c.service,
    unique=True,
    sqlite_where=deployment.c.status.in_(["running", "frozen", "rolling_back"]),
    postgresql_where=deployment.c.status.in_(["running", "frozen", "rolling_back"]),
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("deployment", sa.Text, primary_key=True),
    sa.Column("step", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),  # "do" or "undo"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
)

command = sa.Table(
    "command",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("argument", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

applied = sa.Table(
    "applied",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("proxy", sa.Text, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)


def database_now(dialect: str) -> sa.ColumnElement[float]:
    """The database's clock as seconds since the epoch: the one clock that all controllers of a store share."""
    if dialect == "sqlite":
        return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Float)
    return sa.literal_column("extract(epoch from clock_timestamp())", sa.Float)


def configure_sqlite(engine: sa.Engine) -> None:
    """Every connection is WAL, synchronous=FULL, and a write transaction takes its lock when it begins."""

    @sa_event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        _switch_to_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa_event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        immediate = connection.get_execution_options().get("bleen_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """The database is in WAL mode. Two that make it at once are in each other's way, and SQLite does not wait for that lock."""
    deadline = time.monotonic() + WAL_LIMIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
