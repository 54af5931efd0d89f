"""What is behind one score: the trusted samples and the layers, and what its p-value means, in words."""

from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipeline.data.statuses import OK
from pipeline.errors import ConfigError
from pipeline.results.audit import Audit
from pipeline.root.records import Document

KEPT = 10


IDS_SHOWN = 3


def explain(audit: Audit, model: str, sample: str, top: int = KEPT) -> list[Document]:
    """The published rows of an audited sample, each with its layers, most anomalous first, and its p-value in words.

    Usually one row; an id that occurs several times has several.

    Args:
        audit: an opened root.
        model: the model's name.
        sample: the sample's id.
        top: how many trusted samples and layers to name; the table keeps the 10 trusted samples of largest influence.

    Raises:
        RootError: the model has no completed run.
        ConfigError: the run has no such sample.
    """
    summary = audit.summary(model)
    rows, near = [], list[str]()
    for batch in audit.scores(model):
        rows += batch.filter(pc.equal(batch.column("sample_id"), pa.scalar(sample))).to_pylist()
        if not rows:
            near = get_close_matches(
                sample, near + [str(name) for name in pc.unique(batch.column("sample_id")).to_pylist()], n=IDS_SHOWN
            )
    if not rows:
        raise ConfigError(
            f"model {model}: run {summary['run_id']} has no audited sample {sample!r}"
            + (f"; similar ids: {', '.join(near)}" if near else "")
        )
    return [_explained(row, summary, top) for row in rows]


def _explained(row: Document, summary: Document, top: int) -> Document:
    calibration = summary["calibration"]
    assert isinstance(calibration, dict)
    layers = row["layer_scores"]
    ordered: list[JsonValue] = [
        {"layer": name, "score": score} for name, score in sorted(_pairs(layers), key=lambda pair: -pair[1])
    ]
    trusted = row["top_trusted"]
    return {
        **{name: value for name, value in row.items() if name not in ("layer_scores", "top_trusted")},
        "run_id": summary["run_id"],
        "model": summary["model"],
        "threshold": calibration["threshold"],
        "in_words": in_words(row, int(str(calibration["calibration"]))),
        "layers": ordered[:top],
        "top_trusted": trusted[:top] if isinstance(trusted, list) else [],
    }


def _pairs(layers: JsonValue) -> list[tuple[str, float]]:
    return [(str(pair[0]), float(str(pair[1]))) for pair in layers] if isinstance(layers, list) else []  # type: ignore[index]


def in_words(row: Document, calibration: int) -> str:
    """What a row's p-value and q-value say; or why it has none."""
    if row["status"] != OK:
        return f"This sample has no score: {row['status']}."
    p_value, q_value = float(str(row["p_value"])), float(str(row["q_value"]))
    above = round(p_value * (calibration + 1)) - 1
    others = (
        f"{above:,} of {calibration:,} calibration samples score"
        if above
        else f"None of {calibration:,} calibration samples scores"
    )
    return (
        f"{others} at least this high, so a normal sample would with probability at most {p_value:.3g} (once in {1 / p_value:,.0f}). "
        f"Of the audited samples that are at least this extreme, at most about {min(1.0, q_value):.1%} should be normal ones."
    )
