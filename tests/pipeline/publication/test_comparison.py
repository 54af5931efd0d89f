"""Two tables compared: by hand for a few samples, and in bounded memory for many."""

import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.formats.tables import write_parquet
from infra.storage.storage import Storage
from pipeline.artifacts.scores import PUBLISHED_FORMAT
from pipeline.publication.comparison import PEAK_BYTES, ComparisonSettings, Table, difference, reviewed_flags


def made(folder: Path, name: str, samples: int, shift: float = 0.0) -> Table:
    """A published table of samples of ten classes with normal scores."""
    generator = np.random.default_rng(len(name))
    with (folder / name).open("wb") as sink:
        write_parquet(
            sink,
            (batch(start, min(8192, samples - start), shift, generator) for start in range(0, samples, 8192)),
            PUBLISHED_FORMAT,
        )
    return Table(Storage(str(folder)), name)


def batch(start: int, count: int, shift: float, generator: np.random.Generator) -> pa.RecordBatch:
    columns: dict[str, Sequence[object] | pa.Array] = {
        "sample_id": [f"x{row:09d}" for row in range(start, start + count)],
        "source": ["a.parquet"] * count,
        "row": list(range(start, start + count)),
        "prediction": pa.array(generator.integers(0, 10, count), pa.int32()),
        "score": pa.array(generator.normal(shift, 1, count), pa.float32()),
        "flagged": (generator.random(count) < 0.3).tolist(),
        "mechanism": [-1] * count,
        "top_trusted": [[]] * count,
        "layer_scores": [{}] * count,
        "status": ["ok"] * count,
    }
    arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in PUBLISHED_FORMAT.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=PUBLISHED_FORMAT.schema)


@pytest.mark.parametrize("unchanged", [frozenset({"a.parquet"}), frozenset[str]()], ids=["by row", "by id"])
def test_memory_is_a_stated_number_of_bytes_a_sample(tmp_path: Path, unchanged: frozenset[str]) -> None:
    peaks, sizes = [], (20_000, 120_000)
    for samples in sizes:
        before, after = made(tmp_path, f"before-{samples}", samples), made(tmp_path, f"then-{samples}", samples)
        tracemalloc.start()
        found = difference(before, after, ComparisonSettings(unchanged, {}, 10))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.common == samples
    assert (peaks[1] - peaks[0]) / (2 * (sizes[1] - sizes[0])) < PEAK_BYTES


def table_of(folder: Path, name: str, samples: Mapping[str, tuple[str, int, float | None, bool]]) -> Table:
    """A table of samples by id: source, row, score, and whether flagged."""
    columns: dict[str, Sequence[object]] = {
        "sample_id": [sample.rstrip("'") for sample in samples],
        "source": [source for source, _, _, _ in samples.values()],
        "row": [row for _, row, _, _ in samples.values()],
        "prediction": [0] * len(samples),
        "score": [score for _, _, score, _ in samples.values()],
        "flagged": [flag for _, _, _, flag in samples.values()],
        "mechanism": [-1] * len(samples),
        "top_trusted": [[]] * len(samples),
        "layer_scores": [{}] * len(samples),
        "status": ["ok"] * len(samples),
    }
    empty = [None] * len(samples)
    arrays = [pa.array(columns.get(field.name, empty), field.type) for field in PUBLISHED_FORMAT.schema]
    with (folder / name).open("wb") as sink:
        write_parquet(sink, [pa.RecordBatch.from_arrays(arrays, schema=PUBLISHED_FORMAT.schema)], PUBLISHED_FORMAT)
    return Table(Storage(str(folder)), name)


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Table, Table]:
    """`same` is unchanged, `old` is gone and `new` is there: sample c moved from one to the other."""
    before = {
        "a": ("same", 0, 1.0, True),
        "b": ("same", 1, 2.0, False),
        "c": ("old", 0, 3.0, True),
        "d": ("old", 1, 4.0, True),
    }
    after = {
        "a": ("same", 0, 1.0, False),
        "b": ("same", 1, 2.5, True),
        "c": ("new", 7, 3.0, True),
        "e": ("new", 8, None, True),
        "f": ("new", 9, 9.0, True),
    }
    return table_of(tmp_path, "before", before), table_of(tmp_path, "after", after)


def test_a_score_that_is_infinite_moves_by_nothing_and_is_no_number(tmp_path: Path) -> None:
    """A sample that has no gradient in one run or in both, and one that moved."""
    before = {"a": ("same", 0, np.inf, True), "b": ("same", 1, 1.0, False), "c": ("same", 2, 2.0, False)}
    after = {"a": ("same", 0, np.inf, True), "b": ("same", 1, np.inf, True), "c": ("same", 2, 3.0, True)}
    tables = table_of(tmp_path, "before", before), table_of(tmp_path, "after", after)
    found = difference(*tables, ComparisonSettings(frozenset({"same"}), {}, 10))
    assert [(flag.sample_id, flag.score) for flag in found.newly_flagged.samples] == [("b", None), ("c", 3.0)]
    (moved,) = found.drift
    assert (moved.before, moved.shift) == (1, 1.0)


def test_a_difference_by_hand(nights: tuple[Table, Table]) -> None:
    found = difference(*nights, ComparisonSettings(frozenset({"same"}), {}, 10))
    assert (found.common, found.no_longer_audited) == (3, 1)
    assert [(flag.sample_id, flag.known) for flag in found.newly_flagged.samples] == [
        ("e", False),
        ("f", False),
        ("b", True),
    ]
    assert [(flag.sample_id, flag.row) for flag in found.no_longer_flagged.samples] == [("a", 0)]
    (moved, others) = found.drift
    assert (moved.before, moved.shift, others.before, others.after) == (3, 0.0, 1, 1)


def test_reviewed_flags_are_not_counted_and_only_the_first_are_named(nights: tuple[Table, Table]) -> None:
    settings = ComparisonSettings(frozenset({"same"}), {"f": "benign", "a": "benign"}, 1)
    found = difference(*nights, settings)
    assert (found.newly_flagged.count, found.newly_flagged.reviewed) == (2, 1)
    assert [flag.sample_id for flag in found.newly_flagged.samples] == ["e"]
    assert (found.no_longer_flagged.count, found.no_longer_flagged.reviewed) == (0, 1)


def test_where_no_file_is_unchanged_samples_are_matched_by_their_ids(nights: tuple[Table, Table]) -> None:
    found = difference(*nights, ComparisonSettings(frozenset(), {}, 10))
    assert (found.common, found.newly_flagged.count, found.no_longer_flagged.count) == (3, 3, 1)


def test_flagged_samples_that_were_reviewed_are_counted_by_verdict(nights: tuple[Table, Table]) -> None:
    reviews = {"b": "benign", "c": "attack", "f": "attack", "a": "benign", "elsewhere": "benign"}
    assert reviewed_flags(nights[1], reviews) == {"attack": 2, "benign": 1}
    assert reviewed_flags(nights[1], {}) == {}
