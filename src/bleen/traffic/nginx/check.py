"""What is wrong with an nginx before anything moves. Looks, and changes nothing."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bleen.errors import BleenError, Refused, StoreMismatch, UsageError
from bleen.traffic.nginx.binary import find_nginx, version_of
from bleen.traffic.nginx.flags import FlagFolder
from bleen.traffic.nginx.listeners import why_taken
from bleen.traffic.nginx.render import owner_line, render, worker_account
from bleen.traffic.nginx.site import NginxSite
from bleen.traffic.nginx.workers import Workers
from bleen.traffic.router import Finding, Severity


async def check(site: NginxSite, flags: FlagFolder) -> list[Finding]:
    """Every finding, in the order in which a person would mend them."""
    findings = await _check_configuration(site)
    findings += _refusal("flag folder", flags.check_owner)
    findings += _check_writable("bleen's folder for nginx", site.folder)
    if not site.embedded:
        findings += _check_config_path(site)
    findings += await _check_addresses(site)
    findings += await asyncio.to_thread(_check_flags_readable, site)
    return findings


def refuse_foreign_configuration(site: NginxSite) -> None:
    """The blue-green.conf in place is this service's, or there is none. Raises StoreMismatch, Refused."""
    path = site.blue_green_conf
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline().rstrip("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}", next_command=f"ls -l {path}") from error
    if first == owner_line(site):
        return
    if first.startswith("# Written by bleen for "):
        raise StoreMismatch(
            f"{path} belongs to another service or store ({first[2:100]!r}); it was not touched",
            next_command=f"remove {path} if that service is gone for good",
        )
    raise Refused(f"{path} was not written by bleen; it was not touched", next_command=f"move {path} out of the way")


async def _check_configuration(site: NginxSite) -> list[Finding]:
    try:
        binary = find_nginx(site.options.binary)
        render(site, await version_of(binary))
    except (Refused, UsageError) as error:
        return [_error("nginx", error.message, error.next_command)]
    return []


def _check_config_path(site: NginxSite) -> list[Finding]:
    folder = Path(site.options.config_path)
    if not folder.is_dir():
        return [_error("config_path", f"traffic.config_path {folder} is no folder", f"ls -ld {folder}")]
    findings = _check_writable("config_path", folder) + _refusal("config_path", lambda: refuse_foreign_configuration(site))
    program = site.options.reload_command[0]
    if shutil.which(program) is None:
        findings.append(_error("reload command", f"{program} of traffic.reload_command was not found", f"command -v {program}"))
    return findings


def _check_writable(subject: str, folder: Path) -> list[Finding]:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return []
    return [_error(subject, f"{nearest} cannot be written by {_account_name(os.geteuid())}", f"ls -ld {nearest}")]


async def _check_addresses(site: NginxSite) -> list[Finding]:
    """Nothing when this site's nginx runs: the addresses are taken, and rightly so."""
    workers = Workers(site.options.control)
    survey = await workers.ask("none", "none")
    await workers.close()
    if any(answer.identity == site.identity for answer in survey.answers):
        return []
    taken = [why_taken(address) for address in (site.options.listen, site.options.preview, site.options.control)]
    # An nginx of the user's own may hold an address already; its own test tells what does not go together.
    return [
        _error("address", str(entry), "stop it, or choose another address under traffic in bleen.yaml")
        for entry in taken
        if entry is not None and (site.embedded or entry.name != "nginx")
    ]


@dataclass(frozen=True, slots=True)
class _Account:
    uid: int
    groups: frozenset[int]

    def can_pass(self, folder: Path) -> bool:
        status = folder.stat()
        if self.uid == 0:
            return True
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid in self.groups:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def _check_flags_readable(site: NginxSite) -> list[Finding]:
    account = _worker_account(site)
    if account is None:
        return []
    name = _account_name(account.uid)
    # bleen sets the rights of its own folders when it installs; those above are the user's.
    above = [folder for folder in reversed(site.folder.resolve().parents) if folder.exists()]
    return [
        _error(
            "flag folder",
            f"nginx's workers run as {name}, who cannot pass {folder}: they would not see the weights in {site.flags}",
            f"chmod o+x {folder}",
        )
        for folder in above
        if not account.can_pass(folder)
    ]


def _worker_account(site: NginxSite) -> _Account | None:
    """The account of the workers, where it is known and not simply ours."""
    try:
        entry = worker_account(site) if site.embedded else _account_of_running_workers()
    except UsageError:  # found by the rendering as well
        return None
    if entry is None or entry.pw_uid == os.geteuid():
        return None
    return _Account(entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def _account_of_running_workers() -> pwd.struct_passwd | None:
    uids = {
        process.info["uids"].effective
        for process in psutil.process_iter(["cmdline", "uids"])
        if " ".join(process.info["cmdline"] or ()).startswith("nginx: worker process")
    }
    try:
        return pwd.getpwuid(uids.pop()) if len(uids) == 1 else None
    except KeyError:
        return None


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _refusal(subject: str, look: Callable[[], None]) -> list[Finding]:
    try:
        look()
    except BleenError as error:
        return [_error(subject, error.message, error.next_command)]
    except OSError as error:
        return [_error(subject, f"cannot be read: {error.strerror}")]
    return []


def _error(subject: str, message: str, next_command: str = "") -> Finding:
    return Finding(Severity.ERROR, subject, message, next_command)
