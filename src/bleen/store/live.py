"""The live file: what the controller saw within the last moments, for `status` and `watch`. Nothing depends on it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FRESH_S = 3.0


def write_live(state_dir: Path, body: dict[str, Any]) -> None:
    """The live file shows `body`, whole or not at all; it is owner-only and not made durable."""
    path = state_dir / "live.json"
    staged = path.with_suffix(".tmp")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(body | {"at": time.time()}, file)
    staged.replace(path)


def read_live(state_dir: Path) -> dict[str, Any]:
    """What the controller saw, {} when it is older than a few seconds or cannot be read."""
    try:
        body: dict[str, Any] = json.loads((state_dir / "live.json").read_text())
    except (OSError, ValueError):
        return {}
    return body if abs(time.time() - float(body.get("at", 0))) < FRESH_S else {}
