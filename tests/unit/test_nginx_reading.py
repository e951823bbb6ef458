"""What the answers of the workers add up to."""

from __future__ import annotations

from pathlib import Path

import pytest

from bleen.config.adapters import NginxTraffic
from bleen.model.traffic import CLOSED, ReadingState, TrafficSplit
from bleen.traffic.nginx.router import _buckets, _expected, _reading
from bleen.traffic.nginx.site import NginxSite
from bleen.traffic.nginx.workers import Answer, Survey

SITE = NginxSite(NginxTraffic(), {}, "shop", "store-1", Path("/srv/proxy"), "k" * 20)
HALF = TrafficSplit(50, 50)


def answer(pid: int, seen: str = "Bg", identity: str = SITE.identity) -> Answer:
    return Answer(pid, identity, "revision", seen)


def survey(*answers: Answer, listed: set[int] | None) -> Survey:
    return Survey(list(answers), None if listed is None else frozenset(listed))


@pytest.mark.parametrize(
    ("asked", "state"),
    [
        (survey(answer(1), answer(2), listed={1, 2}), ReadingState.CONFIRMED),
        (survey(answer(1), answer(2, seen="b"), listed={1, 2}), ReadingState.MIXED),
        (survey(answer(1), answer(2, seen=""), listed={1, 2}), ReadingState.UNREADABLE),
        (survey(answer(1), listed={1, 2}), ReadingState.UNKNOWN),
        (survey(answer(1), listed=None), ReadingState.UNKNOWN),
        (survey(answer(1, identity="stock/store-1"), listed={1}), ReadingState.UNREACHABLE),
        (survey(listed=None), ReadingState.UNREACHABLE),
    ],
)
def test_the_worst_answer_decides(asked: Survey, state: ReadingState) -> None:
    reading = _reading(asked, HALF, SITE)
    assert reading.state is state
    assert reading.split == (HALF if state is ReadingState.CONFIRMED else CLOSED)


def test_workers_that_agree_on_something_else_than_was_told_are_mixed() -> None:
    assert _reading(survey(answer(1, seen="B"), listed={1}), HALF, SITE).state is ReadingState.MIXED


def test_a_link_to_something_unknown_is_mixed() -> None:
    assert _reading(survey(answer(1, seen="B"), listed={1}), None, SITE).state is ReadingState.MIXED


def test_the_letters_of_each_split_are_its_own() -> None:
    """Whoever holds another split than the one asked for cannot give the expected answer."""
    splits = [CLOSED, *(TrafficSplit(100 - green, green) for green in range(101))]
    for told in splits:
        for held in splits:
            assert (seen_by(held, *_buckets(told)) == _expected(told)) is (held == told), (told, held)


def seen_by(held: TrafficSplit, low: str, high: str) -> str:
    """What a worker answers that looks through `current` at the folder of `held`."""
    buckets = {} if held.closed else {str(bucket): "g" if bucket < held.green else "b" for bucket in range(100)}
    letters = [("b", low, "b"), ("b", high, "B"), ("g", low, "g"), ("g", high, "G")]
    return "".join(letter for colour, bucket, letter in letters if buckets.get(bucket) == colour) + ("c" if held.closed else "")
