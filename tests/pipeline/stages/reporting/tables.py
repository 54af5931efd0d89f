"""Score parts for tests: batches with the columns of a score part."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.artifacts.scores import NO_MECHANISM, PART_FORMAT


def score_part(
    scores: Sequence[float | None],
    statuses: Sequence[str] | None = None,
    predictions: Sequence[int] | None = None,
    first_row: int = 0,
    source: str = "day.parquet",
) -> pa.RecordBatch:
    """A batch of samples with these scores, None where there is none; confidence is 1 / (1 + row), the norm 2."""
    n = len(scores)
    known = [score is not None for score in scores]
    rows = list(range(first_row, first_row + n))
    columns = {
        "sample_id": [f"s{row}" for row in rows],
        "source": [source] * n,
        "row": rows,
        "prediction": predictions if predictions is not None else [0 if one else -1 for one in known],
        "confidence": [1 / (1 + row) if one else None for row, one in zip(rows, known, strict=True)],
        "score": list(scores),
        "leverage": [1.0 if one else None for one in known],
        "gradient_norm": [2.0 if one else None for one in known],
        "mechanism": [NO_MECHANISM] * n,
        "top_trusted": [[{"sample_id": f"t{rank}", "influence": -rank} for rank in range(5)] for _ in rows],
        "layer_scores": [[("conv", 0.5)] for _ in rows],
        "status": statuses if statuses is not None else ["ok" if one else "nonfinite" for one in known],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in PART_FORMAT.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=PART_FORMAT.schema)
