"""The geometry of the charts on pages: histograms of scores, and flagged shares over runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10, sqrt

from pipeline.publication.filters import percent, tone, when
from pipeline.root.records import ModelResult

WIDTH, HEIGHT = 720, 310

LEFT, RIGHT, TOP, BOTTOM = 68, 704, 62, 252

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)

TICK_GAP = 24


@dataclass(frozen=True)
class Plot:
    """Two histograms in the coordinates of an SVG of WIDTH x HEIGHT, each as a path; ticks are (position, label)."""

    calibration: str
    audited: str
    threshold: float | None
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Trend:
    """Shares over runs in the coordinates of an SVG, the newest on the right.

    `line` is a path, `dots` are (x, y, tone, label), and `top` is the largest share.
    """

    line: str
    dots: tuple[tuple[float, float, str, str], ...]
    top: float


def plot(
    edges: Sequence[float], calibration: Sequence[int], audited: Sequence[int], threshold: float | None
) -> Plot | None:
    """Lays out two histograms, y by the square root of a bin's share; None where nothing has a score."""
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
    sides = [across(edge) for edge in edges]
    of_calibration, of_audited = (_steps(sides, [up(share) for share in counts]) for counts in shares)
    x_ticks = tuple((across(score), label) for score, label in _round_scores(low, high))
    line = None if threshold is None else across(threshold)
    return Plot(of_calibration, of_audited, line, x_ticks, tuple(y_ticks))


def _steps(edges: Sequence[float], tops: Sequence[float]) -> str:
    steps = " ".join(f"V{top:.1f} H{right:.1f}" for top, (_, right) in zip(tops, pairwise(edges), strict=True))
    return f"M{edges[0]:.1f},{BOTTOM} {steps} V{BOTTOM} Z"


def _round_scores(low: float, high: float) -> list[tuple[float, str]]:
    """About four to eight round numbers from low to high, with their labels."""
    unit = 10.0 ** floor(log10((high - low) / 7))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * 7 >= high - low)
    first = floor(low / step)
    scores = [index * step for index in range(first, first + 9)]
    return [(score, f"{score:.6g}") for score in scores if low <= score <= high]


def trend(runs: Sequence[ModelResult], width: int, height: int) -> Trend | None:
    """Lays out the flagged shares of runs, given newest first; None for fewer than two."""
    shares = [run.flagged / max(1, run.audited) for run in reversed(runs)]
    if len(shares) < 2:
        return None
    top, margin = max(shares), 6
    step, tall = (width - 2 * margin) / (len(shares) - 1), height - 2 * margin
    places = [
        (margin + step * index, height - margin - tall * share / (top or 1)) for index, share in enumerate(shares)
    ]
    dots = tuple(
        (x, y, tone(run.verdict), _label(run, share))
        for (x, y), run, share in zip(places, reversed(runs), shares, strict=True)
    )
    return Trend("M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in places), dots, top)


def _label(run: ModelResult, share: float) -> str:
    return f"{when(run.run_id) or run.run_id}: {percent(share)} flagged, {run.verdict}"
