"""The first bleen.yaml, and the reference document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bleen.config.environment import VARIABLES
from bleen.config.load import load
from bleen.config.reference import reference
from bleen.config.schema import Config
from bleen.config.shape import all_sections
from bleen.config.starter import starter, write_starter
from bleen.errors import ConfigurationError, Refused

ROOT = Path(__file__).parents[2]


def uncommented(text: str) -> str:
    """The starter with every commented key in force; prose begins with one # and one space."""
    return re.sub(r"^#((?:  )*[a-z_]+:)", r"\1", text, flags=re.MULTILINE)


def test_the_starter_loads_with_defaults_and_without_a_warning(tmp_path: Path) -> None:
    write_starter(tmp_path / "bleen.yaml", "payments-api")
    loaded = load(tmp_path / "bleen.yaml", {})
    assert loaded.config.service == "payments-api"
    assert loaded.warnings == ()
    assert loaded.config.deployment == type(loaded.config.deployment)()


def test_the_first_line_tells_editors_of_the_schema() -> None:
    assert starter("payments").splitlines()[0] == "# yaml-language-server: $schema=bleen.schema.json"


def test_what_the_starter_shows_as_defaults_are_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "bleen.yaml").write_text(uncommented(starter("payments")), encoding="utf-8")
    everything = load(tmp_path / "bleen.yaml", {}).config
    plain = Config.model_validate(yaml.safe_load(starter("payments")))
    for section in ("state", "health", "traffic", "deployment", "evidence", "controller"):
        assert getattr(everything, section) == getattr(plain, section)


def test_the_starter_names_every_key() -> None:
    shown = yaml.safe_load(uncommented(starter("payments")))
    for path, model in all_sections():
        if path[:1] == ("checks",) and len(path) == 2:
            continue  # an example of a check is enough
        section = shown
        for part in path:
            section = section[part]
        if model.__name__ != "CommandRuntime":
            assert set(model.model_fields) == set(section), path


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "bleen.yaml"
    path.write_text("mine\n", encoding="utf-8")
    with pytest.raises(Refused, match="exists already; it was not touched") as caught:
        write_starter(path, "payments")
    assert caught.value.exit_code == 4
    assert path.read_text(encoding="utf-8") == "mine\n"


def test_force_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "bleen.yaml"
    path.write_text("mine\n", encoding="utf-8")
    write_starter(path, "payments", force=True)
    assert path.read_text(encoding="utf-8") == starter("payments")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be written: No such file"):
        write_starter(tmp_path / "nowhere" / "bleen.yaml", "payments")


@pytest.mark.parametrize("service", ["", "Payments", "a b", "a\nstate: /etc", "x" * 40])
def test_a_name_that_no_service_can_have_is_refused(tmp_path: Path, service: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name of a service; allowed: lower case letters"):
        write_starter(tmp_path / "bleen.yaml", service)
    assert not (tmp_path / "bleen.yaml").exists()


def test_the_reference_is_current() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m bleen.config.reference > docs/configuration.md"


def test_the_reference_names_every_key_and_every_variable() -> None:
    text = reference()
    for path, model in all_sections():
        place = ("checks", "*") if path[:1] == ("checks",) and len(path) == 2 else path
        for key in model.model_fields:
            assert f"`{'.'.join(map(str, (*place, key)))}`" in text or f"## {'.'.join(map(str, (*place, key)))}" in text, (path, key)
    for variable in VARIABLES:
        assert text.count(f"| `{variable.name}` |") >= 1
