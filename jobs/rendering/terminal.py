"""Text for a terminal: data cannot move the cursor, change colours or forge lines, and no URL shows a password."""

import logging

from infra.storage.urls import masked


def plain(value: str) -> str:
    """A value on one line, with unprintable characters written out: ESC becomes backslash, x, 1, b."""
    return "".join(
        character if character.isprintable() or character == "\N{NO-BREAK SPACE}" else _written_out(character)
        for character in value
    )


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def sentence(text: str) -> str:
    """Text on one line: line breaks become spaces, the rest is as in `printable`."""
    return plain(printable(" ".join(text.splitlines())))


def printable(text: str) -> str:
    """Lines of text with unprintable characters written out and passwords in URLs masked."""
    return "\n".join(map(plain, masked(text).replace("\t", "    ").split("\n")))


class PrintableFormatter(logging.Formatter):
    """Log records as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and its traceback if it has one."""
        return printable(super().format(record))
