"""The access log's parser, on lines that nginx has written and on any others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bleen.model.environment import Environment
from bleen.model.sample import Sample
from bleen.traffic.nginx.log import parse_line

GOOD = b"1795397018.131\tblue\t200\t0.021\t200\t0.020\tGET\t/api/v1/payments"


def line(**fields: str) -> bytes:
    names = ("msec", "environment", "status", "request_time", "upstream_status", "upstream_time", "method", "uri")
    values = dict(zip(names, GOOD.decode().split("\t"), strict=True)) | fields
    return "\t".join(values.values()).encode()


def test_a_line_becomes_a_sample() -> None:
    assert parse_line(GOOD) == Sample(1795397018.131, Environment.BLUE, 200, 200, 0.021, 0.020, "GET", "/api/v1/payments")


@pytest.mark.parametrize(
    ("upstream_status", "upstream_time", "status", "first_status", "total"),
    [
        ("502, 200", "0.001, 0.020", "200", 502, 0.021),  # a retry
        ("200 : 502", "0.010 : 0.005", "502", 200, 0.015),  # an internal redirect
        ("502, 504, 200", "0.001, 1.000, 0.020", "200", 502, 1.021),
        ("-, 200", "-, 0.020", "200", 0, 0.020),  # a first attempt without an answer
        ("-", "-", "400", 400, 0.0),  # a malformed request
        ("-", "-", "413", 413, 0.0),
        ("-", "0.200", "499", 499, 0.2),  # the client left while the environment was thinking
        ("504", "1.001", "504", 504, 1.001),
        ("502", "0.000", "502", 502, 0.0),
    ],
)
def test_the_first_attempt_is_what_is_judged(
    upstream_status: str, upstream_time: str, status: str, first_status: int, total: float
) -> None:
    sample = parse_line(line(upstream_status=upstream_status, upstream_time=upstream_time, status=status))
    assert sample is not None
    assert (sample.status, sample.first_status) == (int(status), first_status)
    assert sample.upstream_time_s == pytest.approx(total)


@pytest.mark.parametrize(
    ("written", "environment"), [("green", Environment.GREEN), ("any", None), ("closed", None), ("", None), ("-", None)]
)
def test_a_request_that_no_bucket_decided_belongs_to_no_environment(written: str, environment: Environment | None) -> None:
    sample = parse_line(line(environment=written))
    assert sample is not None
    assert sample.environment is environment


def test_a_long_path_is_cut() -> None:
    sample = parse_line(line(uri="/" + "x" * 9000))
    assert sample is not None
    assert len(sample.path) == 200


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"\t" * 7,
        GOOD[:-20],
        GOOD + b"\tmore",
        line(environment="purple"),
        line(status="2xx"),
        line(msec="now"),
        line(upstream_status="x"),
    ],
)
def test_a_line_of_another_kind_is_no_sample(malformed: bytes) -> None:
    assert parse_line(malformed) is None


@given(st.binary())
def test_no_bytes_make_it_raise(anything: bytes) -> None:
    parse_line(anything)


@given(st.lists(st.binary(), min_size=8, max_size=8))
def test_no_fields_make_it_raise(fields: list[bytes]) -> None:
    parse_line(b"\t".join(fields))
