"""The load client: `python -m bleen.demo.load --url http://127.0.0.1:8080 --connections 50 --rate 600 --seconds 60 --report FILE`.

Sends a mixture of account reads and transfers at a steady rate, over loopback only, and never tries a request again: what
fails is a failure of somebody's payment. Exit status: 0 after --seconds or SIGTERM, 2 for wrong options,
1 when the report cannot be written.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bleen.demo.ledger import ACCOUNTS, account_id
from bleen.demo.load_report import Record, write_report
from bleen.demo.load_user import Ask, Target, User

TICK_S = 0.005
REPORT_EVERY_S = 0.2
TRANSFER_SHARE = 0.2
LARGEST_TRANSFER_CENTS = 500
ARREARS_S = 0.25  # a stall is not followed by a burst: what is later than this is given up, and counted


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parsed(arguments)
    try:
        return asyncio.run(_run_until_signal(options))
    except* OSError as errors:
        sys.stderr.write(f"the report cannot be written: {errors.exceptions[0]}\n")
    return 1


@dataclass(frozen=True, slots=True)
class Options:
    target: Target
    connections: int
    rate: float  # requests per second over all connections
    seconds: float
    report: Path
    answer_limit_s: float = 10.0  # then a request counts as failed


async def run(options: Options, stop: asyncio.Event) -> Record:
    """The load ran until its time was over or `stop` was set; every request that was sent has its outcome in the record."""
    load = Load(options)
    try:
        # A group, because without the task that gives up overdue requests the end might never come.
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(load.watch())
            await load.send_until(stop)
            await load.finish()
            watching.cancel()
        load.report("ended")
    finally:
        load.close()
    return load.record


class Load:
    """The users, paced together."""

    def __init__(self, options: Options) -> None:
        self.record = Record()
        self._options = options
        self._free: deque[User] = deque()
        self._users = [User(options.target, self.record, self._free) for _ in range(options.connections)]
        self._free.extend(self._users)
        self._arrears = 0  # requests that are due and found no free connection

    async def send_until(self, stop: asyncio.Event) -> None:
        """Requests were sent at the rate, however slowly answers came; those that found no free connection are counted."""
        rate, began = self._options.rate, time.perf_counter()
        passed_on = 0  # sent, or given up
        while not stop.is_set() and (elapsed := time.perf_counter() - began) < self._options.seconds:
            due = int(elapsed * rate) - passed_on
            passed_on += due
            due += self._arrears
            while due and self._free:
                self._free.popleft().send(next_ask(self._options.target))
                due -= 1
            self._keep_arrears(due)
            await asyncio.sleep(TICK_S)
        self.record.not_sent += self._arrears

    async def finish(self) -> None:
        """No request is under way: each was answered, or has failed when its time was over."""
        while any(user.busy for user in self._users):
            await asyncio.sleep(TICK_S)

    async def watch(self) -> None:
        """Until cancelled: requests whose time is over are given up, and the report is fresh."""
        while True:
            self._give_up_overdue()
            self.report("running")
            await asyncio.sleep(REPORT_EVERY_S)

    def report(self, state: str) -> None:
        options = self._options
        load = {"url": f"http://{options.target.authority}", "connections": options.connections, "rate": options.rate}
        report = {"state": state, **load, "seconds": options.seconds, "cpu_s": round(time.process_time(), 3), **self.record.to_dict()}
        write_report(options.report, report)

    def close(self) -> None:
        for user in self._users:
            user.close()

    def _keep_arrears(self, due: int) -> None:
        self._arrears = min(due, int(self._options.rate * ARREARS_S) + 1)
        self.record.not_sent += due - self._arrears

    def _give_up_overdue(self) -> None:
        overdue = time.perf_counter() - self._options.answer_limit_s
        for user in self._users:
            if user.busy and user.began_at < overdue:
                user.give_up(f"no answer in {self._options.answer_limit_s:g} s")


def next_ask(target: Target) -> Ask:
    """Four in five read an account, the others transfer a little between two."""
    account = random.randrange(ACCOUNTS)  # noqa: S311 - load, no secret
    if random.random() >= TRANSFER_SHARE:  # noqa: S311 - load, no secret
        name = f"GET /api/v1/accounts/{account_id(account + 1)}"
        return Ask(name, f"{name} HTTP/1.1\r\nHost: {target.authority}\r\n\r\n".encode())
    other = (account + random.randrange(1, ACCOUNTS)) % ACCOUNTS  # noqa: S311 - load, no secret
    transfer = {
        "from": account_id(account + 1),
        "to": account_id(other + 1),
        "amount_cents": random.randint(1, LARGEST_TRANSFER_CENTS),  # noqa: S311 - load, no secret
    }
    name, body = "POST /api/v1/transfers", json.dumps(transfer)
    head = f"{name} HTTP/1.1\r\nHost: {target.authority}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return Ask(name, (head + body).encode())


async def _run_until_signal(options: Options) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    record = await run(options, stop)
    sys.stderr.write(f"{record.requests} requests, {record.failed} failed, {record.broken} broken connections\n")
    return 0


def _parsed(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m bleen.demo.load", description="A steady load that never tries again, loopback only.")
    parser.add_argument("--url", required=True, type=loopback_target, help="http://127.0.0.1:PORT")
    parser.add_argument("--connections", type=int, default=50, help="keep-alive connections, 1 to 1000")
    parser.add_argument("--rate", type=float, default=600, help="requests a second, at most 10000")
    parser.add_argument("--seconds", type=float, default=60, help="how long, at most 86400")
    parser.add_argument("--report", required=True, type=Path, help="file that holds the figures, rewritten every 0.2 s")
    chosen = parser.parse_args(arguments)
    for name, largest in (("connections", 1000), ("rate", 10_000), ("seconds", 86_400)):
        if not 0 < getattr(chosen, name) <= largest:
            parser.error(f"--{name} must be above 0 and at most {largest}")
    if not chosen.report.parent.is_dir():
        parser.error(f"--report: there is no folder {chosen.report.parent}")
    return Options(chosen.url, chosen.connections, chosen.rate, chosen.seconds, chosen.report)


def loopback_target(url: str) -> Target:
    """The loopback address and port of the URL. Raises ArgumentTypeError for any other place, and for anything but the root."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{url!r} is no URL") from error
    if parts.scheme != "http" or port is None or parts.username is not None or parts.path not in ("", "/") or parts.query:
        raise argparse.ArgumentTypeError(f"{url!r} is not of the form http://127.0.0.1:PORT")
    try:
        # A name is never looked up: what it means is not ours to say.
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise argparse.ArgumentTypeError(f"{host!r} is no loopback address; this client sends load to 127.0.0.1, ::1 or localhost only")
    return Target(str(address), port)


if __name__ == "__main__":
    sys.exit(main())
