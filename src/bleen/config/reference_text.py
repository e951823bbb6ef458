"""The prose of docs/configuration.md around the tables that `reference.py` makes."""

from __future__ import annotations

BEFORE = """\
# Configuration

<!-- Made by: python -m bleen.config.reference > docs/configuration.md -->

One `bleen.yaml` describes how one service is deployed. `bleen init` writes a first one with every default as a comment,
`bleen check` says what is wrong, `bleen config` shows what holds and where each value comes from, `bleen schema` prints the
JSON Schema for editors.

- **Which file.** The one that the command line names, else the one that `BLEEN_CONFIG` names (a file, or the folder that
  holds `bleen.yaml`), else `bleen.yaml` in the working directory or the nearest folder above it. One found in a folder above is
  refused when another user owns it, because bleen runs the commands that stand in it.
- **What wins.** An environment variable, then `bleen.yaml`, then the default.
- **Paths** are relative to `bleen.yaml`, never to the working directory. `~` is not expanded.
- **Durations** have a unit: `500ms`, `30s`, `5m`, `2h`, `1d`, `1h30m`; nothing is finer than 1ms.
- **Argument lists** are run as they are, never by a shell: `[python, app.py, --port, "{port}"]`.
- **State** is kept on a local disk: a network file system is refused, because locks do not hold there.
- **Mistakes** are all reported at once, each with its line or variable, the key, the value and what is allowed. Unknown keys
  and keys that stand twice are mistakes. Dates and YAML 1.1's base 60 numbers (`1:30`) are read as text.

## Secrets

A value in `runtime.variables` may be a reference, resolved when a release is started and never stored or shown:

| Written | Means |
|---|---|
| `env:NAME` | the environment variable NAME of the process that drives the deployment |
| `file:PATH` | the content of a file, relative to `bleen.yaml`, without one newline at its end |

Any other value is taken as it is. One whose name looks like a secret (PASSWORD, PASSWD, PASSPHRASE, TOKEN, SECRET, KEY, DSN,
CREDENTIAL, unless it ends in _FILE, _PATH or _DIR), or that is an address with a password, brings a warning, and `bleen config`
shows `***` in its place. A value that should itself begin with `env:` or `file:` is given through a reference.
"""

AFTER = """\
A variable that is set but empty is a mistake: unset it instead. The five variables of `checks` switch what is configured in
`bleen.yaml`; where nothing is configured they have no effect, and a warning says so.

## What a switch means when it is off

`bleen deploy` names each protection that is switched off.

| Switch | Off means |
|---|---|
| `ENABLE_BLUE_GREEN_DEPLOYMENT` | deployments are refused (exit status 4); status, history and rollback go on working |
| `ENABLE_AUTO_ROLLBACK` | on evidence of harm the deployment freezes where it stands and ends in 3, for a person; it never promotes |
| `ENABLE_GRADUAL_TRAFFIC_SWITCH` | traffic goes from 0 to 100 % at once, after the full preflight, and is judged absolutely |
| `ENABLE_PRE_DEPLOYMENT_TESTS` | the tests before the release is started are left out of the plan |
| `ENABLE_POST_DEPLOYMENT_TESTS` | the tests against the preview are left out of the plan; health and version are proven all the same |
| `ENABLE_DATABASE_MIGRATION` | the migration is left out of the plan: the release meets the database as it is |
| `ENABLE_CACHE_WARMING` | the warming is left out of the plan: the first users meet a cold cache |
| `ENABLE_LOAD_TESTING` | the load test is left out of the plan: the first load is the users' |

## What happens when time runs out

| Limit | Counts | When it expires |
|---|---|---|
| `deployment.timeout` | active time until promotion; not pauses, not the bake | rollback |
| `health.timeout` | from the start of the release until it is healthy | rollback: the standby is stopped, no user was ever on it |
| `deployment.rollback_timeout` | from the order to the end of a rollback | ends in 3, for a person; the candidate never gets users back |
| `deployment.pause_timeout` | one pause | rollback |
| `deployment.step.min_requests` not reached | the step holds, which counts against `deployment.timeout` | rollback when that expires |
| `deployment.bake` | the watch after promotion | done: the release is active |
| `deployment.rollback_window` | after the bake | the old environment is retired; before that, a rollback needs no start |
| `runtime.stop_timeout` | from SIGTERM on | SIGKILL |
| `runtime.timeout` (type command) | each command | the command is ended and counts as failed |
| `health.probe_timeout` | one probe | the probe failed; `health.failures` in a row fail the environment |
| `checks.*.timeout` | one check | the check failed: rollback |
| `traffic.read_timeout` | silence of an upstream | that request fails |
| `controller.lease` | since the controller's last sign of life | another controller may take over, and resumes or rolls back |
"""
