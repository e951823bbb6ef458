"""Every error that bleen raises, as one tree.

    BleenError
    ├── UsageError                  the call is wrong; nothing was read or changed (exit 2)
    │   └── ConfigurationError      bleen.yaml or an environment variable is wrong
    ├── Refused                     the call is right, the state is not; nothing changed (exit 4)
    │   ├── DeploymentActive        another deployment of the service is under way
    │   ├── WrongState              the command does not apply in this state
    │   ├── PreflightFailed         the world is not ready for a deployment
    │   ├── StoreMismatch           the proxy's folder belongs to another store
    │   └── LeaseHeld               another controller drives the service
    ├── Fenced                      a newer epoch exists; this writer must stop
    ├── StepFailed                  permanent: a step cannot succeed; the deployment rolls back
    │   ├── DeadlineExceeded        a hard deadline passed
    │   ├── RuntimeFailed           a release could not be started, stopped or asked
    │   └── ProofFailed             what was proven did not hold (health, identity, tests)
    ├── Transient                   retryable: the world did not answer in time
    │   ├── RouterUnavailable       the proxy did not take or confirm a route
    │   └── StoreUnavailable        the store did not answer
    └── AttentionNeeded             a person must look; bleen will not guess (exit 3)

A message gives the evidence, says where the traffic is, and `next_command` names what to run next.
"""

from __future__ import annotations


class BleenError(Exception):
    """The root: carries the sentence for people and the next command to run."""

    exit_code = 3

    def __init__(self, message: str, *, next_command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_command = next_command

    def __str__(self) -> str:
        if self.next_command:
            return f"{self.message}\n  next: {self.next_command}"
        return self.message


class UsageError(BleenError):
    exit_code = 2


class ConfigurationError(UsageError):
    """One or more problems of the configuration, each with the key's path, the value and what is allowed."""


class Refused(BleenError):
    exit_code = 4


class DeploymentActive(Refused):
    pass


class WrongState(Refused):
    pass


class PreflightFailed(Refused):
    pass


class StoreMismatch(Refused):
    pass


class LeaseHeld(Refused):
    pass


class Fenced(BleenError):
    pass


class StepFailed(BleenError):
    exit_code = 1


class DeadlineExceeded(StepFailed):
    pass


class RuntimeFailed(StepFailed):
    pass


class ProofFailed(StepFailed):
    pass


class Transient(BleenError):
    pass


class RouterUnavailable(Transient):
    pass


class StoreUnavailable(Transient):
    exit_code = 4


class AttentionNeeded(BleenError):
    pass
