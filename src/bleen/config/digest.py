"""The digest that tells whether two deployments of a version would run the same thing."""

from __future__ import annotations

from bleen.config.schema import Config
from bleen.model.release import digest_of

_HOW_LONG = frozenset({"stop_timeout", "timeout"})  # how long bleen waits is no part of what runs


def release_digest(config: Config, commit_hash: str) -> str:
    """Hex digest over what a release runs with: the runtime and the commit, references unresolved.

    Defaults are left out, so that a later version of bleen with more keys comes to the same digest.
    """
    runtime = config.runtime.model_dump(mode="json", exclude=set(_HOW_LONG), exclude_defaults=True)
    return digest_of({"commit_hash": commit_hash, "runtime": runtime | {"type": config.runtime.type}})
