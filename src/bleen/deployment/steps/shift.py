"""One rung of the ladder: the candidate takes a weight, is watched at it, and goes on when the evidence is good."""

from __future__ import annotations

from typing import Any

from bleen.deployment.context import Context
from bleen.deployment.steps.step import ReadOnly
from bleen.deployment.switch import Held, Ladder
from bleen.model.deployment import PlannedStep
from bleen.model.verdict import Stage


class Shift(ReadOnly):
    """Its undo is the route of the rollback, which is written before any undo runs."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        del context, step
        return None

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        weight_pct = int(step.arguments["weight_pct"])
        if context.control.promote == "full" and weight_pct < 100:
            return {"skipped": "a person promoted it to 100%"}
        ladder = Ladder(context)
        held = await _noted(context, step)
        if held is None:
            held = await ladder.begin(weight_pct)
            await context.store.write(lambda writer: writer.note_step(context.deployment.id, step.name, to_result(held)))
        else:
            await ladder.resume(held)
        if weight_pct == 100:  # promoted; the watch goes on in the bake
            await _clear_promote(context)
            return to_result(held)
        left = await ladder.observe(held)
        if context.control.promote == "step":
            await _clear_promote(context)
        return to_result(held) | {"left": left}


def to_result(held: Held) -> dict[str, Any]:
    """What the journal remembers of a held weight."""
    return {"stage": held.stage.value, "weight_pct": held.weight_pct, "since": held.since, "took_ms": held.took_ms}


async def _noted(context: Context, step: PlannedStep) -> Held | None:
    """The weight that an earlier attempt had confirmed."""
    journal = await context.store.read(lambda reader: reader.journal(context.deployment.id))
    entry = next((entry for entry in journal if entry.step == step.name and entry.kind == "do"), None)
    if entry is None or "since" not in entry.result:
        return None
    found = entry.result
    return Held(Stage(found["stage"]), int(found["weight_pct"]), float(found["since"]), float(found["took_ms"]))


async def _clear_promote(context: Context) -> None:
    """What a person asked for has been done once."""
    await context.store.write(lambda writer: writer.set_control(context.deployment.id, promote=""))
    context.control.promote = ""
    context.control.fulfilled += 1
