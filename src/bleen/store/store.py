"""The store: fenced transactions over SQLite, and the lease that gives the right to make them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from bleen.errors import ConfigurationError, Fenced, LeaseHeld, StoreUnavailable
from bleen.model.deployment import Lease
from bleen.store import tables
from bleen.store.reader import Reader
from bleen.store.writer import Writer

T = TypeVar("T")

BUSY_TIMEOUT_S = 3.0  # under a third of the shortest usual lease: a blocked thread cannot be cancelled


class Store:
    """One service's part of the store. Blocking; `run` moves a call into a thread of its own."""

    def __init__(self, engine: sa.Engine, service: str) -> None:
        self._engine = engine
        self._service = service
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store")
        self.id = self._prepare()

    async def run(self, call: Callable[[], T]) -> T:
        """The blocking `call` ran in one of the store's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Answers as of one moment. Raises StoreUnavailable."""
        with self._translated(), self._engine.begin() as connection:
            yield Reader(connection, self._service)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """An unfenced transaction: for people's commands, which must check the state in it. Raises StoreUnavailable."""
        with self._translated(), self._engine.connect().execution_options(bleen_write=True) as connection, connection.begin():
            yield Writer(connection, self._service)

    @contextmanager
    def fenced(self, lease: Lease) -> Iterator[Writer]:
        """A transaction of the controller: holds only while the lease is ours. Raises Fenced, StoreUnavailable."""
        with self._translated(), self._engine.connect().execution_options(bleen_write=True) as connection, connection.begin():
            _check(connection, lease)
            yield Writer(connection, self._service)

    def take_lease(self, holder: str, ttl_s: float, *, holder_is_gone: bool = False) -> Lease:
        """The lease is ours under a new epoch. Raises LeaseHeld while another holder's has not expired.

        `holder_is_gone`: the lock file beside the store was free, so the last holder on this host is dead.
        """
        held = tables.lease
        with self._translated(), self._engine.connect().execution_options(bleen_write=True) as connection, connection.begin():
            now = _now(connection)
            row = connection.execute(sa.select(held).where(held.c.service == self._service)).first()
            if row is None:
                connection.execute(sa.insert(held).values(service=self._service, holder=holder, epoch=1, expires=now + ttl_s))
                return Lease(self._service, holder, 1)
            # A clock that jumped back would make a lease immortal: one that lasts longer than its time to live has expired.
            expired = row.expires <= now or row.expires > now + ttl_s
            if row.holder not in ("", holder) and not expired and not holder_is_gone:
                raise LeaseHeld(f"{row.holder} drives {self._service} (epoch {row.epoch}, {row.expires - now:.1f} s left)")
            values = {"holder": holder, "epoch": row.epoch + 1, "expires": now + ttl_s}
            connection.execute(sa.update(held).where(held.c.service == self._service).values(values))
            return Lease(self._service, holder, row.epoch + 1)

    def renew_lease(self, lease: Lease, ttl_s: float) -> None:
        """The lease lasts `ttl_s` from now. Raises Fenced when it is not ours any more."""
        held = tables.lease
        with self._translated(), self._engine.connect().execution_options(bleen_write=True) as connection, connection.begin():
            _check(connection, lease)
            values = {"expires": _now(connection) + ttl_s}
            connection.execute(sa.update(held).where(held.c.service == self._service).values(values))

    def release_lease(self, lease: Lease) -> None:
        """Nobody holds the lease, if it was ours."""
        held = tables.lease
        ours = (held.c.service == lease.service) & (held.c.holder == lease.holder) & (held.c.epoch == lease.epoch)
        with self._translated(), self._engine.connect().execution_options(bleen_write=True) as connection, connection.begin():
            connection.execute(sa.update(held).where(ours).values(holder="", expires=0.0))

    def close(self) -> None:
        """Connections and threads are gone; calls that were under way have ended."""
        self._threads.shutdown(wait=True)
        self._engine.dispose()

    def _prepare(self) -> str:
        with self._translated():
            return self._read_identity() or self._create()

    def _read_identity(self) -> str:
        with self._engine.begin() as connection:
            if not sa.inspect(connection).has_table("meta"):
                return ""
            found: dict[str, str] = {row.key: row.value for row in connection.execute(sa.select(tables.meta))}
        version = int(found.get("schema_version", 0))
        if version and version != tables.SCHEMA_VERSION:
            raise ConfigurationError(
                f"the store {self._engine.url.database} has schema {version}, this bleen knows {tables.SCHEMA_VERSION}",
                next_command="use the version of bleen that made it, or another state folder",
            )
        return found.get("store_id", "")

    def _create(self) -> str:
        with self._engine.connect().execution_options(bleen_write=True) as connection, connection.begin():
            tables.metadata.create_all(connection)
            known = connection.execute(sa.select(tables.meta.c.value).where(tables.meta.c.key == "store_id")).scalar_one_or_none()
            if known:  # another process was quicker
                return str(known)
            store_id = uuid.uuid4().hex
            rows = [{"key": "store_id", "value": store_id}, {"key": "schema_version", "value": str(tables.SCHEMA_VERSION)}]
            connection.execute(sa.insert(tables.meta), rows)
            return store_id

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            where = self._engine.url.database or self._engine.dialect.name
            raise StoreUnavailable(
                f"the store {where} did not take or give an answer: {error.orig}; traffic is as it was",
                next_command=f"check that {where} is writable, unlocked, and that its disk has room",
            ) from error


def open_store(folder: Path, service: str) -> Store:
    """The SQLite store in `folder` (made owner-only where it is missing). Raises StoreUnavailable, ConfigurationError."""
    path = folder / "store.db"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)  # traversable: the proxy's workers read the flag folder below it
        path.touch(mode=0o600)
    except OSError as error:
        raise StoreUnavailable(f"the state folder {folder} cannot be written: {error.strerror}", next_command=f"ls -ld {folder}") from error
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})
    tables.configure_sqlite(engine)
    return Store(engine, service)


def _now(connection: sa.Connection) -> float:
    return float(connection.execute(sa.select(tables.database_now(connection.dialect.name))).scalar_one())


def _check(connection: sa.Connection, lease: Lease) -> None:
    held = tables.lease
    row = connection.execute(sa.select(held).where(held.c.service == lease.service)).first()
    if row is None or row.holder != lease.holder or row.epoch != lease.epoch:
        now_held = f"epoch {row.epoch} by {row.holder or 'nobody'}" if row else "nothing"
        raise Fenced(f"epoch {lease.epoch} of {lease.holder} was overtaken: the store has {now_held}")
    if row.expires <= _now(connection):
        raise Fenced(f"the lease of {lease.holder} (epoch {lease.epoch}) has expired")
