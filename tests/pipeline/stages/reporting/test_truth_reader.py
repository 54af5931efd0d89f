"""Truth read in step with scores: the same as reading each file at once, from a file that is opened once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.formats.tables import decode_arrow
from pipeline.artifacts.parts import ScorePart
from pipeline.artifacts.truth import TRUTH_FILE, TRUTH_FORMAT
from pipeline.data.sources import Source
from pipeline.data.truth import Truth, read_truth
from pipeline.planning.plan import ModelPlan
from pipeline.stages.reporting.truth_reader import TruthReader
from tests.input_files import found
from tests.pipeline.stages.reporting.tables import score_part

ROWS = 120


@pytest.fixture
def source(plan: ModelPlan, digits: Path, tmp_path: Path) -> Source:
    """The first audited digits, in row groups of 50."""
    path = tmp_path / "day.parquet"
    pq.write_table(pq.read_table(digits / "audited.parquet").slice(0, ROWS), path, row_group_size=50)
    return replace(plan.audited[0], file=found(path), rows=ROWS)


def part_of(source: Source, start: int = 0, stop: int = ROWS) -> ScorePart:
    return ScorePart(source.file.name, source.key, start, stop, "folder", "content")


def batch(start: int, stop: int, status: str = "ok") -> pa.RecordBatch:
    scores = [1.0 if status == "ok" else None] * (stop - start)
    return score_part(scores, [status] * (stop - start), first_row=start)


def stored(reader: TruthReader) -> dict[str, list[int]]:
    (data,) = reader.files.values()
    table: pa.Table = decode_arrow(data, TRUTH_FORMAT, TRUTH_FILE)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def test_pieces_make_the_whole_and_the_file_is_opened_once(source: Source) -> None:
    whole = read_truth(source, 0, ROWS)
    assert set(whole.anomalous.tolist()) == {0, 1}
    with TruthReader({source.key: source}, None) as reader:
        pieces = list[Truth]()
        for start in range(0, ROWS, 33):
            piece = reader.read(part_of(source), batch(start, min(start + 33, ROWS)))
            assert piece is not None
            pieces.append(piece)
            Path(source.file.url.removeprefix("file://")).unlink(missing_ok=True)  # it is open already
    for name in ("label", "anomalous", "target"):
        assert np.concatenate([getattr(piece, name) for piece in pieces]).tolist() == getattr(whole, name).tolist()
        assert stored(reader)[name] == getattr(whole, name).tolist()


def test_a_failed_task_needs_no_file_and_leaves_its_place_unknown(source: Source) -> None:
    whole = read_truth(source, 0, ROWS)
    with TruthReader({source.key: source}, None) as reader:
        assert reader.read(part_of(source), batch(0, 40, "failed: the file is gone")) is None
        rest = reader.read(part_of(source), batch(40, ROWS))
    assert rest is not None and rest.anomalous.tolist() == whole.anomalous[40:].tolist()
    assert stored(reader)["anomalous"] == [-1] * 40 + whole.anomalous[40:].tolist()


def test_without_marks_in_any_source_nothing_is_read(source: Source) -> None:
    labelled = replace(source, truth=("label",))
    Path(source.file.url.removeprefix("file://")).unlink()
    with TruthReader({labelled.key: labelled}, None) as reader:
        assert reader.read(part_of(labelled), batch(0, ROWS)) is None
    assert reader.files == {}


def test_stored_truth_is_taken_by_the_place_in_the_table(source: Source) -> None:
    earlier = read_truth(source, 0, ROWS)
    Path(source.file.url.removeprefix("file://")).unlink()
    with TruthReader({source.key: source}, earlier) as reader:
        assert reader.read(part_of(source), batch(0, 10, "unreadable: the image is null")) is None
        piece = reader.read(part_of(source), batch(10, 25))
    assert piece is not None and piece.label.tolist() == earlier.label[10:25].tolist()
