"""Durations as people write them: 45s, 90m, 2h30m, 30d."""

import re

from pipeline.errors import ConfigError

UNITS = {"w": 7 * 86400.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


LONGEST = 100 * 366 * 86400.0


WRITTEN = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in UNITS))


def parse_duration(text: str) -> float:
    """Seconds in a duration such as 45s, 90m, 2h30m, 1.5h or 30d.

    A duration is numbers with units from weeks to seconds, the larger unit first.

    Raises:
        ConfigError: it is not a duration, or longer than a hundred years.
    """
    written = WRITTEN.fullmatch(text.strip().lower())
    groups = written.groupdict() if written else {}
    parts = {unit: float(number) for unit, number in groups.items() if number is not None}
    seconds = sum(number * UNITS[unit] for unit, number in parts.items())
    if not parts or seconds > LONGEST:
        why = f"is longer than {LONGEST / UNITS['d']:,.0f} days" if parts else "is not a duration"
        raise ConfigError(
            f"{text!r} {why}; write numbers with the units w, d, h, m and s (weeks, days, hours, minutes, seconds), "
            "the larger unit first: 45s, 90m, 2h30m, 30d"
        )
    return seconds
