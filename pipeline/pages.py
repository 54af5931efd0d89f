"""The report: summaries to self-contained HTML pages, one per model and an index. Pure: text in, text out."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import floor, log10, sqrt
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import JsonValue

from pipeline.evaluation import figures
from pipeline.verdicts import CANNOT_TELL, NOTHING_UNUSUAL, UNUSUAL

Summary = Mapping[str, JsonValue]
INDEX = "index"
TONES = {UNUSUAL: "alarm", CANNOT_TELL: "unsure", NOTHING_UNUSUAL: "calm"}
EMBEDDED_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")

WIDTH, HEIGHT = 720, 310
LEFT, RIGHT, TOP, BOTTOM = 68, 704, 62, 252
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
TICK_GAP = 24


@dataclass(frozen=True)
class Plot:
    """Two histograms in the coordinates of an SVG of WIDTH x HEIGHT: each a path, ticks as (position, label)."""

    calibration: str
    audited: str
    threshold: float | None
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Trend:
    """Shares over runs in the coordinates of an SVG, the newest on the right: a path, dots as (x, y, tone, label), and the share at its top."""

    line: str
    dots: tuple[tuple[float, float, str, str], ...]
    top: float


@dataclass(frozen=True)
class Past:
    """What pages show of earlier runs: per model its history and what reviews said by sample id; how the zoo changed (see `pipeline.history`)."""

    histories: dict[str, Summary] = field(default_factory=dict)
    reviews: dict[str, Mapping[str, str]] = field(default_factory=dict)
    zoo: dict[str, JsonValue] = field(default_factory=dict)


def render(
    summaries: Sequence[Summary], images: Mapping[str, Mapping[str, str]], failures: Mapping[str, str] | None = None, past: Past | None = None
) -> dict[str, str]:
    """Every page by its name: `index`, and one per model named as the model.

    `images[model]` maps "<source>#<row>" to a PNG as a data URI; a sample without one gets a placeholder. `failures` are the models
    that the latest run could not audit, and why; what is shown of them is older. `past`: what is known of earlier runs.

    Raises:
        ValueError: two pages would have the same name.
    """
    names = [str(summary["model"]) for summary in summaries]
    if len({INDEX, *names}) <= len(names):
        raise ValueError(f"model names must be unique and none may be {INDEX!r}, got {', '.join(names)}")
    environment, past = _environment(), past or Past()
    worst_first = sorted(summaries, key=lambda summary: list(TONES.values()).index(tone(_verdict(summary))))
    runs = sorted({str(summary["run_id"]) for summary in summaries}, reverse=True)
    headline = zoo_headline([_verdict(summary) for summary in summaries])
    index = environment.get_template("index.html.j2").render(summaries=worst_first, runs=runs, headline=headline, failures=failures or {}, past=past)
    page = environment.get_template("model.html.j2")
    models = {
        name: page.render(summary=summary, images=images.get(name, {}), history=past.histories.get(name, {}), reviews=past.reviews.get(name, {}))
        for name, summary in zip(names, summaries, strict=True)
    }
    return {INDEX: index, **models}


def zoo_headline(verdicts: Sequence[str]) -> str:
    """The verdicts of a zoo in one sentence, the worst first."""
    total, tones = len(verdicts), Counter(tone(verdict) for verdict in verdicts)
    of_models = f"of {total:,} models" if total > 1 else "of 1 model"
    if tones["alarm"]:
        return f"Unusual inputs for {tones['alarm']:,} {of_models}"
    if tones["unsure"]:
        return f"Cannot tell for {tones['unsure']:,} {of_models}"
    return f"Nothing unusual for {tones['calm']:,} {of_models}" if total else "No model has been audited yet"


def tone(verdict: str) -> str:
    """How a verdict is painted; one that this page does not know is no all-clear."""
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
    """A share of one as a percentage."""
    return "-" if share is None else f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that a person would say."""
    if seconds is None:
        return "-"
    value, unit = (seconds, "s") if seconds < 120 else (seconds / 60, "min") if seconds < 7200 else (seconds / 3600, "h")
    return f"{value:.3g}\N{NO-BREAK SPACE}{unit}" if value < 1000 else f"{value:,.0f}\N{NO-BREAK SPACE}{unit}"


def when(run_id: str) -> str:
    """The time that a run id starts with; empty for an id of another form."""
    try:
        return f"{datetime.strptime(run_id[:15], '%Y%m%dT%H%M%S'):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return ""


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


