"""What holds after file, environment and defaults, for `bleen config`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bleen.config.document import dotted
from bleen.config.load import Loaded
from bleen.config.secrets import masked
from bleen.config.shape import leaves


@dataclass(frozen=True, slots=True)
class Row:
    """One key: its dotted path, its value as JSON-able data with secrets masked, and where the value comes from."""

    key: str
    value: Any
    origin: str

    @property
    def text(self) -> str:
        """The value for a table: text as it is, everything else as JSON."""
        return self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False)


def effective(loaded: Loaded) -> list[Row]:
    """Every key in the order of the schema. References are shown as references and never resolved."""
    return [Row(dotted(leaf.path), masked(leaf.path, leaf.value), loaded.origins[dotted(leaf.path)]) for leaf in leaves(loaded.config)]
