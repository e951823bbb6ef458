"""Names in braces, replaced in the user's commands: strict, once, and never across the border of an argument."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from bleen.errors import ConfigurationError, RuntimeFailed


@dataclass(frozen=True, slots=True)
class Template:
    """A text whose {names} are all known. {{ and }} are literal braces."""

    where: str  # the key in bleen.yaml
    parts: tuple[tuple[str, str | None], ...]  # literal text, then the name that follows it

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with each name replaced once; what a value holds is never looked at again."""
        return "".join(literal + ("" if name is None else self._checked(name, values[name])) for literal, name in self.parts)

    def _checked(self, name: str, value: str) -> str:
        # What git refuses in a branch as well: it could be read as an option, or lead out of a folder.
        if value.startswith(("-", "/")) or ".." in value.split("/"):
            raise RuntimeFailed(f"{name} {value!r} cannot be put into {self.where}: it begins with - or /, or holds a part ..")
        return value


def template(text: str, where: str, known: Collection[str]) -> Template:
    """`text` as a Template; raises ConfigurationError for a name that is not known, or a lone brace."""
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ConfigurationError(f"{where}: {text!r}: {error}; a literal brace is written {{{{ or }}}}") from error
    for _, name, format_spec, conversion in parsed:
        if name is not None and (name not in known or format_spec or conversion):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{format_spec}" if format_spec else "")
            names = ", ".join(f"{{{each}}}" for each in sorted(known))
            raise ConfigurationError(
                f"{where}: {text!r} holds {{{shown}}}, which is not known; known are {names}; a literal brace is written {{{{ or }}}}"
            )
    return Template(where, tuple((literal, name) for literal, name, _, _ in parsed))


def templates(argv: Sequence[str], where: str, known: Collection[str]) -> tuple[Template, ...]:
    """An argument list as templates: one argument stays one argument, whatever its values hold."""
    return tuple(template(argument, f"{where}[{index}]", known) for index, argument in enumerate(argv))


def fill(argv: Sequence[Template], values: Mapping[str, str]) -> list[str]:
    return [argument.fill(values) for argument in argv]
