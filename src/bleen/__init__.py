"""Zero-downtime blue-green deployments with automatic rollback, on your own nginx.

    async with bleen.open_manager("bleen.yaml") as manager:
        result = await manager.deploy(version="1.0.0", commit_hash="abc123", branch="main")

Everything public is imported when it is first used: `bleen --help` must not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bleen.manager import BlueGreenDeploymentManager, DeploymentResult
    from bleen.wiring import open_manager

__all__ = ["BlueGreenDeploymentManager", "DeploymentResult", "open_manager"]

_WHERE = {"BlueGreenDeploymentManager": "bleen.manager", "DeploymentResult": "bleen.manager", "open_manager": "bleen.wiring"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'bleen' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
