"""How an audit is shown in a notebook: a table of its models, and the histogram of a model's scores as one SVG.

Pure: summaries in, text out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.publication.filters import visible, when
from pipeline.publication.pages import template
from pipeline.root.summary import Summary

COLUMNS = ("model", "verdict", "run", "audited", "flagged", "not scored")


@dataclass(frozen=True)
class ScoreChart:
    """The histogram of a model's scores, with the threshold, as an SVG document, which notebooks show."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


def cells(name: str, summary: Summary | None) -> tuple[str, ...]:
    """A model's row of the table, as text; dashes where no run of it was completed."""
    if summary is None:
        return (name, "no completed run", "-", "-", "-", "-")
    counts, run_id = summary.counts, summary.run_id
    numbers = (counts.audited, counts.flagged, counts.unreadable + counts.failed)
    return (name, summary.verdict.value, when(run_id) or run_id, *(f"{count:,}" for count in numbers))


def as_text(root: str, latest: str, rows: Sequence[Sequence[str]]) -> str:
    """Root, latest run and models, a line each."""
    models = [f"  {row[0]}: {row[1]}, {row[4]} of {row[3]} flagged" for row in rows]
    return "\n".join([f"Audit {root}, latest run {latest or 'none'}", *models])


def as_html(root: str, latest: str, rows: Sequence[Sequence[str]]) -> str:
    """The same as a table; names are escaped, so that nothing in them runs."""
    return visible(template("audit.html.j2").render(root=root, latest=latest, columns=COLUMNS, rows=rows))


def chart(summary: Summary) -> ScoreChart:
    """The chart of a summary, as its page has it; where nothing has a score, it says so."""
    drawn = template("chart.svg.j2")
    return ScoreChart(
        drawn.render(model=summary.model, bins=summary.histogram, threshold=summary.calibration.threshold)
    )
