"""Docstrings here are plain text with Markdown's backquotes; reStructuredText gives more characters a meaning."""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(`[^`]*`)")
MARKUP = re.compile(r"([*|_])(?=\W|$)")


def plain(_app: Sphinx, _what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    """Escapes what would be read as markup outside of backquotes; changes `lines` in place."""
    lines[:] = [_escaped(line) for line in lines]


def _escaped(line: str) -> str:
    if line.lstrip().startswith((":", "..")):  # fields and directives that napoleon made
        return line
    parts = CODE.split(line)
    return "".join(part if CODE.fullmatch(part) else MARKUP.sub(r"\\\1", part) for part in parts)
