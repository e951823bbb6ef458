"""The sample payments service: `python -m bleen.demo.payments`.

Reads PORT, HOST, ENVIRONMENT and VERSION, PAYMENTS_DB (the database that blue and green share) and PAYMENTS_FAULT
(`bleen.demo.faults`) from the environment. Exit status: 0 after SIGTERM, 2 for a wrong environment, 1 when it cannot serve.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bleen.demo.faults import HEALTH_PATH, READY_PATH, Fault, FaultyHandler, fault_of
from bleen.demo.http_server import Answer, HttpServer, Request
from bleen.demo.ledger import Ledger, Transfer, TransferRefused

STARTUP_PATH = "/api/v1/health/startup"
ACCOUNTS_PATH = "/api/v1/accounts"
TRANSFERS_PATH = "/api/v1/transfers"
CONSISTENCY_PATH = "/api/v1/ledger/consistency"
MAX_AMOUNT_CENTS = 10**12
MAX_KEY_LENGTH = 128


def main() -> int:
    try:
        settings = Settings.from_variables(os.environ)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if settings.fault.kind == "exit":
        sys.stderr.write("fatal: the settlement key is missing\n")
        return 1
    os.umask(0o077)
    try:
        asyncio.run(_serve(settings))
    except (OSError, sqlite3.Error) as error:
        sys.stderr.write(f"payments {settings.version} cannot serve: {error}\n")
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class Settings:
    host: str
    port: int  # 0: any free one, named in the first line on stderr
    environment: str
    version: str
    database: Path
    fault: Fault

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Settings:
        """What the environment variables say. Raises ValueError with the name of the one that is missing or wrong."""
        missing = [name for name in ("PORT", "PAYMENTS_DB") if not variables.get(name)]
        if missing:
            raise ValueError(f"set {' and '.join(missing)} in the environment")
        if not variables["PORT"].isdigit() or int(variables["PORT"]) > 65535:
            raise ValueError(f"PORT {variables['PORT']!r} is no port")
        version, environment = variables.get("VERSION", "0.0.0"), variables.get("ENVIRONMENT", "blue")
        if not (version + environment).isascii() or not (version + environment).isprintable():
            raise ValueError("VERSION and ENVIRONMENT go into headers: printable ASCII only")
        fault = fault_of(version, variables.get("PAYMENTS_FAULT", ""))
        host = variables.get("HOST") or "127.0.0.1"
        return cls(host, int(variables["PORT"]), environment, version, Path(variables["PAYMENTS_DB"]), fault)


async def _serve(settings: Settings) -> None:
    """The service answered requests until SIGTERM and ended in order."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if settings.fault.kind == "ignore-term" else stop.set)
    payments = Payments(settings)
    try:
        handler = payments.handle if settings.fault.kind == "none" else FaultyHandler(payments.handle, settings.fault)
        server = HttpServer(handler, {"X-Version": settings.version, "X-Environment": settings.environment})
        port = await server.start(settings.host, settings.port)
        sys.stderr.write(f"payments {settings.version} ({settings.environment}) listens on {settings.host}:{port}\n")
        await stop.wait()
        await server.stop()
    finally:
        payments.close()
    sys.stderr.write(f"payments {settings.version} ({settings.environment}) has ended\n")


class Payments:
    """The service's requests. Reads run where they arrive: in WAL mode nothing makes them wait.

    Writes have a thread of their own, because one that waits for the other environment's lock would stall everything else.
    """

    def __init__(self, settings: Settings) -> None:
        self._identity = {"version": settings.version, "environment": settings.environment}
        self._path = settings.database
        self._reading = Ledger(settings.database)
        self._reading.prepare()
        self._writing = Ledger(settings.database)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def handle(self, request: Request) -> Answer | asyncio.Future[Answer]:
        path, method = request.path, request.method
        if path == TRANSFERS_PATH:
            return self._transfer(request) if method == "POST" else _not_allowed()
        if method not in ("GET", "HEAD"):
            return _not_allowed()
        try:
            if path.startswith(f"{ACCOUNTS_PATH}/"):
                return self._account(path.rpartition("/")[2])
            if path == ACCOUNTS_PATH:
                return Answer(200, {"accounts": self._reading.accounts()})
            if path in (HEALTH_PATH, READY_PATH, STARTUP_PATH):
                return self._health(path)
            if path == CONSISTENCY_PATH:
                return asyncio.get_running_loop().run_in_executor(None, self._consistency)
        except sqlite3.Error as error:
            return _database_failed(request.path, error)
        return Answer(404, {"error": f"there is nothing at {path}"})

    def close(self) -> None:
        """Transfers that had begun are booked; the database is closed."""
        self._writer.shutdown()
        self._writing.close()
        self._reading.close()

    def _health(self, path: str) -> Answer:
        good = self._reading.reachable()
        status = {HEALTH_PATH: "healthy", READY_PATH: "ready", STARTUP_PATH: "started"}[path]
        checks = {"database": "ok" if good else "unreachable, or without its schema"}
        return Answer(200 if good else 503, {"status": status if good else "unhealthy", **self._identity, "checks": checks})

    def _account(self, account: str) -> Answer:
        found = self._reading.account(account)
        return Answer(404, {"error": f"there is no account {account}"}) if found is None else Answer(200, found)

    def _transfer(self, request: Request) -> Answer | asyncio.Future[Answer]:
        try:
            transfer = _parsed(request)
        except ValueError as error:
            return Answer(400, {"error": str(error)})
        return asyncio.get_running_loop().run_in_executor(self._writer, self._book, transfer)

    def _book(self, transfer: Transfer) -> Answer:
        try:
            booked = self._writing.book(transfer)
        except TransferRefused as refused:
            return Answer(refused.status, {"error": str(refused)})
        except sqlite3.Error as error:
            return _database_failed(TRANSFERS_PATH, error)
        body: dict[str, Any] = {"id": booked.id, "from": transfer.source, "to": transfer.target, "amount_cents": transfer.amount_cents}
        return Answer(201 if booked.new else 200, body)

    def _consistency(self) -> Answer:
        """On a connection of its own: an audit of the whole ledger holds up nobody."""
        try:
            ledger = Ledger(self._path)
            try:
                return Answer(200, ledger.consistency())
            finally:
                ledger.close()
        except sqlite3.Error as error:
            return _database_failed(CONSISTENCY_PATH, error)


def _parsed(request: Request) -> Transfer:
    """The transfer that the request asks for. Raises ValueError with what is wrong."""
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise ValueError("the body is no JSON") from error
    wanted = '{"from": ACCOUNT, "to": ACCOUNT, "amount_cents": a whole number above 0}'
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in ("from", "to")):
        raise ValueError(f"the body must be {wanted}")
    amount = body.get("amount_cents")
    if type(amount) is not int or not 0 < amount <= MAX_AMOUNT_CENTS:
        raise ValueError(f"the body must be {wanted}")
    if body["from"] == body["to"]:
        raise ValueError("a transfer needs two accounts")
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY_LENGTH:
        raise ValueError(f"Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters")
    return Transfer(body["from"], body["to"], amount, key)


def _not_allowed() -> Answer:
    return Answer(405, {"error": "this method does not apply here"})


def _database_failed(path: str, error: sqlite3.Error) -> Answer:
    sys.stderr.write(f"503 {path}: {error}\n")
    return Answer(503, {"error": "the database did not answer"})


if __name__ == "__main__":
    sys.exit(main())
