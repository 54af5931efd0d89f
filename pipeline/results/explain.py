"""What is behind one score: the trusted samples and the layers, and what its p-value means, in words."""

from collections.abc import Mapping
from difflib import get_close_matches
from math import isfinite
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from pipeline.data.statuses import FLAT, OK
from pipeline.errors import ConfigError
from pipeline.results.audit import Audit
from pipeline.root.facts import Influence
from pipeline.root.summary import Summary

KEPT = 10

IDS_SHOWN = 3


class LayerScore(BaseModel):
    """A layer, and its part of a score."""

    model_config = ConfigDict(frozen=True)
    layer: str
    score: float


class Explanation(BaseModel):
    """A published row and what is behind it: layers by anomaly and trusted samples by influence, largest first."""

    model_config = ConfigDict(frozen=True)
    sample_id: str
    source: str
    row: int
    prediction: int
    class_name: str | None
    confidence: float | None
    score: float | None
    p_value: float | None
    q_value: float | None
    flagged: bool
    leverage: float | None
    gradient_norm: float | None
    mechanism: int
    status: str
    run_id: str
    model: str
    threshold: float | None
    in_words: str
    layers: tuple[LayerScore, ...]
    top_trusted: tuple[Influence, ...]


def explain(audit: Audit, model: str, sample: str, top: int = KEPT) -> list[Explanation]:
    """The published rows of an audited sample, each with its layers, most anomalous first, and its p-value in words.

    Usually one row; an id that is duplicated has several.

    Args:
        audit: an opened root.
        model: the model's name.
        sample: the sample's id.
        top: how many trusted samples and layers to name; the table has the 10 trusted samples of largest influence.

    Raises:
        RootError: the model has no completed run.
        ConfigError: the run has no such sample.
    """
    summary = audit.summary(model)
    rows, near = [], list[str]()
    for batch in audit.scores(model):
        # An Arrow scalar would import pandas, which takes longer than the rest of the command.
        alike = batch.filter(pc.starts_with(batch.column("sample_id"), sample)).to_pylist()
        rows += [row for row in alike if row["sample_id"] == sample]
        if not rows:
            names = map(str, pc.unique(batch.column("sample_id")).to_pylist())
            near = get_close_matches(sample, [*near, *names], n=IDS_SHOWN)
    if not rows:
        similar = f"; similar ids: {', '.join(near)}" if near else ""
        raise ConfigError(f"model {model}: run {summary.run_id} has no audited sample {sample!r}{similar}")
    return [_explanation(row, summary, top) for row in rows]


def _explanation(row: Mapping[str, Any], summary: Summary, top: int) -> Explanation:
    scores = sorted(row["layer_scores"] or (), key=lambda pair: -pair[1])
    names = summary.class_names or ()
    added = {
        "class_name": names[row["prediction"]] if 0 <= row["prediction"] < len(names) else None,
        "run_id": summary.run_id,
        "model": summary.model,
        "threshold": summary.calibration.threshold,
        "in_words": in_words(row["status"], row["p_value"], row["q_value"], summary.calibration.calibration),
        "layers": tuple(LayerScore(layer=layer, score=score) for layer, score in scores[:top]),
        "top_trusted": (row["top_trusted"] or ())[:top],
    }
    finite = row["score"] if row["score"] is not None and isfinite(row["score"]) else None
    return Explanation.model_validate({**row, **added, "score": finite})


def in_words(status: str, p_value: float | None, q_value: float | None, calibration: int) -> str:
    """What a p-value and a q-value among so many calibration samples say, or why a sample has none."""
    if status not in (OK, FLAT) or p_value is None or q_value is None:
        return f"This sample has no score: {status}."
    if status == FLAT:
        return (
            "This sample has no gradient (status flat): what the model measures on it does not depend on the weights, "
            f"so nothing explains it. It counts as a score above all others, of p-value {p_value:.3g}."
        )
    above = round(p_value * (calibration + 1)) - 1
    score = f"{above:,} of {calibration:,} calibration samples score" if above else ""
    others = score or f"None of {calibration:,} calibration samples scores"
    chance = f"at most {p_value:.3g} (once in {1 / p_value:,.0f})"
    return (
        f"{others} at least this high, so a normal sample would with probability {chance}. Of the audited samples that "
        f"are at least this extreme, at most about {min(1.0, q_value):.1%} should be normal ones."
    )