def plot(edges: Sequence[float], calibration: Sequence[int], audited: Sequence[int], threshold: float | None) -> Plot | None:
    """Lays the histogram out, y by the square root of a bin's share; None where nothing was scored."""
    shares = [[count / max(1, sum(counts)) for count in counts] for counts in (calibration, audited)]
    peak = max((share for counts in shares for share in counts), default=0.0)
    shown = [*edges, *([] if threshold is None else [threshold])]
    if not peak or min(shown) == max(shown):
        return None
    low, high = min(shown), max(shown)

    def across(score: float) -> float:
        return LEFT + (RIGHT - LEFT) * (score - low) / (high - low)

    def up(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * sqrt(share / peak)

    y_ticks = [(float(BOTTOM), percent(0))]
    for share in reversed(SHARES):
        if share <= peak and y_ticks[-1][0] - up(share) >= TICK_GAP:
            y_ticks.append((up(share), percent(share)))
    trusted, suspected = (_steps([across(edge) for edge in edges], [up(share) for share in counts]) for counts in shares)
    x_ticks = tuple((across(score), label) for score, label in _round_scores(low, high))
    return Plot(trusted, suspected, None if threshold is None else across(threshold), x_ticks, tuple(y_ticks))


def _steps(edges: Sequence[float], tops: Sequence[float]) -> str:
    steps = " ".join(f"V{top:.1f} H{right:.1f}" for top, (_, right) in zip(tops, pairwise(edges), strict=True))
    return f"M{edges[0]:.1f},{BOTTOM} {steps} V{BOTTOM} Z"


def _round_scores(low: float, high: float) -> list[tuple[float, str]]:
    """Some four to eight round numbers from low to high."""
    unit = 10.0 ** floor(log10((high - low) / 7))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * 7 >= high - low)
    first = floor(low / step)
    scores = [index * step for index in range(first, first + 9)]
    return [(score, f"{score:.6g}") for score in scores if low <= score <= high]


def trend(runs: Sequence[Summary], width: int, height: int) -> Trend | None:
    """Lays out the share flagged of runs that are given newest first; None for fewer than two."""
    known = [(run, int(str(run["flagged"])) / max(1, int(str(run["audited"])))) for run in reversed(runs)]
    if len(known) < 2:
        return None
    top, margin = max(share for _, share in known), 6
    step, tall = (width - 2 * margin) / (len(known) - 1), height - 2 * margin
    dots = [
        (margin + step * index, height - margin - tall * share / (top or 1), tone(str(run["verdict"])), _label(run, share))
        for index, (run, share) in enumerate(known)
    ]
    return Trend("M" + " L".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in dots), tuple(dots), top)


def _label(run: Summary, share: float) -> str:
    return f"{when(str(run['run_id'])) or run['run_id']}: {percent(share)} flagged, {run['verdict']}"


def drifted(compared: Summary) -> list[JsonValue]:
    """The predicted classes whose scores moved by more than chance between two runs."""
    difference = compared["difference"]
    tests = difference["drift"] if isinstance(difference, dict) else None
    found = {drift["predicted"]: None for drift in tests if isinstance(drift, dict) and drift["drifted"]} if isinstance(tests, list) else {}
    return list(found)


def differs(compared: Summary) -> bool:
    """Whether two runs differ in anything that a person would look at."""
    difference = compared["difference"]
    flags = [difference[kind] for kind in ("newly_flagged", "no_longer_flagged")] if isinstance(difference, dict) else []
    return bool(compared["problem"] or compared["changed"] or drifted(compared) or any(isinstance(kind, dict) and kind["count"] for kind in flags))


def _verdict(summary: Summary) -> str:
    verdict = summary["verdict"]
    return str(verdict["value"]) if isinstance(verdict, dict) else ""


def template(name: str) -> Template:
    """A template of this package, with its filters; what it is given is escaped."""
    return _environment().get_template(name)


def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("pipeline"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": number,
        "percent": percent,
        "figures": figures,
        "duration": duration,
        "when": when,
        "tone": tone,
        "flatten": flatten,
        "embedded": embedded,
        "trend": trend,
        "drifted": drifted,
        "differs": differs,
        "page": lambda name: f"./{quote(name, safe='')}.html",
    }
    environment.globals |= {"plot": plot, "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}}
    return environment
