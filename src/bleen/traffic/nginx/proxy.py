"""One nginx, assembled: its router, its installer, its access log."""

from __future__ import annotations

from bleen.traffic.nginx.access_log import NginxAccessLog
from bleen.traffic.nginx.embedded import EmbeddedNginx
from bleen.traffic.nginx.flags import FlagFolder
from bleen.traffic.nginx.installer import NginxInstaller
from bleen.traffic.nginx.own import OwnNginx
from bleen.traffic.nginx.router import NginxRouter
from bleen.traffic.nginx.site import NginxSite
from bleen.traffic.nginx.workers import Workers
from bleen.traffic.router import Proxy

__all__ = ["NginxSite", "nginx_proxy"]


def nginx_proxy(site: NginxSite) -> Proxy:
    """The proxy of `site` with its three roles. Nothing is read or written yet."""
    flags = FlagFolder(site.flags, store_id=site.store_id, service=site.service)
    embedded = EmbeddedNginx(site) if site.embedded else None
    return Proxy(
        router=NginxRouter(site, flags, Workers(site.options.control)),
        installer=NginxInstaller(site, flags, embedded or OwnNginx(site)),
        access_log=NginxAccessLog(site.access_log, embedded),
    )
