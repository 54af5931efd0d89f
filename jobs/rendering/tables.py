"""Tables, numbers and lists as text for a terminal."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from jobs.rendering.terminal import plain, sentence

MOST_NAMED = 100


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A plain text table; columns that hold numbers only are set right."""
    numeric = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    grid = Table(
        title=sentence(title) or None,
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name, right in zip(columns, numeric, strict=True):
        grid.add_column(name, justify="right" if right else "left", no_wrap=True, header_style="")
    for row in rows:
        grid.add_row(*(plain(cell) for cell in row))
    sink = io.StringIO()
    Console(file=sink, width=100_000, no_color=True, markup=False, highlight=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _is_number(cell: str) -> bool:
    return (
        cell in ("", "-")
        or cell.replace(",", "").replace("%", "").replace(" ", "").replace(".", "").replace("-", "").isdigit()
    )


def share(value: object, digits: int = 3) -> str:
    """A number between 0 and 1, or - where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, float) else "-"


def size(count: int) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    raise AssertionError


def named(names: Sequence[str]) -> str:
    """Names in a row, the first MOST_NAMED of many."""
    more = len(names) - MOST_NAMED
    return ", ".join([*names[:MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])])
