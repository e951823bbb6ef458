"""bleen.yaml as a strict schema. One file describes one service."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from bleen.config.adapters import NginxTraffic, ProcessRuntime, RuntimeOptions, TrafficOptions
from bleen.config.fields import Argv, Duration, HttpPath, Strict
from bleen.model.environment import Endpoint, Environment


def _url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.username is not None:
        raise ValueError("an http or https address, as in http://127.0.0.1:9001")
    return value


def _endpoint(value: str) -> str:
    parts = urlsplit(_url(value))
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.port is None:
        raise ValueError("scheme, host and port only, as in http://127.0.0.1:9001")
    return value.rstrip("/")


class EnvironmentOptions(Strict):
    endpoints: list[Annotated[str, AfterValidator(_endpoint)]] = Field(min_length=1, description="Where the environment answers.")
    health_url: Annotated[str, AfterValidator(_url)] | None = Field(
        None,
        description="Full URL of the basic health check (BLUE_HEALTH_CHECK_URL, GREEN_HEALTH_CHECK_URL); else endpoint + path.",
    )

    def parsed(self) -> list[Endpoint]:
        """The endpoints as scheme, host and port."""
        parts = [urlsplit(endpoint) for endpoint in self.endpoints]
        return [Endpoint(part.scheme, part.hostname or "", part.port or 0) for part in parts]


class Environments(Strict):
    blue: EnvironmentOptions
    green: EnvironmentOptions

    def of(self, environment: Environment) -> EnvironmentOptions:
        return self.blue if environment is Environment.BLUE else self.green


class HealthOptions(Strict):
    path: HttpPath = Field("/api/v1/health", description="Basic health check.")
    ready_path: HttpPath = Field("/api/v1/health/ready", description="Readiness check.")
    startup_path: HttpPath = Field("/api/v1/health/startup", description="Startup check.")
    version_field: str = Field("version", description="JSON field of the health answer that names the running version; empty: none.")
    timeout: Duration = Field(
        timedelta(minutes=5), description="From start to healthy, then the deployment rolls back (HEALTH_CHECK_TIMEOUT)."
    )
    interval: Duration = Field(timedelta(milliseconds=150), description="Between two probes of one environment during a deployment.")
    probe_timeout: Duration = Field(timedelta(milliseconds=500), description="Longest wait for one answer.")
    failures: int = Field(3, ge=1, le=100, description="Failed probes in a row that fail an environment.")


class StepOptions(Strict):
    dwell: Duration = Field(timedelta(seconds=30), description="Least time at each weight.")
    min_requests: int = Field(50, ge=0, description="Candidate requests at each weight before it passes; 0: time alone decides.")


class DeploymentOptions(Strict):
    enabled: bool = Field(True, description="ENABLE_BLUE_GREEN_DEPLOYMENT; off: deployments are refused.")
    timeout: Duration = Field(timedelta(minutes=30), description="Active time until promotion (DEPLOYMENT_TIMEOUT).")
    rollback_timeout: Duration = Field(timedelta(minutes=10), description="From the order to the end of a rollback (ROLLBACK_TIMEOUT).")
    auto_rollback: bool = Field(True, description="ENABLE_AUTO_ROLLBACK; off: freeze and ask a person.")
    gradual: bool = Field(True, description="ENABLE_GRADUAL_TRAFFIC_SWITCH; off: from 0 to 100 at once.")
    weights: list[int] = Field(
        default_factory=lambda: [10, 25, 50, 75, 100], description="Percent of new requests, step by step; the last is 100."
    )
    step: StepOptions = Field(default_factory=StepOptions)
    bake: Duration = Field(timedelta(minutes=10), description="Watch after promotion, judged absolutely.")
    rollback_window: Duration = Field(timedelta(hours=1), description="How long the old environment stands ready after the bake.")
    pause_timeout: Duration = Field(timedelta(hours=24), description="Longest pause, then the deployment rolls back.")


class EvidenceOptions(Strict):
    alpha: float = Field(0.01, gt=0, lt=0.5, description="Chance of a false rollback over a whole deployment.")
    ratio: float = Field(1.5, ge=1, le=10, description="The candidate may fail this many times as often as the baseline.")
    floor: float = Field(0.005, gt=0, lt=1, description="Failure share below which nothing is rolled back.")
    latency_limit: Duration = Field(timedelta(seconds=5), description="A client that left after this long counts as a failure.")


class CheckCommand(Strict):
    """A command of the user's whose exit status 0 means passed."""

    command: Argv = Field(description="Argument list; {version}, {environment}, {base_url}, {preview_url} and others are replaced.")
    undo: Argv | None = Field(None, description="Argument list that takes the effect back on rollback, where there is one.")
    timeout: Duration = Field(timedelta(minutes=10), description="Then the command is ended and counts as failed.")
    enabled: bool = Field(True, description="Off: the step is left out of the plan.")


class ChecksOptions(Strict):
    """What is proven before users come; only what is configured is in the plan."""

    pre_deployment_tests: CheckCommand | None = Field(None, description="Before the release is started (ENABLE_PRE_DEPLOYMENT_TESTS).")
    database_migration: CheckCommand | None = Field(None, description="Before the release is started (ENABLE_DATABASE_MIGRATION).")
    post_deployment_tests: CheckCommand | None = Field(None, description="Against the preview (ENABLE_POST_DEPLOYMENT_TESTS).")
    cache_warming: CheckCommand | None = Field(None, description="Against the preview (ENABLE_CACHE_WARMING).")
    load_test: CheckCommand | None = Field(None, description="Against the preview (ENABLE_LOAD_TESTING).")


class ControllerOptions(Strict):
    lease: Duration = Field(timedelta(seconds=10), description="Time to live of a controller's right to write.")
    log_lines_max_mb: int = Field(64, ge=1, le=4096, description="An access log above this size is rotated.")


class Config(Strict):
    """bleen.yaml."""

    service: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,38}$")] = Field(
        description="Name of the service: lower case letters, digits and -."
    )
    state: str = Field(".bleen", description="Folder of bleen's state, relative to bleen.yaml; on a local disk.")
    environments: Environments
    health: HealthOptions = Field(default_factory=HealthOptions)
    runtime: RuntimeOptions
    traffic: TrafficOptions = Field(default_factory=NginxTraffic)
    deployment: DeploymentOptions = Field(default_factory=DeploymentOptions)
    evidence: EvidenceOptions = Field(default_factory=EvidenceOptions)
    checks: ChecksOptions = Field(default_factory=ChecksOptions)
    controller: ControllerOptions = Field(default_factory=ControllerOptions)

    @model_validator(mode="after")
    def _places_are_distinct(self) -> Self:
        # Filled in by the loader's rules: a port twice, both environments on one endpoint.
        if isinstance(self.runtime, ProcessRuntime):
            pass
        return self
