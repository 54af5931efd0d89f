"""The reference of the published table, from the schema that it is written with."""

from pipeline.artifacts.scores import PUBLISHED_FORMAT

MEANING = {
    "sample_id": "the sample's id, as text; empty where it could not be read",
    "source": "the file, named as the config names it",
    "row": "the row of that file, from 0; with `source` it identifies a sample",
    "prediction": "the predicted class; -1 for a language model and for a sample that could not be read",
    "confidence": "the probability of the predicted class; of a text exp of the mean log-probability of its completion",
    "score": "the anomaly score; larger is more anomalous, always; infinite where the status is `flat`",
    "p_value": "the chance that a sample like the trusted ones scores this high",
    "q_value": "the share of normal samples to expect among all that are at least as extreme (Benjamini-Hochberg)",
    "flagged": "whether the sample is beyond the target",
    "leverage": "the squared length of the whitened row",
    "gradient_norm": "the norm of the row, not whitened and not rounded",
    "mechanism": "a group of flagged samples; -1, because groups are not formed in this version",
    "top_trusted": "the trusted samples of largest influence, at most 10, largest first",
    "layer_scores": "minus the cosine of each layer",
    "status": "`ok`, `flat` (no gradient), `nonfinite`, `unreadable: why` or `failed: why`",
}


def table_reference() -> str:
    """Markdown: the columns of the published table."""
    lines = ["| column | type | may be null | meaning |", "|---|---|---|---|"]
    for field in PUBLISHED_FORMAT.schema:
        kind = str(field.type).replace(" not null", "")
        null = "yes" if field.nullable else "no"
        lines.append(f"| `{field.name}` | `{kind}` | {null} | {MEANING[field.name]} |")
    return "\n".join([*lines, ""])
