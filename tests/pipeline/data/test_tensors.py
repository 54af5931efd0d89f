"""Tensors of columns: numbers, lists of them, lists of lists, and what does not fit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import JsonValue

from infra.storage.files import find
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.data.finding.sources import find_sources
from pipeline.data.sources import Source
from pipeline.data.tensors import TensorArgument, first_tensors, read_tensors
from pipeline.errors import SourceError

NAMES = ("a", "b", "c", "d")


def source(folder: Path, inputs: dict[str, str | tuple[str, ...]], **columns: pa.Array | Sequence[object]) -> Source:
    """A file with these columns, beside ids."""
    table = pa.table({"id": NAMES[: len(next(iter(columns.values())))], **columns})
    pq.write_table(table, folder / "data.parquet")
    (file,) = find("data.parquet", str(folder / "data.parquet")).files
    return Source(file, len(table), Columns(inputs=inputs), ())


def read(found: Source) -> tuple[dict[str, list[object]], list[str]]:
    """All arrays of a source as lists, and the reasons of its rows."""
    assert found.columns.inputs is not None
    arguments, _ = first_tensors([found], found.columns.inputs, 1)
    (batch,) = read_tensors(found, 0, found.rows, arguments, 100)
    return {name: array.tolist() for name, array in batch.arrays.items()}, list(batch.unreadable)


@pytest.mark.parametrize(
    ("column", "shape", "kind", "values"),
    [
        (pa.array([1, 2, 3], pa.int16()), (), "int64", [1, 2, 3]),
        (pa.array([0.5, 2, 3], pa.float64()), (), "float32", [0.5, 2, 3]),
        (pa.array([True, False, True]), (), "float32", [1, 0, 1]),
        (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)), (2,), "int64", [[1, 2], [3, 4], [5, 6]]),
        (pa.array([[1, 2], [3, 4], [5, 6]], pa.large_list(pa.float16())), (2,), "float32", [[1, 2], [3, 4], [5, 6]]),
        (
            pa.array([[[1, 2, 3], [4, 5, 6]]] * 3, pa.list_(pa.list_(pa.float32(), 3))),
            (2, 3),
            "float32",
            [[[1, 2, 3], [4, 5, 6]]] * 3,
        ),
        (pa.array([7, 8, 7]).dictionary_encode(), (), "int64", [7, 8, 7]),
    ],
)
def test_a_column_of_numbers_is_a_tensor(
    tmp_path: Path, column: pa.Array, shape: tuple[int, ...], kind: str, values: list[object]
) -> None:
    found = source(tmp_path, {"x": "own"}, own=column)
    assert found.columns.inputs is not None
    arguments, first = first_tensors([found], found.columns.inputs, 2)
    assert arguments["x"] == TensorArgument(shape, kind)  # type: ignore[arg-type]
    assert (first["x"].dtype, first["x"].shape) == (np.dtype(kind), (2, *shape))
    assert read(found) == ({"x": values}, ["", "", ""])


def test_columns_are_stacked_to_fractions_in_the_order_of_the_config(tmp_path: Path) -> None:
    found = source(tmp_path, {"x": ("b", "a")}, a=[1, 2], b=[0.5, 1.5])
    assert read(found) == ({"x": [[0.5, 1], [1.5, 2]]}, ["", ""])
    pairs = source(tmp_path, {"x": ("a",), "y": "a"}, a=[[1, 2], [3, 4]])
    assert read(pairs) == ({"x": [[[1, 2]], [[3, 4]]], "y": [[1, 2], [3, 4]]}, ["", ""])


def test_a_row_that_does_not_fit_costs_itself_only_and_says_why(tmp_path: Path) -> None:
    arrays, reasons = read(source(tmp_path, {"x": "x", "y": "y"}, x=[[1, 2], [3], None, [5, None]], y=[1, 2, 3, 4]))
    assert arrays == {"x": [[1, 2]], "y": [1]}
    assert reasons == [
        "",
        "x has a list of 1 numbers, the first trusted sample's has the shape 2",
        "x is null",
        "x holds a null",
    ]
    nested = source(tmp_path, {"x": "x"}, x=[[[1, 2], [3, 4]], [[1, 2], None], [[1, 2], [3]], [[1, 2]]])
    arrays, reasons = read(nested)
    assert arrays == {"x": [[[1, 2], [3, 4]]]}
    assert reasons == [
        "",
        "x is null, or holds a null",
        "x has a list of 1 numbers, the first trusted sample's has the shape 2 x 2",
        "x has a list of 1 numbers, the first trusted sample's has the shape 2 x 2",
    ]


def test_fractions_where_the_trusted_numbers_are_whole_are_unreadable_and_not_cut_off(tmp_path: Path) -> None:
    found = source(tmp_path, {"x": "x"}, x=[1.0, 2.5, float("nan"), 4.0])
    (batch,) = read_tensors(found, 0, 4, {"x": TensorArgument((), "int64")}, 100)
    odd = "x holds a fraction, the first trusted sample's numbers are whole"
    assert (list(batch.unreadable), batch.arrays["x"].tolist()) == (["", odd, odd, ""], [1, 4])


def test_rows_come_in_batches_and_keep_their_places(tmp_path: Path) -> None:
    found = source(tmp_path, {"x": "x"}, x=[1.0, None, 3.0, 4.0])
    batches = list(read_tensors(found, 1, 4, {"x": TensorArgument((), "float32")}, 2))
    assert [name for batch in batches for name in batch.ids] == ["b", "c", "d"]
    assert [reason for batch in batches for reason in batch.unreadable] == ["x is null", "", ""]
    assert np.concatenate([batch.arrays["x"] for batch in batches]).tolist() == [3.0, 4.0]
    assert len(batches) > 1


def test_the_shape_is_that_of_the_first_row_that_has_one(tmp_path: Path) -> None:
    assert read(source(tmp_path, {"x": "x"}, x=[None, [1, 2, 3], [4]]))[1] == [
        "x is null",
        "",
        "x has a list of 1 numbers, the first trusted sample's has the shape 3",
    ]
    with pytest.raises(SourceError, match="none of its first 2 rows can be read; the first: x is null"):
        read(source(tmp_path, {"x": "x"}, x=pa.array([None, None], pa.float32())))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": "missing"}, r"has no column 'missing' \(data\.columns\.inputs\); columns there: id \(string\)"),
        ({"x": "word"}, r"has no column 'word' \(data\.columns\.inputs\); did you mean 'words'\?"),
        ({"x": ["f", "words"]}, r"the column 'words' \(data\.columns\.inputs\) is string, expected numbers"),
    ],
)
def test_a_file_without_the_columns_is_refused_with_those_there(
    tmp_path: Path, inputs: JsonValue, message: str
) -> None:
    pq.write_table(pa.table({"id": ["a"], "f": [1.0], "words": ["w"]}), tmp_path / "t.parquet")
    raw: dict[str, JsonValue] = {
        "root": "r",
        "task": "binary",
        "models": [{"name": "m", "architecture": "n.py:net", "weights": "w"}],
        "data": {"trusted": "t.parquet", "audited": "t.parquet", "columns": {"inputs": inputs}},
    }
    config = AuditConfig.parse(raw, str(tmp_path))
    with pytest.raises(SourceError, match=message):
        find_sources(config, config.models[0], "trusted")
