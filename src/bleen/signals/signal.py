"""The port for anything that speaks for or against a release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bleen.model.sample import ProbeResult, Sample


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """User requests in the order in which the proxy wrote them."""

    samples: Sequence[Sample]
    lost: int = 0  # lines that are known to be missing or unreadable: counted, never hidden


Observation = SampleBatch | ProbeResult
Sink = Callable[[Observation], None]


class Signal(Protocol):
    """Observes until cancelled and hands over what it saw as it sees it."""

    async def observe(self, sink: Sink) -> None: ...
