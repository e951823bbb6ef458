"""A short form of `make chaos`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.run import CONFIG, Chaos
from tests.rig import need_nginx, rig_in


@pytest.mark.timeout(300)
async def test_a_controller_that_is_killed_ten_times_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    need_nginx()
    with rig_in(tmp_path, **CONFIG) as rig:
        chaos = Chaos(rig, random.Random(5))  # noqa: S311 - chance that can be repeated, no secret
        figures = await chaos.run(kills=10)
    assert figures["kills"] >= 10
    assert figures["deployments"] >= 3
    assert chaos.observer.samples > 100
    assert chaos.observer.changes >= 3
    assert chaos.violations.all() == []
    assert chaos.failed_while_good == 0
