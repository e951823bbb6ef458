"""The port of a step."""

from __future__ import annotations

from typing import Any, Protocol

from bleen.deployment.context import Context
from bleen.model.deployment import PlannedStep


class Step(Protocol):
    """One verb of a phase. `do` and `undo` may be called again after a crash at any point, and then finish what was begun."""

    def limit_s(self, context: Context, step: PlannedStep) -> float | None:
        """Seconds after which `do` has failed; None where DEPLOYMENT_TIMEOUT alone limits it."""

    async def do(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        """The step's effect holds. Returns what the journal should remember. Raises a BleenError."""

    async def undo(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        """The step's effect is gone; or the result says under "kept" what stays and why."""


class ReadOnly:
    """The undo of a step that changed nothing."""

    async def undo(self, context: Context, step: PlannedStep) -> dict[str, Any]:
        """There is nothing to undo."""
        del context, step
        return {}
