"""A YAML file as plain data with the line of every key. Hostile files are refused, mistakes are collected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bleen.errors import ConfigurationError

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # after aliases were expanded: a few lines of them can make billions

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str"))
_DATE_TAG = _TAG + "timestamp"
_MERGE_TAG = _TAG + "merge"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake at one key. Without a `line` of its own it is shown at the nearest key that has one."""

    path: KeyPath
    text: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """What stands in the file: mappings, lists, text, numbers, booleans and null; the line of each, from 1."""

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    problems: tuple[Problem, ...]


def read_document(path: Path) -> Document:
    """The file as data; raises ConfigurationError for one that is missing, too large or not YAML."""
    text = _read_text(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1 if node else 1
            raise ConfigurationError(f"{path.name}:{line}: only a mapping of keys is allowed at the top, as in service: payments")
        reading = _Reading(path.name, loader)
        data = reading.mapping(node, ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(f"{path.name}:{line}: a control character, which YAML does not allow") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path.name}:{mark.line + 1}:{mark.column + 1}" if mark else path.name
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigurationError(f"{where}: this is not YAML: {words}") from error
    except RecursionError:
        # Not chained: the traceback is a thousand frames of the same.
        raise ConfigurationError(f"{path.name}: nested too deeply, or an alias that contains itself") from None
    return Document(data, reading.lines, tuple(reading.problems))


def report(path: Path, lines: Mapping[KeyPath, int], variables: Mapping[KeyPath, str], problems: Iterable[Problem]) -> ConfigurationError:
    """All problems as one error, in the order of the file; `variables` names the environment variable that set a key."""
    located = sorted((placed(path.name, lines, variables, problem) for problem in problems), key=lambda entry: entry[0])
    rendered = [text for _, text in located]
    head = "" if len(rendered) == 1 else f"{len(rendered)} problems in the configuration {path}\n  "
    return ConfigurationError(head + "\n  ".join(rendered), next_command="bleen check")


def placed(name: str, lines: Mapping[KeyPath, int], variables: Mapping[KeyPath, str], problem: Problem) -> tuple[int, str]:
    """A problem with its place, and the line to sort it by; what a variable set comes after the file."""
    where = dotted(problem.path)
    subject = f"{where}: {problem.text}" if where else problem.text
    known = [problem.path[:end] for end in range(len(problem.path), 0, -1)]
    variable = next((variables[path] for path in known if path in variables), "")
    if variable:
        return 10**9, f"env {variable}: {subject}"
    line = problem.line or next((lines[path] for path in known if path in lines), 1)
    return line, f"{name}:{line}: {subject}"


def dotted(path: KeyPath) -> str:
    """A key path as people write it: deployment.step.dwell, environments.blue.endpoints[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def is_text(value: str) -> bool:
    """False for what no process takes as an argument: NUL, and the surrogates that YAML can write as escapes."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file", next_command="bleen init")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigurationError(f"{path} is larger than {MAX_BYTES} bytes")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path.name}:{line}: byte {error.start} is not UTF-8") from error


@dataclass(slots=True)
class _Reading:
    """Turns nodes into data, counting what aliases expand to."""

    name: str
    loader: yaml.SafeLoader
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE_TAG:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode) or not is_text(key_node.value):
                self.problems.append(Problem(path, "a key is a word: no list, no mapping, no NUL, no half of a character", line))
                continue
            key = key_node.value  # as written: NO and 1 are names here, not a boolean and a number
            if key in result:
                self.problems.append(Problem((*path, key), f"this key stands here already, in line {self.lines[(*path, key)]}", line))
                continue
            self.lines.setdefault((*path, key), line)
            result[key] = self.value(value_node, (*path, key))
        for other in merged:
            self.count(other)
            if isinstance(other, yaml.MappingNode):
                result = self.mapping(other, path) | result
            else:
                self.problems.append(Problem(path, "<< merges mappings only", other.start_mark.line + 1))
        return result

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count(node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines.setdefault((*path, index), item.start_mark.line + 1)
                items.append(self.value(item, (*path, index)))
            return items
        return self.scalar(node, path)

    def count(self, node: yaml.Node) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise ConfigurationError(f"{self.name}:{node.start_mark.line + 1}: more than {MAX_VALUES} values after aliases were expanded")

    def scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        if not is_text(node.value):
            self.problems.append(Problem(path, "a value cannot hold a NUL or half of a character (\\uD800 to \\uDFFF)", line))
            return ""
        # Dates and YAML 1.1's base 60 numbers (1:30 is 90) are text here: nothing in a configuration means them.
        if node.tag == _DATE_TAG or (node.tag != _TAG + "str" and ":" in node.value):
            return node.value
        if node.tag not in _PLAIN_TAGS:
            self.problems.append(Problem(path, f"the tag {node.tag.replace(_TAG, '!!')} is not supported; allowed: plain values", line))
            return ""
        try:
            return self.loader.construct_object(node)
        except ValueError:
            self.problems.append(Problem(path, f"this is no value of the type {node.tag.removeprefix(_TAG)}", line))
            return ""
