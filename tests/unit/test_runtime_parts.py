"""The pieces of the runtimes that need no process: replacements, sites, tails, verdicts on listeners."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bleen.errors import ConfigurationError, RuntimeFailed
from bleen.model.environment import Endpoint, Environment
from bleen.model.release import Release
from bleen.runtime.listener import prove
from bleen.runtime.log_file import TAIL_BYTES, tail
from bleen.runtime.replacements import fill, template, templates
from bleen.runtime.runtime import Ownership
from bleen.runtime.site import RuntimeSite

ENDPOINT = Endpoint("http", "127.0.0.1", 9001)


def test_each_argument_stays_one_argument() -> None:
    argv = templates(["run", "{version} now", "{branch}"], "runtime.command", {"version", "branch"})
    assert fill(argv, {"version": "1 --force; rm", "branch": 'a" b'}) == ["run", "1 --force; rm now", 'a" b']


@given(st.text())
def test_what_a_value_holds_is_never_replaced_again(value: str) -> None:
    safe = "v" + value.replace("..", "")
    assert template("<{version}>", "x", {"version", "port"}).fill({"version": safe, "port": "1"}) == f"<{safe}>"


def test_doubled_braces_are_literal() -> None:
    assert template('{{"v": "{version}"}}', "x", {"version"}).fill({"version": "1"}) == '{"v": "1"}'


@pytest.mark.parametrize(
    "text", ["{}", "{0}", "{home}", "{version!r}", "{version:>9}", "{version.real}", "{version[0]}", "{", "}", "{version"]
)
def test_anything_else_in_braces_is_refused_with_the_key_and_the_text(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"runtime\.command\[0\]") as refusal:
        templates([text], "runtime.command", {"version"})
    assert repr(text) in refusal.value.message


@pytest.mark.parametrize("value", ["-x", "/etc", "..", "../x", "a/.."])
def test_a_value_that_reads_as_an_option_or_leaves_the_folder_is_refused(value: str) -> None:
    with pytest.raises(RuntimeFailed, match="branch"):
        template("{branch}", "runtime.directory", {"branch"}).fill({"branch": value})


def test_host_and_port_are_known_only_where_they_are_unambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)
    one, two = [ENDPOINT], [ENDPOINT, Endpoint("http", "127.0.0.1", 9002)]
    single = RuntimeSite("shop", {Environment.BLUE: one, Environment.GREEN: one}, tmp_path, tmp_path)
    several = RuntimeSite("shop", {Environment.BLUE: one, Environment.GREEN: two}, tmp_path, tmp_path)
    assert single.known_names() == {"service", "environment", "version", "commit_hash", "branch", "host", "port"}
    assert several.known_names() == single.known_names() - {"host", "port"}
    assert "PORT" not in several.variables(Release("1"), Environment.GREEN, {}, str)


def test_configured_variables_win_and_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("VERSION", "of this process")
    site = RuntimeSite("shop", {environment: [ENDPOINT] for environment in Environment}, tmp_path, tmp_path)
    seen = site.variables(Release("1.0"), Environment.BLUE, {"ENVIRONMENT": "production", "KEY": "file:key"}, str.upper)
    assert [seen[name] for name in ("INHERITED", "VERSION", "ENVIRONMENT", "KEY")] == ["yes", "1.0", "PRODUCTION", "FILE:KEY"]


def test_two_places_never_share_a_mark(tmp_path: Path) -> None:
    sites = [RuntimeSite("shop", {}, tmp_path, tmp_path / name) for name in ("a", "b")]
    assert len({site.mark(environment) for site in sites for environment in Environment}) == 4


def test_a_tail_reads_a_bounded_end_and_drops_the_line_that_it_cuts() -> None:
    file = io.BytesIO(b"x" * TAIL_BYTES + b"\none\ntwo\n")
    assert tail(file, 5) == ["one", "two"]
    assert tail(file, 1) == ["two"]
    assert tail(file, 0) == []
    assert tail(file, 5, since=TAIL_BYTES + 5) == ["two"]


@pytest.mark.parametrize(
    ("owners", "ownership"),
    [
        ([], Ownership.NOBODY),
        ([7], Ownership.OURS),
        ([7, 8], Ownership.OURS),
        ([7, 999_999_999], Ownership.FOREIGN),
        ([999_999_999], Ownership.FOREIGN),
        ([7, None], Ownership.UNKNOWN),
        ([None], Ownership.UNKNOWN),
    ],
)
def test_a_listener_is_ours_only_when_every_owner_is(owners: list[int | None], ownership: Ownership) -> None:
    proof = prove(ENDPOINT, owners, {7, 8})
    assert proof.ownership is ownership
    assert "127.0.0.1:9001" in proof.evidence
