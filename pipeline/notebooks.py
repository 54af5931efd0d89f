"""How an audit shows itself in a notebook: a table of its models, and the histogram of a model's scores as one SVG. Pure: summaries in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from pydantic import JsonValue

from pipeline.pages import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot, number, plot, when

Summary = Mapping[str, JsonValue]
COLUMNS = ("model", "verdict", "run", "audited", "flagged", "not scored")
STYLE = """.mad-scores text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #56626f; } .mad-scores .strong { fill: #1b2430; font-weight: 600; }
.mad-scores .grid { stroke: #dbe1e8; } .mad-scores path { fill-opacity: .3; stroke-width: 1.5; } .mad-scores .calibration { fill: #4d7ea8; stroke: #4d7ea8; }
.mad-scores .audited { fill: #c2551f; stroke: #c2551f; } .mad-scores .threshold { stroke: #1b2430; stroke-dasharray: 5 4; }"""


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
    return (name, str(verdict.get("value", "-")), when(run_id) or run_id, f"{_count(counts, 'audited'):,}", f"{_count(counts, 'flagged'):,}", f"{unscored:,}")


def as_text(root: str, latest: str, rows: Sequence[Sequence[str]]) -> str:
    """Root, latest run and models in lines."""
    return "\n".join([f"Audit {root}, latest run {latest or 'none'}", *(f"  {row[0]}: {row[1]}, {row[4]} of {row[3]} flagged" for row in rows)])


def as_html(root: str, latest: str, rows: Sequence[Sequence[str]]) -> str:
    """The same as a table; nothing in it runs, whatever names say."""
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<caption>Audit <code>{escape(root)}</code>, latest run <code>{escape(latest or 'none')}</code></caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def chart(summary: Summary) -> ScoreChart:
    """The chart of a summary; where nothing has a score, it says so."""
    bins, calibration = _mapping(summary, "histogram"), _mapping(summary, "calibration")
    threshold = calibration.get("threshold")
    counts = {part: [int(str(count)) for count in _listed(bins, part)] for part in ("calibration", "audited")}
    limit = None if threshold is None else float(str(threshold))
    drawn = plot([float(str(edge)) for edge in _listed(bins, "edges")], counts["calibration"], counts["audited"], limit)
    title = f"{summary['model']}: anomaly scores of {sum(counts['audited']):,} audited and {sum(counts['calibration']):,} calibration samples"
    body = _drawing(drawn, limit) if drawn else [_text(WIDTH / 2, HEIGHT / 2, "No sample has a score.")]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="mad-scores" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
    back = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return ScoreChart("\n".join([opening, f"<title>{escape(title)}</title><style>{STYLE}</style>", back, *body, "</svg>"]))


def _drawing(drawn: Plot, threshold: float | None) -> list[str]:
    lines = [_line("grid", (LEFT, y), (RIGHT, y)) + _text(LEFT - 8, y + 4, label, "end") for y, label in drawn.y_ticks]
    lines += [_text(x, BOTTOM + 20, label) for x, label in drawn.x_ticks]
    lines += [f'<path class="{part}" d="{path}"/>' for part, path in (("calibration", drawn.calibration), ("audited", drawn.audited))]
    for part, x, label in (("calibration", LEFT, "calibration, trusted"), ("audited", LEFT + 170, "audited")):
        lines.append(f'<path class="{part}" d="M{x},8 h22 v12 h-22 Z"/>' + _text(x + 30, 19, label, "start"))
    lines.append(_text(RIGHT, 19, "share of samples per bin (square-root scale)", "end"))
    if drawn.threshold is not None and threshold is not None:
        right = drawn.threshold > (LEFT + RIGHT) / 2
        lines.append(_line("threshold", (drawn.threshold, TOP - 20), (drawn.threshold, BOTTOM)))
        lines.append(_text(drawn.threshold + (-8 if right else 8), TOP - 9, f"threshold {number(threshold)}", "end" if right else "start", "strong"))
    return [*lines, _text((LEFT + RIGHT) / 2, HEIGHT - 10, "anomaly score, larger = more anomalous")]


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _mapping(summary: Summary, name: str) -> Summary:
    value = summary.get(name)
    return value if isinstance(value, dict) else {}


def _listed(values: Summary, name: str) -> list[JsonValue]:
    value = values.get(name)
    return value if isinstance(value, list) else []


def _count(counts: Summary, name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) else 0
