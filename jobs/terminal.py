"""Text for a terminal: what comes from data cannot move its cursor, change its colours or forge lines, and no URL shows a password."""

import logging

from infra.storage.urls import masked


def plain(value: str) -> str:
    """A value on one line, everything that is no printable character replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)


def sentence(text: str) -> str:
    """Text on one line: its line breaks become spaces, and all else is as `printable` makes it."""
    return plain(printable(" ".join(text.splitlines())))


def printable(text: str) -> str:
    """Lines of text, everything else that is no printable character replaced, and passwords in URLs masked."""
    return "\n".join(map(plain, masked(text).replace("\t", "    ").split("\n")))


class PrintableFormatter(logging.Formatter):
    """Log records as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and its traceback where it has one."""
        return printable(super().format(record))
