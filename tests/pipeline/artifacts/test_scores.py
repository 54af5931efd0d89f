"""A batch of scores: what each sample's row of the table holds, and nothing about samples that are not ok."""

import subprocess
import sys

import pyarrow as pa
import torch

from madcore.scoring.coupling import SampleScores
from pipeline.artifacts.samples import SampleColumns
from pipeline.artifacts.scores import NO_MECHANISM, PART_FORMAT, PUBLISHED_FORMAT, score_batch
from pipeline.data.statuses import NO_CLASS, NONFINITE, OK

SAMPLES = SampleColumns(
    ids=["a", "b", "c"],
    rows=[4, 5, 6],
    predictions=torch.tensor([1, NO_CLASS, 0]),
    confidence=torch.tensor([0.5, 0.75, 0.25]),
    gradient_norm=torch.tensor([2.0, 3.0, 4.0]),
    statuses=[OK, NONFINITE, OK],
)


SCORED = SampleScores(
    score=torch.tensor([0.5, 9.0, -0.5]),
    leverage=torch.tensor([1.0, 9.0, 2.0]),
    layer_scores=torch.tensor([[0.25, 0.5], [9.0, 9.0], [0.75, 1.0]]),
    top_indices=torch.tensor([[1, 0], [0, 1], [0, 1]]),
    top_influence=torch.tensor([[4.0, 2.0], [9.0, 9.0], [3.0, 1.0]]),
)


def test_a_row_of_the_table_is_a_samples_and_one_that_is_not_ok_has_no_numbers() -> None:
    batch = score_batch("s.parquet", SAMPLES, SCORED, pa.array(["x", "y"]), ("one", "two"))
    first, second, third = batch.to_pylist()
    assert first == {
        "sample_id": "a",
        "source": "s.parquet",
        "row": 4,
        "prediction": 1,
        "confidence": 0.5,
        "score": 0.5,
        "leverage": 1.0,
        "gradient_norm": 2.0,
        "mechanism": NO_MECHANISM,
        "top_trusted": [{"sample_id": "y", "influence": 4.0}, {"sample_id": "x", "influence": 2.0}],
        "layer_scores": [("one", 0.25), ("two", 0.5)],
        "status": OK,
    }
    missing = {name for name, value in second.items() if value is None}
    assert missing == {"confidence", "score", "leverage", "gradient_norm"}
    assert (second["status"], second["top_trusted"], second["layer_scores"]) == (NONFINITE, [], [])
    assert [entry["sample_id"] for entry in third["top_trusted"]] == ["x", "y"]


def test_the_published_table_is_a_part_with_decisions() -> None:
    part, published = PART_FORMAT.schema.names, PUBLISHED_FORMAT.schema.names
    assert [name for name in published if name not in part] == ["p_value", "q_value", "flagged"]
    assert [name for name in published if name in part] == part


def test_reading_tables_and_configs_imports_no_torch() -> None:
    modules = (
        "pipeline.artifacts.scores, pipeline.artifacts.parts, pipeline.artifacts.screening, pipeline.artifacts.truth, "
        "pipeline.artifacts.reviews, pipeline.config.audit_config, pipeline.data.images.reading, "
        "pipeline.data.reviews, pipeline.data.sources, pipeline.data.texts.reading, "
        "pipeline.data.truth, pipeline.keys, pipeline.errors"
    )
    subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}\nassert 'torch' not in sys.modules, 'torch'"], check=True
    )
