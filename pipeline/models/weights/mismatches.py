"""How weights that do not fit a model are reported."""

from collections.abc import Mapping, Sequence

NAMED, LONGEST = 3, 300


def first_names(names: Sequence[str]) -> str:
    """The first names of many, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(map(_short, names[:NAMED]))}{more}"


def name_some(complaints: Mapping[str, Sequence[str]]) -> str:
    """Counts and first names by kind of fault, such as "2 missing in the file: a, b"; "" if nothing is wrong."""
    lines = []
    for what, names in complaints.items():
        if names:
            more = ", ..." if len(names) > NAMED else ""
            lines.append(f"{len(names)} {what}: {', '.join(map(_short, names[:NAMED]))}{more}")
    return "; ".join(lines)


def _short(name: str) -> str:
    """A name, cut where a file holds one that nobody could read."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
