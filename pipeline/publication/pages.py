"""The report: summaries to self-contained HTML pages, one per model and an index. Pure: text in, text out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import JsonValue

from pipeline.publication.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plot, trend
from pipeline.publication.filters import TONES, Summary, duration, embedded, flatten, number, percent, tone, when
from pipeline.stages.reporting.evaluation import figures

INDEX = "index"


@dataclass(frozen=True)
class Past:
    """What pages show of earlier runs: per model its history and what reviews said by sample id; how the zoo changed (see `pipeline.publication.history`)."""

    histories: dict[str, Summary] = field(default_factory=dict)
    reviews: dict[str, Mapping[str, str]] = field(default_factory=dict)
    zoo: dict[str, JsonValue] = field(default_factory=dict)


def render(
    summaries: Sequence[Summary],
    images: Mapping[str, Mapping[str, str]],
    failures: Mapping[str, str] | None = None,
    past: Past | None = None,
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
    index = environment.get_template("index.html.j2").render(
        summaries=worst_first, runs=runs, headline=headline, failures=failures or {}, past=past
    )
    page = environment.get_template("model.html.j2")
    models = {
        name: page.render(
            summary=summary,
            images=images.get(name, {}),
            history=past.histories.get(name, {}),
            reviews=past.reviews.get(name, {}),
        )
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


def drifted(compared: Summary) -> list[JsonValue]:
    """The predicted classes whose scores moved by more than chance between two runs."""
    difference = compared["difference"]
    tests = difference["drift"] if isinstance(difference, dict) else None
    found = (
        {drift["predicted"]: None for drift in tests if isinstance(drift, dict) and drift["drifted"]}
        if isinstance(tests, list)
        else {}
    )
    return list(found)


def differs(compared: Summary) -> bool:
    """Whether two runs differ in anything that a person would look at."""
    difference = compared["difference"]
    flags = (
        [difference[kind] for kind in ("newly_flagged", "no_longer_flagged")] if isinstance(difference, dict) else []
    )
    return bool(
        compared["problem"]
        or compared["changed"]
        or drifted(compared)
        or any(isinstance(kind, dict) and kind["count"] for kind in flags)
    )


def _verdict(summary: Summary) -> str:
    verdict = summary["verdict"]
    return str(verdict["value"]) if isinstance(verdict, dict) else ""


def template(name: str) -> Template:
    """A template of this package, with its filters; what it is given is escaped."""
    return _environment().get_template(name)


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
    environment.globals |= {
        "plot": plot,
        "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    }
    return environment
