"""Blocks of rows to record batches of a score part."""

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from infra.storage.storage import Storage
from madcore import Whitening
from pipeline.artifacts.curvature import TrustedSamples
from pipeline.artifacts.parts import CurvatureFolders
from pipeline.artifacts.rows import RowsPart, SampleColumns, StoredBlock, to_stored
from pipeline.artifacts.scores import PART_FORMAT
from pipeline.planning.plan import ModelPlan
from pipeline.stages.scoring.scorer import Scorer
from pipeline.stages.scoring.worker import ScoreTask, ScoringWorker, scored_batches, scoring_key


def block_of(plan: ModelPlan, start: int, rows: torch.Tensor, statuses: list[str]) -> StoredBlock:
    n = len(rows)
    ids = [f"s{start + row}" for row in range(n)]
    samples = SampleColumns(
        ids, list(range(start, start + n)), torch.zeros(n, dtype=torch.int64), torch.ones(n), torch.ones(n), statuses
    )
    return StoredBlock(*to_stored(rows, plan.layout, "float32"), samples, plan.layout)


@pytest.fixture
def scorer(plan: ModelPlan) -> Scorer:
    rows = torch.randn(20, plan.layout.k, generator=torch.Generator().manual_seed(0))
    trusted = TrustedSamples([], ["reference"] * 20, torch.zeros(20, dtype=torch.int64), torch.zeros(20).numpy())
    return Scorer.of(plan, Whitening(plan.layout), rows, trusted)


IDS = pa.array([f"t{row}" for row in range(20)])


def test_blocks_become_batches_in_order(plan: ModelPlan, scorer: Scorer) -> None:
    rows = torch.randn(12, plan.layout.k, generator=torch.Generator().manual_seed(1))
    blocks = [block_of(plan, start, rows[start : start + 4], ["ok"] * 4) for start in range(0, 12, 4)]
    busy = list[float]()
    table = pa.Table.from_batches(scored_batches(blocks, scorer, IDS, "day.parquet", busy))
    assert table.schema.equals(PART_FORMAT.schema)
    assert table.column("sample_id").to_pylist() == [f"s{row}" for row in range(12)]
    assert table.column("score").to_pylist() == scorer(rows, torch.zeros(12, dtype=torch.int64)).score.tolist()
    assert len(busy) == 3 and all(seconds > 0 for seconds in busy)


def test_what_leaves_the_range_of_float32_when_it_is_whitened_is_not_finite(plan: ModelPlan, scorer: Scorer) -> None:
    def whitened(rows: torch.Tensor) -> torch.Tensor:
        return rows * 1e30

    rows = torch.ones(3, plan.layout.k)
    rows[1] = 1e20
    block = block_of(plan, 0, rows, ["ok", "ok", "unreadable: why"])
    (batch,) = scored_batches([block], replace(scorer, prepare=whitened), IDS, "day.parquet", [])
    assert batch.column("status").to_pylist() == ["ok", "nonfinite", "unreadable: why"]
    assert [score is None for score in batch.column("score").to_pylist()] == [False, True, True]
    assert [len(top) for top in batch.column("top_trusted").to_pylist()] == [10, 0, 0]


def test_a_sample_without_a_gradient_scores_infinity_and_nothing_explains_it(plan: ModelPlan, scorer: Scorer) -> None:
    """One that is stored as flat, and one whose row is zero in the layers that are used, as earlier versions' was."""
    rows = torch.randn(3, plan.layout.k, generator=torch.Generator().manual_seed(1))
    rows[1:] = 0
    block = block_of(plan, 0, rows, ["ok", "flat", "ok"])
    block.samples.gradient_norm[:] = torch.tensor([1.0, 1e-9, 0.0])
    (batch,) = scored_batches([block], scorer, IDS, "day.parquet", [])
    assert batch.column("status").to_pylist() == ["ok", "flat", "flat"]
    assert batch.column("score").to_pylist()[1:] == [torch.inf] * 2
    assert batch.column("leverage").to_pylist()[1:] == [0.0] * 2
    assert batch.column("gradient_norm").to_pylist() == pytest.approx([1, 1e-9, 0])
    assert batch.column("confidence").to_pylist() == [1.0] * 3
    assert [len(top) for top in batch.column("top_trusted").to_pylist()] == [10, 0, 0]
    assert [len(of_layers) for of_layers in batch.column("layer_scores").to_pylist()][1:] == [0, 0]


def test_samples_of_a_failed_task_are_named_and_not_scored(plan: ModelPlan, tmp_path: object) -> None:
    storage = Storage(str(tmp_path))
    source = plan.audited[0]
    part = RowsPart(source.file.name, source.key, 3, 6, "", "content", "no memory")
    worker = ScoringWorker(storage.url, {plan.name: plan})
    receipt = worker(ScoreTask(plan.name, "key", part, CurvatureFolders("", "", "")))
    assert receipt.task == part.name and receipt.measures.rows == 3
    (data,) = (
        storage.read(f"{plan.name}/scoring/key/{source.key}/{part.name}/{receipt.attempt}/{file.name}")
        for file in receipt.files
    )
    table = pa.parquet.read_table(pa.BufferReader(data))
    assert table.column("row").to_pylist() == [3, 4, 5]
    assert table.column("status").to_pylist() == ["failed: no memory"] * 3
    assert table.column("score").null_count == 3
    assert all(table.column("sample_id").to_pylist())


def test_the_key_changes_with_curvature_and_score(plan: ModelPlan) -> None:
    section = plan.config.score.model_copy(update={"kind": "leverage"})
    other = replace(plan, config=plan.config.model_copy(update={"score": section}))
    folders = [CurvatureFolders("f", "r", content) for content in ("one", "two")]
    keys = {scoring_key(one, folder) for one in (plan, other) for folder in folders}
    assert len(keys) == 4
    assert scoring_key(plan, CurvatureFolders("elsewhere", "r", "one")) in keys, "where it is stored does not matter"
