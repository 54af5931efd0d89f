"""The report: summaries to self-contained HTML pages, one per model and an index. Pure: values in, text out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from pipeline.publication.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plot, trend
from pipeline.publication.filters import TONES, duration, embedded, flatten, number, percent, tone, visible, when
from pipeline.publication.history import History, ZooChanges
from pipeline.root.summary import Summary

INDEX = "index"


@dataclass(frozen=True)
class Background:
    """What pages show of earlier runs: by model its history, and reviews by sample id; and how the zoo changed."""

    histories: Mapping[str, History] = field(default_factory=dict)
    reviews: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    zoo: ZooChanges | None = None


def render(
    summaries: Sequence[Summary],
    images: Mapping[str, Mapping[str, str]],
    failures: Mapping[str, str] | None = None,
    background: Background | None = None,
) -> dict[str, str]:
    """Every page by its name: `index`, and one per model named like the model.

    Args:
        summaries: of all models.
        images: by model, PNGs as data URIs by `<source>#<row>`; a sample without one gets a placeholder.
        failures: models that the latest run could not audit, and why; their summaries are of an earlier run.
        background: what is known of earlier runs.

    Raises:
        ValueError: two pages would have the same name.
    """
    names, background = [summary.model for summary in summaries], background or Background()
    if len({INDEX, *names}) <= len(names):
        raise ValueError(f"model names must be unique and none may be {INDEX!r}, got {', '.join(names)}")
    pages = {INDEX: _index(summaries, failures or {}, background)}
    for summary in summaries:
        pages[summary.model] = template("model.html.j2").render(
            summary=summary,
            images=images.get(summary.model, {}),
            history=background.histories.get(summary.model, History()),
            reviews=background.reviews.get(summary.model, {}),
        )
    return {name: visible(page) for name, page in pages.items()}


def _index(summaries: Sequence[Summary], failures: Mapping[str, str], background: Background) -> str:
    severity = list(TONES.values())
    return template("index.html.j2").render(
        summaries=sorted(summaries, key=lambda summary: severity.index(tone(summary.verdict.value))),
        runs=sorted({summary.run_id for summary in summaries}, reverse=True),
        headline=zoo_headline([summary.verdict.value for summary in summaries]),
        failures=failures,
        histories={summary.model: background.histories.get(summary.model, History()) for summary in summaries},
        zoo=background.zoo,
    )


def zoo_headline(verdicts: Sequence[str]) -> str:
    """The verdicts of a zoo in one sentence, the worst first."""
    total, tones = len(verdicts), Counter(tone(verdict) for verdict in verdicts)
    of_models = f"of {total:,} models" if total > 1 else "of 1 model"
    if tones["alarm"]:
        return f"Unusual inputs for {tones['alarm']:,} {of_models}"
    if tones["unsure"]:
        return f"Cannot tell for {tones['unsure']:,} {of_models}"
    return f"Nothing unusual for {tones['calm']:,} {of_models}" if total else "No model has been audited yet"


@cache
def template(name: str) -> Template:
    """A template of this package, with its filters, compiled once; the values that it is rendered with are escaped."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.publication"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "duration": duration,
        "when": when,
        "tone": tone,
        "flatten": flatten,
        "embedded": embedded,
        "trend": trend,
        "page": lambda name: f"./{quote(name, safe='')}.html",
    }
    environment.globals |= {
        "plot": plot,
        "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    }
    return environment
