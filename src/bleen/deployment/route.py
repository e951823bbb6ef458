"""The one place where a route reaches the proxy: applied, then confirmed by every worker, then recorded."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from bleen.deployment.context import CONTROLLER, FencedStore
from bleen.deployment.ports import Ports
from bleen.errors import Fenced, RouterUnavailable
from bleen.model.traffic import Route
from bleen.store.writer import Writer

CONFIRM_TIMEOUT_S = 5.0
PROXY = "proxy"  # one proxy for a service in this version


async def hold_route(ports: Ports, store: FencedStore, route: Route, deployment: str = "") -> float:
    """Every worker of the proxy confirms `route`, and the store says so. Returns seconds from the write to the confirmation.

    Raises RouterUnavailable when it is not confirmed in time; the route stays what should hold, and is tried again.
    """
    started = time.monotonic()
    await put_route(ports, store, route)
    while True:
        reading = await ports.proxy.router.read()
        if reading.confirms(route.split):
            break
        if time.monotonic() - started > CONFIRM_TIMEOUT_S:
            raise RouterUnavailable(
                f"the proxy did not confirm {route.split} within {CONFIRM_TIMEOUT_S:.0f} s: {reading.evidence}", next_command="bleen check"
            )
        await asyncio.sleep(0.005)
    took_s = time.monotonic() - started

    def record(writer: Writer) -> None:
        writer.set_applied(PROXY, route.revision)
        body = {"blue": route.split.blue, "green": route.split.green, "revision": route.revision, "took_ms": round(took_s * 1000, 2)}
        writer.add_event("traffic.shifted", CONTROLLER, deployment, body)

    await store.write(record)
    return took_s


async def put_route(ports: Ports, store: FencedStore, route: Route) -> None:
    """The proxy was told to hold `route`. Raises RouterUnavailable, and Fenced when our epoch was overtaken."""
    if route.revision < store.mark.revision:  # the supervisor read it before the driver wrote the next one
        raise RouterUnavailable(f"revision {route.revision} of the route was superseded by {store.mark.revision}")
    store.mark.revision = route.revision
    router, ours = ports.proxy.router, replace(route, epoch=store.lease.epoch)
    try:
        await router.apply(ours)
    except Fenced:  # perhaps only because the proxy could not be fenced when our lease began; one that was overtaken is refused again
        await router.fence(store.lease.epoch)
        await router.apply(ours)
