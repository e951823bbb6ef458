"""What is wrong with a release of the sample service, on purpose.

    fail:SHARE    that share of user requests is answered with 500; health checks stay good
    die:N         the process ends abruptly at the user request that follows the Nth
    hang:N        after N user requests nothing is answered any more, health checks included
    slow:MS       user requests take MS milliseconds longer
    sick:N        after N user requests health checks are answered with 503
    unready       the readiness check is never good
    exit          the process ends as soon as it starts
    ignore-term   SIGTERM is ignored
    none          nothing is wrong

A user request is every request that is no health check.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from dataclasses import dataclass
from typing import NoReturn

from bleen.demo.http_server import Answer, Handler, Request

HEALTH_PATH = "/api/v1/health"
READY_PATH = "/api/v1/health/ready"

# Large enough a number that a preview is verified before the release dies.
FAULT_OF_RELEASE = {"1.2.0": "fail:0.05", "1.3.0": "die:40"}

WITH_AMOUNT = {"fail": 1.0, "die": 1e9, "hang": 1e9, "slow": 600_000.0, "sick": 1e9}  # the largest amount of each
WITHOUT_AMOUNT = ("unready", "exit", "ignore-term", "none")


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    amount: float = 0.0


def fault_of(version: str, override: str) -> Fault:
    """The fault that `override` names, else the one of the release. Raises ValueError for one that does not exist."""
    text = override or FAULT_OF_RELEASE.get(version, "none")
    kind, colon, amount = text.partition(":")
    if kind in WITHOUT_AMOUNT and not colon:
        return Fault(kind)
    try:
        number = float(amount)
    except ValueError:
        number = -1.0
    if kind not in WITH_AMOUNT or not 0 <= number <= WITH_AMOUNT[kind]:
        known = ", ".join([*(f"{name}:N" for name in WITH_AMOUNT), *WITHOUT_AMOUNT])
        raise ValueError(f"fault {text!r} does not exist; there are {known}")
    return Fault(kind, number)


class FaultyHandler:
    """Answers as `handler` does, but for what the fault spoils."""

    def __init__(self, handler: Handler, fault: Fault) -> None:
        self._handler = handler
        self._fault = fault
        self._user_requests = 0

    def __call__(self, request: Request) -> Answer | asyncio.Future[Answer]:
        if request.path.startswith(HEALTH_PATH):
            return self._health(request)
        self._user_requests += 1
        kind = self._fault.kind
        if kind == "fail" and random.random() < self._fault.amount:  # noqa: S311 - chance, no secret
            sys.stderr.write(f"500 {request.method} {request.path}: this release loses track of its settlement account\n")
            return Answer(500, {"error": "internal error"})
        if kind == "die" and self._user_requests > self._fault.amount:
            _die()
        if self._hangs():
            return asyncio.get_running_loop().create_future()
        if kind == "slow":
            return asyncio.ensure_future(self._slowly(request))
        return self._handler(request)

    def _health(self, request: Request) -> Answer | asyncio.Future[Answer]:
        if self._hangs():
            return asyncio.get_running_loop().create_future()
        if self._fault.kind == "sick" and self._user_requests >= self._fault.amount:
            return Answer(503, {"status": "unhealthy", "checks": {"settlement": "the connection to the settlement network is lost"}})
        if self._fault.kind == "unready" and request.path == READY_PATH:
            return Answer(503, {"status": "starting", "checks": {"settlement": "still connecting"}})
        return self._handler(request)

    def _hangs(self) -> bool:
        """True from the user request on that follows the Nth, or with N = 0 from the start."""
        first = 0 if self._fault.amount == 0 else self._fault.amount + 1
        return self._fault.kind == "hang" and self._user_requests >= first

    async def _slowly(self, request: Request) -> Answer:
        await asyncio.sleep(self._fault.amount / 1000)
        answer = self._handler(request)
        return answer if isinstance(answer, Answer) else await answer


def _die() -> NoReturn:
    sys.stderr.write("fatal: the settlement cache is corrupt\n")
    sys.stderr.flush()
    os._exit(1)
