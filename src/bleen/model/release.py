"""Release: what is deployed, and the rules its names follow."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from bleen.errors import UsageError

# What a container tag, a file name, an HTTP header and a log field all accept without quoting.
VERSION_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}"
COMMIT_PATTERN = r"[0-9A-Za-z]{0,64}"
BRANCH_PATTERN = r"(?![/-])(?!(?:.*/)?\.\.(?:/|$))[A-Za-z0-9_./+#@-]{0,255}"  # as git: no option, no way out of a folder


@dataclass(frozen=True, slots=True)
class Release:
    """Version, commit and branch, with the digest of the configuration that it runs with."""

    version: str
    commit_hash: str = ""
    branch: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        _match("version", VERSION_PATTERN, self.version, "letters, digits and . _ + -, at most 128, as in a container tag")
        _match("commit hash", COMMIT_PATTERN, self.commit_hash, "at most 64 letters and digits")
        _match(
            "branch", BRANCH_PATTERN, self.branch, "at most 255 letters, digits and . _ / + # @ -, not beginning with - or /, no part .."
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Release:
        return cls(**body)


def digest_of(body: object) -> str:
    """Hex digest (SHA-256, 64 characters) of JSON-able data, independent of key order."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _match(name: str, pattern: str, value: str, allowed: str) -> None:
    if not re.fullmatch(pattern, value):
        shown = repr(value if len(value) <= 60 else value[:57] + "...")
        raise UsageError(f"{name} {shown} ({len(value)} characters) is not allowed; allowed: {allowed}")
