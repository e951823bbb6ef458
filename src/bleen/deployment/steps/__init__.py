"""The steps of a plan, by kind; each acts idempotently and has an undo."""

from __future__ import annotations

from bleen.deployment.steps.checks import CheckCommandStep
from bleen.deployment.steps.finish import Bake, FinalVerification, Record
from bleen.deployment.steps.preflight import Preflight
from bleen.deployment.steps.release import Start, VerifyPreview, WaitHealthy
from bleen.deployment.steps.shift import Shift
from bleen.deployment.steps.step import Step

_KINDS: dict[str, Step] = {
    "preflight": Preflight(),
    "check-command": CheckCommandStep(),
    "start": Start(),
    "wait-healthy": WaitHealthy(),
    "verify-preview": VerifyPreview(),
    "shift": Shift(),
    "bake": Bake(),
    "final-verification": FinalVerification(),
    "record": Record(),
}


def implementation(kind: str) -> Step | None:
    """The step of that kind; None for one that this version does not know (a plan pinned by another version)."""
    return _KINDS.get(kind)
