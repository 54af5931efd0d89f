"""Docstrings here are plain text with Markdown's backquotes; reStructuredText gives more characters a meaning."""

import re
from collections.abc import Callable
from typing import Protocol

CODE = re.compile(r"(`[^`]*`)")
MARKUP = re.compile(r"([*|_])(?=\W|$)")


class Application(Protocol):
    """What is needed of Sphinx, which not every environment has."""

    def connect(self, event: str, callback: Callable[..., None], /) -> int:
        """Calls a function at an event of a build."""


def plain(_app: Application, _what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    """Escapes what would be read as markup outside of backquotes; changes `lines` in place."""
    lines[:] = [_escaped(line) for line in lines]


def _escaped(line: str) -> str:
    if line.lstrip().startswith((":", "..")):  # fields and directives that napoleon made
        return line
    parts = CODE.split(line)
    return "".join(part if CODE.fullmatch(part) else MARKUP.sub(r"\\\1", part) for part in parts)
