"""bleen.yaml as a strict schema. One file describes one service."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field
from pydantic.json_schema import GenerateJsonSchema

from bleen.config.adapters import NginxTraffic, RuntimeOptions, TrafficOptions
from bleen.config.fields import (
    Argv,
    Duration,
    DurationOrZero,
    EndpointUrl,
    FilePath,
    HttpPath,
    ServiceName,
    Strict,
    WebUrl,
    Weights,
    at_least,
    format_duration,
)
from bleen.config.locate import DEFAULT_STATE
from bleen.model.environment import Endpoint, Environment


class EnvironmentOptions(Strict):
    """One of the two places in which a release can run."""

    endpoints: list[EndpointUrl] = Field(min_length=1, description="Where the environment answers: scheme, host and port of each.")
    health_url: WebUrl | None = Field(
        None,
        description="Full URL of the basic health check (BLUE_HEALTH_CHECK_URL, GREEN_HEALTH_CHECK_URL); else endpoint + path.",
    )

    def parsed(self) -> list[Endpoint]:
        """The endpoints as scheme, host and port."""
        parts = [urlsplit(endpoint) for endpoint in self.endpoints]
        return [Endpoint(part.scheme, part.hostname or "", part.port or 0) for part in parts]


class Environments(Strict):
    """Blue and green: where each of them answers."""

    blue: EnvironmentOptions = Field(description="The one; which is active is the store's knowledge, not the file's.")
    green: EnvironmentOptions = Field(description="The other.")

    def of(self, environment: Environment) -> EnvironmentOptions:
        return self.blue if environment is Environment.BLUE else self.green


class HealthOptions(Strict):
    """How bleen asks whether an environment is well."""

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
    """What each weight of the ladder must see before the next."""

    dwell: Duration = Field(timedelta(seconds=30), description="Least time at each weight.")
    min_requests: int = Field(50, ge=0, description="Candidate requests at each weight before it passes; 0: time alone decides.")


class DeploymentOptions(Strict):
    """How a release becomes active, and how long each part may take."""

    enabled: bool = Field(True, description="ENABLE_BLUE_GREEN_DEPLOYMENT; off: deployments are refused.")
    timeout: Duration = Field(timedelta(minutes=30), description="Active time until promotion (DEPLOYMENT_TIMEOUT).")
    rollback_timeout: Duration = Field(timedelta(minutes=10), description="From the order to the end of a rollback (ROLLBACK_TIMEOUT).")
    auto_rollback: bool = Field(True, description="ENABLE_AUTO_ROLLBACK; off: freeze and ask a person.")
    gradual: bool = Field(True, description="ENABLE_GRADUAL_TRAFFIC_SWITCH; off: from 0 to 100 at once.")
    weights: Weights = Field(
        [10, 25, 50, 75, 100], description="Percent of new requests, step by step, each above the one before; the last is 100."
    )
    step: StepOptions = Field(default_factory=StepOptions, description="What each weight must see before the next.")
    bake: Duration = Field(timedelta(minutes=10), description="Watch after promotion, judged absolutely.")
    rollback_window: DurationOrZero = Field(timedelta(hours=1), description="How long the old environment stands ready after the bake.")
    pause_timeout: Duration = Field(timedelta(hours=24), description="Longest pause, then the deployment rolls back.")


class EvidenceOptions(Strict):
    """When evidence is enough to take the traffic back."""

    alpha: float = Field(0.01, gt=0, lt=0.5, description="Chance of a false rollback over a whole deployment.")
    ratio: float = Field(1.5, ge=1, le=10, description="The candidate may fail this many times as often as the baseline.")
    floor: float = Field(0.005, gt=0, lt=1, description="Failure share below which nothing is rolled back.")
    latency_limit: Duration = Field(timedelta(seconds=5), description="A client that left after this long counts as a failure.")


class CheckCommand(Strict):
    """A command of the user's whose exit status 0 means passed."""

    command: Argv = Field(
        description="Argument list; {service}, {version}, {commit_hash}, {branch}, {environment}, {base_url} (the candidate's endpoint), "
        "{preview_url} and {deployment} are replaced."
    )
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
    """The process that drives deployments."""

    lease: Annotated[Duration, at_least(timedelta(seconds=2))] = Field(
        timedelta(seconds=10), description="Time to live of a controller's right to write; at least 2s."
    )
    log_lines_max_mb: int = Field(64, ge=1, le=4096, description="An access log above this size is rotated.")


class Config(Strict):
    """How one service is deployed; one file describes one service."""

    service: ServiceName = Field(description="Name of the service: lower case letters, digits and -.")
    state: FilePath = Field(DEFAULT_STATE, description="Folder of bleen's state, relative to bleen.yaml; on a local disk.")
    environments: Environments = Field(description="Blue and green: where each of them answers.")
    health: HealthOptions = Field(default_factory=HealthOptions, description="How bleen asks whether an environment is well.")
    runtime: RuntimeOptions = Field(description="What starts and stops a release in an environment.")
    traffic: TrafficOptions = Field(default_factory=NginxTraffic, description="The proxy that splits the users' requests.")
    deployment: DeploymentOptions = Field(
        default_factory=DeploymentOptions, description="How a release becomes active, and how long each part may take."
    )
    evidence: EvidenceOptions = Field(default_factory=EvidenceOptions, description="When evidence is enough to take the traffic back.")
    checks: ChecksOptions = Field(
        default_factory=ChecksOptions, description="What is proven before users come; only what is configured is in the plan."
    )
    controller: ControllerOptions = Field(default_factory=ControllerOptions, description="The process that drives deployments.")


class _Generator(GenerateJsonSchema):
    """Durations read `30s` in defaults, and no title repeats its key."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """The schema of bleen.yaml for editors: JSON Schema, draft 2020-12, without an address of its own."""
    schema = Config.model_json_schema(schema_generator=_Generator)
    for section in schema["properties"].values():
        if "discriminator" in section:  # a word of OpenAPI; in plain JSON Schema the required `type` says the same
            del section["discriminator"]
            for reference in section["oneOf"]:
                options = schema["$defs"][reference["$ref"].rsplit("/", 1)[1]]
                options["required"] = ["type", *(key for key in options.get("required", ()) if key != "type")]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "bleen.yaml"}
