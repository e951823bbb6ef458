"""The nginx that holds a split in its flag folder, and says so worker by worker."""

from __future__ import annotations

import asyncio

from bleen.errors import Fenced
from bleen.model.environment import Environment
from bleen.model.traffic import CLOSED, Preview, ReadingState, Route, RouteReading, TrafficSplit
from bleen.traffic.nginx.flags import FlagFolder
from bleen.traffic.nginx.site import NginxSite
from bleen.traffic.nginx.workers import Answer, Survey, Workers

# What the control location answers, one letter per flag that the worker can see. The last bucket of green is `lo`, the
# first of blue is `hi`: together the four single out one weight among all of them.
BLUE_LOW, BLUE_HIGH, GREEN_LOW, GREEN_HIGH, CLOSED_FLAG = "b", "B", "g", "G", "c"


class NginxRouter:
    """Router over the flag folder. Nothing here reloads nginx."""

    def __init__(self, site: NginxSite, flags: FlagFolder, workers: Workers) -> None:
        self._site, self._flags, self._workers = site, flags, workers
        self._epoch = 0

    async def fence(self, epoch: int) -> None:
        await asyncio.to_thread(self._flags.claim)
        await asyncio.to_thread(self._flags.fence, epoch)
        self._epoch = epoch

    async def apply(self, route: Route) -> None:
        if route.epoch != self._epoch or self._epoch == 0:
            raise Fenced(f"a route of epoch {route.epoch} was not written: this router fenced epoch {self._epoch or 'none'}")
        # Not in a thread: a thread cannot be cancelled, and its rename could land after a later route's. It takes 0.1 ms.
        self._flags.point(route.split, route.epoch)
        await asyncio.to_thread(self._flags.sync)

    async def read(self) -> RouteReading:
        split = self._flags.split()
        low, high = _buckets(split or CLOSED)
        survey = await self._workers.ask(low, high)
        return _reading(survey, split, self._site)

    def preview(self, environment: Environment) -> Preview:
        host, _, port = self._site.options.preview.rpartition(":")
        host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
        key = f"{environment.value}.{self._site.preview_key}"
        return Preview(url=f"http://{host}:{port}", headers={"X-Bleen-Preview": key})

    async def close(self) -> None:
        await self._workers.close()


def _reading(survey: Survey, split: TrafficSplit | None, site: NginxSite) -> RouteReading:
    """One reading of all that the workers said; the worst of it decides."""
    asked, total = len(survey.answers), len(survey.listed or ())
    control = site.options.control
    if not survey.answers:
        return RouteReading(ReadingState.UNREACHABLE, f"nginx does not answer on {control}: {survey.problem}", workers_total=total)
    strangers = {answer.identity for answer in survey.answers} - {site.identity}
    if strangers:
        return RouteReading(ReadingState.UNREACHABLE, f"{control} is answered by the nginx of {', '.join(sorted(strangers))}")
    blind = [answer.pid for answer in survey.answers if not answer.seen]
    if blind:
        return RouteReading(ReadingState.UNREADABLE, _why_unreadable(blind, split, site), CLOSED, asked, total)
    expected = _expected(split) if split is not None else ""
    other = [answer for answer in survey.answers if answer.seen != expected]
    if split is None or other:
        return RouteReading(ReadingState.MIXED, _why_mixed(other, split), CLOSED, asked, total)
    if not survey.complete:
        seen = f"{asked} of {total}" if survey.listed is not None else f"{asked} of an unknown number of"
        return RouteReading(ReadingState.UNKNOWN, f"{seen} nginx workers answered, and say {split}", CLOSED, asked, total)
    return RouteReading(ReadingState.CONFIRMED, f"{asked} of {total} nginx workers say {split}", split, asked, total)


def _why_unreadable(blind: list[int], split: TrafficSplit | None, site: NginxSite) -> str:
    workers = ", ".join(map(str, blind))
    if split is None:
        return f"{site.flags}/current is missing; new requests go to whichever environment is alive"
    return (
        f"nginx workers {workers} cannot read {site.flags}/current; new requests go to whichever environment is alive"
        f" (their user needs x on every folder above it: namei -m {site.flags})"
    )


def _why_mixed(other: list[Answer], split: TrafficSplit | None) -> str:
    workers = ", ".join(str(answer.pid) for answer in other)
    told = "nothing that is known" if split is None else str(split)
    return f"nginx was told {told}, workers {workers or 'none'} say something else: a change is under way, or one is stuck"


def _buckets(split: TrafficSplit) -> tuple[str, str]:
    """The last bucket of green and the first of blue; `none` where a colour has none."""
    low = str(split.green - 1) if split.green > 0 else "none"
    high = str(split.green) if split.green < 100 else "none"
    return low, high


def _expected(split: TrafficSplit) -> str:
    """The letters of a worker that holds `split` when asked for its two buckets."""
    if split.closed:
        return CLOSED_FLAG
    return (BLUE_HIGH if split.green < 100 else "") + (GREEN_LOW if split.green > 0 else "")
