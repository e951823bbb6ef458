"""A ledger in double entry on SQLite: every transfer is two entries that sum to zero, written in one transaction.

Blue and green share the file, so every rule holds in the database and none in the memory of one process.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSY_TIMEOUT_MS = 2000
OPEN_LIMIT_S = 5.0
ACCOUNTS = 100
OPENING_BALANCE_CENTS = 1_000_000
BANK = "bank"  # where the opening balances come from: the one account that may be negative

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    may_be_negative INTEGER NOT NULL DEFAULT 0,
    balance_cents INTEGER NOT NULL DEFAULT 0 CHECK (may_be_negative OR balance_cents >= 0)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    source TEXT NOT NULL REFERENCES accounts (id),
    target TEXT NOT NULL REFERENCES accounts (id),
    amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
    idempotency_key TEXT UNIQUE
);
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    transfer INTEGER NOT NULL REFERENCES transfers (id),
    account TEXT NOT NULL REFERENCES accounts (id),
    amount_cents INTEGER NOT NULL
);
"""


class TransferRefused(Exception):
    """The ledger is as it was; `status` is the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Transfer:
    source: str
    target: str
    amount_cents: int
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Booked:
    id: int
    new: bool  # False: the key was known, this is what it did the first time


class Ledger:
    """One connection to the ledger; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("PRAGMA foreign_keys = ON")

    def prepare(self) -> None:
        """The schema and the accounts are there, whoever made them; safe while another process does the same."""
        deadline = time.monotonic() + OPEN_LIMIT_S
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._create()
            except sqlite3.OperationalError as error:
                # The change to WAL answers "locked" at once while another process makes it: no busy timeout applies.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def book(self, transfer: Transfer) -> Booked:
        """The transfer is booked, or was before under the same key. Raises TransferRefused, sqlite3.Error."""
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        try:
            known = self._known(transfer)
            booked = Booked(known, new=False) if known is not None else Booked(self._write(transfer), new=True)
            execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                execute("ROLLBACK")
            raise
        return booked

    def account(self, account: str) -> dict[str, Any] | None:
        """The account's owner and balance, or None where there is no such account."""
        row = self._database.execute("SELECT id, owner, balance_cents FROM accounts WHERE id = ?", (account,)).fetchone()
        return None if row is None else {"id": row[0], "owner": row[1], "balance_cents": row[2]}

    def accounts(self) -> list[dict[str, Any]]:
        rows = self._database.execute("SELECT id, owner, balance_cents FROM accounts ORDER BY id")
        return [{"id": row[0], "owner": row[1], "balance_cents": row[2]} for row in rows]

    def consistency(self) -> dict[str, Any]:
        """What an auditor counts, on one snapshot: `consistent` is True when every sum is right."""
        execute = self._database.execute
        execute("BEGIN")
        try:
            entries, total = execute("SELECT count(*), coalesce(sum(amount_cents), 0) FROM entries").fetchone()
            (transfers,) = execute("SELECT count(*) FROM transfers").fetchone()
            (unbalanced,) = execute(
                "SELECT count(*) FROM (SELECT 1 FROM transfers LEFT JOIN entries ON entries.transfer = transfers.id"
                " GROUP BY transfers.id HAVING count(entries.id) <> 2 OR sum(entries.amount_cents) <> 0)"
            ).fetchone()
            (wrong,) = execute(
                "SELECT count(*) FROM accounts LEFT JOIN (SELECT account, sum(amount_cents) AS total FROM entries GROUP BY account)"
                " ON account = accounts.id WHERE balance_cents <> coalesce(total, 0)"
            ).fetchone()
        finally:
            execute("COMMIT")
        return {
            "consistent": total == 0 and unbalanced == 0 and wrong == 0 and entries == 2 * transfers,
            "transfers": transfers,
            "entries": entries,
            "sum_of_entries_cents": total,
            "unbalanced_transfers": unbalanced,
            "wrong_balances": wrong,
        }

    def reachable(self) -> bool:
        """True when the database answers and the schema is there."""
        try:
            return self._database.execute("SELECT 1 FROM accounts, (SELECT 1 FROM entries LIMIT 1) LIMIT 1").fetchone() is not None
        except sqlite3.Error:
            return False

    def close(self) -> None:
        self._database.close()

    def _create(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for statement in SCHEMA.split(";")[:-1]:
                self._database.execute(statement)
            if self.account(BANK) is None:
                self._open_accounts()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _open_accounts(self) -> None:
        self._database.execute("INSERT INTO accounts (id, owner, may_be_negative) VALUES (?, 'The bank', 1)", (BANK,))
        for number in range(1, ACCOUNTS + 1):
            self._database.execute("INSERT INTO accounts (id, owner) VALUES (?, ?)", (account_id(number), f"Customer {number}"))
            self._write(Transfer(BANK, account_id(number), OPENING_BALANCE_CENTS))

    def _known(self, transfer: Transfer) -> int | None:
        """The number under which the transfer's key was booked before. Raises TransferRefused when it was another transfer."""
        if transfer.idempotency_key is None:
            return None
        row = self._database.execute(
            "SELECT id, source, target, amount_cents FROM transfers WHERE idempotency_key = ?", (transfer.idempotency_key,)
        ).fetchone()
        if row is None:
            return None
        if row[1:] != (transfer.source, transfer.target, transfer.amount_cents):
            raise TransferRefused(409, "this idempotency key was used for another transfer")
        return int(row[0])

    def _write(self, transfer: Transfer) -> int:
        execute, amount = self._database.execute, transfer.amount_cents
        taken = execute(
            "UPDATE accounts SET balance_cents = balance_cents - ? WHERE id = ? AND (may_be_negative OR balance_cents >= ?)",
            (amount, transfer.source, amount),
        )
        if taken.rowcount == 0:
            if self.account(transfer.source) is None:
                raise TransferRefused(404, f"there is no account {transfer.source}")
            raise TransferRefused(422, "insufficient funds")
        given = execute("UPDATE accounts SET balance_cents = balance_cents + ? WHERE id = ?", (amount, transfer.target))
        if given.rowcount == 0:
            raise TransferRefused(404, f"there is no account {transfer.target}")
        number = execute(
            "INSERT INTO transfers (at, source, target, amount_cents, idempotency_key) VALUES (?, ?, ?, ?, ?)",
            (time.time(), transfer.source, transfer.target, amount, transfer.idempotency_key),
        ).lastrowid
        assert number is not None  # noqa: S101 - an INSERT that raised nothing has a row; tells mypy so
        execute(
            "INSERT INTO entries (transfer, account, amount_cents) VALUES (?, ?, ?), (?, ?, ?)",
            (number, transfer.source, -amount, number, transfer.target, amount),
        )
        return number


def account_id(number: int) -> str:
    """The id of the customer account with this number, 1 to ACCOUNTS."""
    return f"acc-{number:03}"
