"""The site as nginx configuration. Whatever enters the text has been held against a pattern first."""

from __future__ import annotations

import grp
import hashlib
import ipaddress
import os
import pwd
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from bleen.config.fields import LISTEN_PATTERN
from bleen.errors import UsageError
from bleen.model.environment import Endpoint, Environment
from bleen.traffic.nginx.binary import Version
from bleen.traffic.nginx.flags import BUCKETS
from bleen.traffic.nginx.log import LOG_FORMAT
from bleen.traffic.nginx.site import NginxSite

_NAME = r"[A-Za-z0-9_-]{1,64}"
_KEY = r"[A-Za-z0-9_-]{16,128}"
_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})"
# Inside double quotes these mean nothing to nginx, and nothing to glob, which `include` uses.
_PATH = r"/[\w ./@+,:=~-]*"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=False,  # noqa: S701 - no HTML: every value is held against a pattern below
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The texts of one configuration. `revision` is the digest of them all, which every worker repeats."""

    nginx_conf: str
    blue_green_conf: str
    preview_conf: str
    revision: str


def render(site: NginxSite, version: Version) -> Rendered:
    """The configuration of `site` for an nginx of `version`. Raises UsageError for a value that nginx could misread."""
    values = _checked(site) | {
        "version": version,
        "log_format": LOG_FORMAT,
        "buckets": BUCKETS,
        # Spreads new connections to the control address over the workers; elsewhere than on Linux it would not.
        "spread": sys.platform.startswith("linux"),
    }
    nginx_conf = _TEMPLATES.get_template("nginx.conf.jinja").render(values)
    preview_conf = _TEMPLATES.get_template("preview.conf.jinja").render(values)
    blue_green = _TEMPLATES.get_template("blue-green.conf.jinja")
    everything = "\0".join((nginx_conf, preview_conf, blue_green.render(values | {"revision": ""})))
    revision = hashlib.sha256(everything.encode()).hexdigest()[:16]
    return Rendered(nginx_conf, blue_green.render(values | {"revision": revision}), preview_conf, revision)


def owner_line(site: NginxSite) -> str:
    """The first line of blue-green.conf, by which it is known whose it is."""
    return f"# Written by bleen for {site.identity}; changes made here are lost."


def worker_account(site: NginxSite) -> pwd.struct_passwd | None:
    """The account of the embedded nginx's workers when it is not simply the present user's. Raises UsageError."""
    if os.geteuid() != 0:
        return None
    name = site.options.worker_user
    try:
        return pwd.getpwnam(_match("worker_user", r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", name)) if name else pwd.getpwuid(0)
    except KeyError as error:
        raise UsageError(f"traffic.worker_user {name!r} is not an account of this system") from error


def _checked(site: NginxSite) -> dict[str, Any]:
    options = site.options
    control = _listen("control", options.control)
    if not _is_loopback(control):
        raise UsageError(f"traffic.control {control} is not a loopback address; allowed: 127.0.0.1:PORT or [::1]:PORT")
    account = worker_account(site) if site.embedded else None
    _match("service", _NAME, site.service)
    _match("store", _NAME, site.store_id)
    paths = {name: _path(name, getattr(site, name)) for name in ("flags", "access_log", "error_log", "pid_file", "temp", "preview_conf")}
    return paths | {
        "owner_line": owner_line(site),
        "identity": site.identity,
        "listen": _listen("listen", options.listen),
        "preview": _listen("preview", options.preview),
        "control": control,
        "key": _match_secret("the preview key", _KEY, site.preview_key),
        "workers": int(options.workers),
        "user": account.pw_name if account else "",
        "group": _group_of(account) if account else "",
        "read_timeout_ms": max(1, round(options.read_timeout.total_seconds() * 1000)),
        "endpoints": {environment.value: [_authority(endpoint) for endpoint in site.endpoints[environment]] for environment in Environment},
        "scheme": _scheme(site),
        "blue_green_conf": _path("config_path", site.blue_green_conf),
    }


def _scheme(site: NginxSite) -> str:
    schemes = {endpoint.scheme for endpoints in site.endpoints.values() for endpoint in endpoints}
    if schemes not in ({"http"}, {"https"}):
        raise UsageError(f"the endpoints of both environments share one scheme, http or https, not {', '.join(sorted(schemes)) or 'none'}")
    return schemes.pop()


def _authority(endpoint: Endpoint) -> str:
    if not 1 <= endpoint.port <= 65535:
        raise UsageError(f"endpoint port {endpoint.port} is not between 1 and 65535")
    if ":" in endpoint.host:
        try:
            ipaddress.IPv6Address(endpoint.host)
        except ValueError as error:
            raise UsageError(f"endpoint host {endpoint.host!r} is no host name or address") from error
    else:
        _match("endpoint host", _HOST, endpoint.host)
    return endpoint.authority


def _listen(name: str, value: str) -> str:
    return _match(f"traffic.{name}", LISTEN_PATTERN, value)


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(name: str, value: Path) -> str:
    return _match(name, _PATH, str(value))


def _group_of(account: pwd.struct_passwd) -> str:
    # Named, because nginx would otherwise look for a group called like the user, which `nobody` has not on Debian.
    return _match("group", r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", grp.getgrgid(account.pw_gid).gr_name)


def _match(name: str, pattern: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        raise UsageError(f"{name} {value[:200]!r} cannot be written into an nginx configuration; allowed: {pattern}")
    return value


def _match_secret(name: str, pattern: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        raise UsageError(f"{name} cannot be written into an nginx configuration; allowed: {pattern}")
    return value
