"""Filters of the pages' templates: numbers, durations, dates and tones as text."""

import re
import unicodedata
from datetime import datetime

from pydantic import JsonValue

from pipeline.config.on_verdict import CANNOT_TELL, NOTHING_UNUSUAL, UNUSUAL

TONES = {UNUSUAL: "alarm", CANNOT_TELL: "unsure", NOTHING_UNUSUAL: "calm"}

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, signs of direction, lone surrogates, separators of lines


EMBEDDED_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")


def tone(verdict: str) -> str:
    """The colour class of a verdict; an unknown one counts as unsure."""
    return TONES.get(verdict, "unsure")


def number(value: float | None) -> str:
    """Counts in full, other numbers with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def percent(share: float | None) -> str:
    """A share between 0 and 1 as a percentage."""
    return "-" if share is None else f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return "-"
    factor, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    value = seconds / factor
    shown = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{shown}\N{NO-BREAK SPACE}{unit}"


def when(run_id: str) -> str:
    """The time that a run id starts with; empty for an id of another form."""
    try:
        return f"{datetime.strptime(run_id[:15], '%Y%m%dT%H%M%S'):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return ""


def when_exactly(stamp: str) -> str:
    """The time of a stamp, to the second."""
    return f"{datetime.strptime(stamp[:15], '%Y%m%dT%H%M%S'):%Y-%m-%d %H:%M:%S} UTC"


def flatten(value: JsonValue, name: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, text)."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flatten(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [(name, ", ".join(str(item) for item in value))]
    return [(name, "-" if value is None else str(value))]


def embedded(uri: str | None) -> str | None:
    """The URI if it carries a PNG itself, so that a page can never be made to fetch anything."""
    return uri if uri and EMBEDDED_PNG.fullmatch(uri) else None


def visible(text: str) -> str:
    """Text with its control characters and signs of direction written out, ESC as backslash, x, 1, b.

    Lines and tabs stay.
    """
    unseen = [one for one in set(text) if one not in "\n\t" and unicodedata.category(one) in UNSEEN]
    return text.translate({ord(one): one.encode("unicode_escape").decode() for one in unseen})
