"""`mad explain`: the trusted samples and layers behind one score."""

from jobs.console import Common
from jobs.rendering.tables import share, table
from jobs.rendering.terminal import sentence
from pipeline.data.statuses import NO_CLASS
from pipeline.results.audit import open_audit
from pipeline.results.explain import Explanation, explain


def show_explanation(root: str, model: str, sample: str, top: int, common: Common) -> None:
    """`mad explain`."""
    found = explain(open_audit(root), model, sample, top)
    rows = [explanation.model_dump() for explanation in found]
    text = "\n\n".join(map(explanation_text, found))
    common.emit({"model": model, "sample_id": sample, "rows": rows}, text)


def explanation_text(found: Explanation) -> str:
    """What is behind one score, for a person."""
    lines = [
        sentence(
            f"sample {found.sample_id} (row {found.row} of {found.source}), model {found.model}, run {found.run_id}"
        )
    ]
    if found.prediction != NO_CLASS:
        named = f"{found.class_name} ({found.prediction})" if found.class_name is not None else str(found.prediction)
        lines.append(sentence(f"prediction: class {named}, confidence {share(found.confidence)}"))
    if found.score is not None:
        threshold = f"threshold {found.threshold:.5g}: " if found.threshold is not None else ""
        lines.append(f"score: {found.score:.5g} ({threshold}{'flagged' if found.flagged else 'not flagged'})")
    lines.append(sentence(found.in_words))
    trusted = [[one.sample_id, f"{one.influence:.4g}"] for one in found.top_trusted if one.influence is not None]
    layers = [[one.layer, f"{one.score:.4f}"] for one in found.layers]
    for title, columns, rows in (
        ("the trusted samples with the largest influence on this output:", ("trusted sample", "influence"), trusted),
        ("its layers, those that the trusted samples explain least first:", ("layer", "score"), layers),
    ):
        lines += ["", title, table(columns, rows)] if rows else []
    return "\n".join(lines)
