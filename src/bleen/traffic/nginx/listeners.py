"""Who listens on an address of this host."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Taken:
    """Why an address cannot be listened on. `pid` is 0 and `name` empty where the holder cannot be told."""

    address: str
    reason: str
    pid: int = 0
    name: str = ""

    def __str__(self) -> str:
        holder = f" by {self.name} (pid {self.pid})" if self.pid else ""
        return f"{self.address} is taken{holder}" if self.reason == "taken" else f"{self.address} cannot be listened on: {self.reason}"


def why_taken(address: str) -> Taken | None:
    """None when a listener could be opened on `address` (`host:port`) now."""
    host, _, port = address.rpartition(":")
    host = {"*": "0.0.0.0"}.get(host, host.strip("[]"))  # noqa: S104 - what the user asked nginx to listen on
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as nginx does
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Taken(address, error.strerror or str(error))
        pid, name = _holder(int(port))
        return Taken(address, "taken", pid, name)
    return None


def _holder(port: int) -> tuple[int, str]:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
                return connection.pid, psutil.Process(connection.pid).name()
    except psutil.Error:
        pass  # other people's processes are not shown to everybody
    return 0, ""
