"""The documents: links lead somewhere, what they show is accepted by bleen, and they speak of the project alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bleen.cli.controller import app as controller
from bleen.cli.main import app
from bleen.config.load import load
from bleen.config.schema import Config

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
TEXTS = sorted(
    [*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / ".ci").iterdir(), *(ROOT / "requirements").iterdir()]
    + [path for folder in ("src", "tests", "examples") for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".jinja", ".yaml"}]
)
# In pieces, so that this file does not hold what it looks for.
HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".com", "crates" + ".io", "docker" + ".io", "ghcr" + ".io")
ELSEWHERE = re.compile(r"(?<![\w.~-])/(?:work|" + r"root|home)/")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    broken = []
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("text", TEXTS, ids=named)
def test_no_file_names_a_registry_or_a_place_of_one_machine(text: Path) -> None:
    content = text.read_text()
    assert [host for host in HOSTS if host in content] == []
    assert ELSEWHERE.findall(content) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback} | {"controller"}
    of_controller = {command.name or command.callback.__name__ for command in controller.registered_commands if command.callback}
    unknown = []
    for line in _code(page.read_text()):
        for words in re.findall(r"(?:^|&& |; |/|-u \w+ |\w+@\w+ )bleen(?: -c \S+)?((?: [a-z]+)+)", line):
            first, *more = words.split()
            if first not in commands or (first == "controller" and more and more[0] not in of_controller):
                unknown.append(line)
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_configuration_that_is_shown_is_accepted(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(service:.*?)```", page.read_text(), re.DOTALL):
        (tmp_path / "bleen.yaml").write_text(block)
        load(tmp_path / "bleen.yaml", {})


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_key_that_is_named_is_in_the_schema(page: Path) -> None:
    """What looks like a key and is none is an event or a field of `--json`, which the reference of the commands lists."""
    sections = set(Config.model_fields) - {"service", "state", "controller"}  # controller.log is a file
    names = re.findall(rf"`(?:{'|'.join(sections)})((?:\.[a-z_]+)+)`", page.read_text())
    known = _keys(Config.model_json_schema()) | set(re.findall(r"[a-z_]+", (ROOT / "docs" / "cli.md").read_text()))
    assert [name for name in names if not set(name.split(".")[1:]) <= known] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_python_that_is_shown_can_be_read(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/bleen.yaml")), ids=named)
def test_the_configuration_of_an_example_is_accepted_without_a_warning(path: Path) -> None:
    assert load(path, {}).warnings == ()


def test_the_index_names_every_document() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)]+)\)", index.read_text())}
    assert {path for path in (ROOT / "docs").rglob("*.md") if path != index} <= linked


def test_the_readme_answers_on_its_first_screen() -> None:
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    first = "\n".join(lines[:25] + lines[lines.index("## Install") :][:12])  # whatever output stands between them
    for shown in ("`make demo`", "`make test`", "pip install .", "bleen deploy --version", "bleen rollback"):
        assert shown in first


def _code(text: str) -> Iterator[str]:
    """Lines of code blocks, and what stands between backquotes."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip().removeprefix("$ ").partition(" # ")[0]
        else:
            yield from re.findall(r"`([^`]+)`", line)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def _anchors(file: Path) -> set[str]:
    """The headings of a page as the usual renderers name them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _keys(schema: object) -> set[str]:
    """Every name of a property, however deep."""
    if isinstance(schema, list):
        return set().union(*map(_keys, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    return own.union(*(_keys(value) for value in schema.values()))
