"""Scores as stored: parts as the scoring stage writes them, and the published table with its decisions."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from infra.formats.tables import TableFormat

if TYPE_CHECKING:  # commands that only read published tables do without torch
    from madcore.scoring.coupling import SampleScores
    from pipeline.artifacts.samples import SampleColumns


PART, TABLE, FACTS, IMAGES = "scores.parquet", "table.parquet", "facts.json", "images.json"


_TRUSTED_ENTRY = pa.struct(
    [pa.field("sample_id", pa.string(), nullable=False), pa.field("influence", pa.float32(), nullable=False)]
)


_IDENTITY = (
    pa.field("sample_id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("prediction", pa.int32(), nullable=False),
    pa.field("confidence", pa.float32()),
    pa.field("score", pa.float32()),
)


_DECISION = (
    pa.field("p_value", pa.float64()),
    pa.field("q_value", pa.float64()),
    pa.field("flagged", pa.bool_(), nullable=False),
)


_EVIDENCE = (
    pa.field("leverage", pa.float32()),
    pa.field("gradient_norm", pa.float32()),
    pa.field("mechanism", pa.int32(), nullable=False),
    pa.field("top_trusted", pa.list_(_TRUSTED_ENTRY), nullable=False),
    pa.field("layer_scores", pa.map_(pa.string(), pa.float32()), nullable=False),
    pa.field("status", pa.string(), nullable=False),
)


PART_FORMAT = TableFormat("score-part", 1, _IDENTITY + _EVIDENCE)


PUBLISHED_FORMAT = TableFormat("scores", 1, _IDENTITY + _DECISION + _EVIDENCE)


NO_MECHANISM = -1


def score_batch(
    source: str, samples: "SampleColumns", scored: "SampleScores", reference_ids: pa.Array, layers: tuple[str, ...]
) -> pa.RecordBatch:
    """One record batch of a score part.

    Args:
        source: the file's name as configured.
        samples: n samples.
        scored: of the same n samples; values of samples that are not ok are left out. A flat sample scores infinity,
            and has no row that trusted samples or layers could have a part in.
        reference_ids: ids of the reference part, to name the top trusted samples by.
        layers: names of the layers.
    """
    ok, flat = samples.ok.numpy(), samples.flat.numpy()
    missing = ~(ok | flat)
    top = pa.StructArray.from_arrays(
        [
            reference_ids.take(pa.array(scored.top_indices[samples.ok].flatten().numpy())),
            pa.array(scored.top_influence[samples.ok].flatten().numpy()),
        ],
        fields=list(_TRUSTED_ENTRY),
    )
    top_offsets = _offsets(ok, scored.top_indices.shape[1])
    layer_names = _repeated(layers, int(ok.sum()))
    layer_scores = pa.array(scored.layer_scores[samples.ok].flatten().numpy(), pa.float32())
    columns = [
        pa.array(samples.ids, pa.string()),
        pa.array([source] * len(ok), pa.string()),
        pa.array(samples.rows, pa.int64()),
        pa.array(samples.predictions.numpy(), pa.int32()),
        pa.array(samples.confidence.numpy(), pa.float32(), mask=missing | samples.confidence.isnan().numpy()),
        pa.array(np.where(flat, np.inf, scored.score.numpy()), pa.float32(), mask=missing),
        pa.array(np.where(flat, 0.0, scored.leverage.numpy()), pa.float32(), mask=missing),
        pa.array(samples.gradient_norm.numpy(), pa.float32(), mask=missing),
        pa.array(np.full(len(ok), NO_MECHANISM), pa.int32()),
        pa.ListArray.from_arrays(top_offsets, top, type=PART_FORMAT.schema.field("top_trusted").type),
        pa.MapArray.from_arrays(_offsets(ok, len(layers)), layer_names, layer_scores),
        pa.array(samples.statuses, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PART_FORMAT.schema)


@lru_cache(maxsize=4)
def _repeated(names: tuple[str, ...], times: int) -> pa.Array:
    """Names one after the other, `times` times; cached, because most blocks have as many rows as the one before."""
    return pa.array(names, pa.string()).take(pa.array(np.tile(np.arange(len(names)), times)))


def _offsets(ok: np.ndarray[tuple[int], np.dtype[np.bool_]], each: int) -> pa.Array:
    """List offsets that give `each` entries to every row that is ok, and none to the others."""
    return pa.array(np.concatenate([[0], np.cumsum(ok * each)]), pa.int32())
