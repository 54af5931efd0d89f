"""How an audit shows itself in a notebook: a table of its models, and the histogram of a model's scores as one SVG. Pure: summaries in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.publication.filters import when
from pipeline.publication.pages import template

Summary = Mapping[str, JsonValue]


COLUMNS = ("model", "verdict", "run", "audited", "flagged", "not scored")


@dataclass(frozen=True)
class ScoreChart:
    """The histogram of a model's scores, audited against calibration, with the threshold: `svg` is a document of its own, which notebooks show."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


def cells(name: str, summary: Summary | None) -> tuple[str, ...]:
    """A model's row of the table, as text; dashes where no run of it has completed."""
    if summary is None:
        return (name, "no completed run", "-", "-", "-", "-")
    counts, verdict = _mapping(summary, "counts"), _mapping(summary, "verdict")
    unscored = sum(_count(counts, status) for status in ("unreadable", "failed"))
    run_id = str(summary["run_id"])
    return (
        name,
        str(verdict.get("value", "-")),
        when(run_id) or run_id,
        f"{_count(counts, 'audited'):,}",
        f"{_count(counts, 'flagged'):,}",
        f"{unscored:,}",
    )


def as_text(root: str, latest: str, rows: Sequence[Sequence[str]]) -> str:
    """Root, latest run and models in lines."""
    return "\n".join(
        [
            f"Audit {root}, latest run {latest or 'none'}",
            *(f"  {row[0]}: {row[1]}, {row[4]} of {row[3]} flagged" for row in rows),
        ]
    )


def as_html(root: str, latest: str, rows: Sequence[Sequence[str]]) -> str:
    """The same as a table; nothing in it runs, whatever names say."""
    return template("audit.html.j2").render(root=root, latest=latest, columns=COLUMNS, rows=rows)


def chart(summary: Summary) -> ScoreChart:
    """The chart of a summary, as its page has it; where nothing has a score, it says so."""
    threshold = _mapping(summary, "calibration").get("threshold")
    return ScoreChart(
        template("chart.svg.j2").render(
            model=summary["model"], bins=_mapping(summary, "histogram"), threshold=threshold
        )
    )


def _mapping(summary: Summary, name: str) -> Summary:
    value = summary.get(name)
    return value if isinstance(value, dict) else {}


def _count(counts: Summary, name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) else 0
