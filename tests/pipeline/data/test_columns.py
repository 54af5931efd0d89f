"""Columns: the same values, whatever Arrow type they are stored in; what does not fit is named by its row."""

import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.columns import UnfitValue, binary, fits, integers, may_not_fit, token_lists, truth, unfit
from pipeline.data.ids import ids_of
from pipeline.data.images.reading import ImageOptions, read_images
from pipeline.data.sources import read_ids
from pipeline.data.texts.reading import TextLimits, read_texts
from pipeline.data.truth import UNKNOWN, read_truth
from tests.pipeline.data.images.files import find, picture
from tests.pipeline.data.texts.files import source_of

ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)


def dictionary(values: pa.Array, index: pa.DataType) -> pa.Array:
    """The values from the last to the first, null in the end, as categories."""
    places = [*range(len(values) - 1, -1, -1), None]
    return pa.DictionaryArray.from_arrays(pa.array(places, index), values)


INTEGERS: dict[str, pa.Array] = {
    **{str(kind): pa.array([5, 3, None], kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(kind): pa.array([5, 3, None], kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "float16": pa.array(np.array([5, 3, np.nan], np.float16)),
    "float32": pa.array([5, 3, float("nan")], pa.float32()),
    "float64": pa.array([5.0, 3.0, None]),
    "pandas' nullable": pa.array(pd.Series([5, 3, None], dtype="Int64")),
    "pandas' doubles": pa.array(pd.Series([5, 3, None]), from_pandas=False),
    "decimal32": pa.array([Decimal(5), Decimal(3), None], pa.decimal32(3, 0)),
    "HUGEINT": pa.array([Decimal(5), Decimal(3), None], pa.decimal128(38, 0)),
    "decimal256": pa.array([Decimal(5), Decimal(3), None], pa.decimal256(50, 0)),
    "a decimal of whole numbers": pa.array([Decimal("5.00"), Decimal("3.00"), None], pa.decimal128(38, 2)),
    **{
        f"categories by {index}": dictionary(pa.array([3, 5]), index)
        for index in (pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64())
    },
    "categories of doubles": dictionary(pa.array([3.0, 5.0]), pa.int16()),
    "runs": pa.array([5, 3, None], pa.run_end_encoded(pa.int32(), pa.int16())),
}


@pytest.mark.parametrize("array", INTEGERS.values(), ids=INTEGERS)
def test_integers_are_integers_in_any_type(array: pa.Array) -> None:
    assert fits("label", array.type)
    assert fits("id", array.type)
    assert integers(array).type == pa.int64()
    assert integers(array).to_pylist() == [5, 3, None]
    assert ids_of(array) == ["5", "3", None]
    assert integers(array[1:]).to_pylist() == [3, None]


UNFIT: dict[str, tuple[pa.Array, int, str]] = {
    "a fraction": (pa.array([1.0, None, 3.5]), 2, "holds 3.5, which is no whole number"),
    "infinity": (pa.array([1.0, float("inf")]), 1, "holds inf, which is no whole number"),
    "beyond doubles": (
        pa.array([2.0**53, 2.0**54]),
        1,
        "holds 18014398509481984, and beyond 9,007,199,254,740,992 its type does not hold every integer",
    ),
    "beyond float32": (pa.array([2.0**25], pa.float32()), 0, "holds 33554432, and beyond 16,777,216"),
    "a decimal": (pa.array([Decimal("1.50")]), 0, "holds 1.50, which is no whole number"),
    "more than 64 bits": (pa.array([Decimal(1 << 70)]), 0, f"holds {1 << 70}, which has more than 64 bits"),
    "unsigned": (pa.array([1, 1 << 63], pa.uint64()), 1, f"holds {1 << 63}, which has more than 64 bits"),
}


@pytest.mark.parametrize(("array", "row", "reason"), UNFIT.values(), ids=UNFIT)
def test_what_is_no_integer_is_named_by_its_row(array: pa.Array, row: int, reason: str) -> None:
    assert may_not_fit("label", array.type)
    with pytest.raises(UnfitValue) as raised:
        integers(array)
    assert raised.value.row == row
    assert raised.value.reason.startswith(reason)
    found = unfit("label", [pa.array([1, 2]), array])
    assert found is not None
    assert found.row == 2 + row


def test_ids_may_have_more_than_64_bits() -> None:
    assert ids_of(pa.array([2**64 - 1], pa.uint64())) == ["18446744073709551615"]
    assert ids_of(pa.array([Decimal(10**37)], pa.decimal128(38, 0))) == [str(10**37)]


TEXTS: dict[str, pa.Array] = {
    **{str(kind): pa.array(["b", "a", None], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(kind): pa.array([b"b", b"a", None], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "bytes of one width": pa.array([b"b", b"a", None], pa.binary(1)),
    "categories": dictionary(pa.array(["a", "b"]), pa.int8()),
    "categories by uint32": dictionary(pa.array(["a", "b"], pa.large_string()), pa.uint32()),
    "runs": pa.array(["b", "a", None], pa.run_end_encoded(pa.int32(), pa.string())),
    "JSON": pa.array(["b", "a", None], pa.json_(pa.string())),
}


@pytest.mark.parametrize("array", TEXTS.values(), ids=TEXTS)
def test_text_is_text_in_any_type(array: pa.Array) -> None:
    assert fits("id", array.type)
    assert ids_of(array) == ["b", "a", None]


@pytest.mark.parametrize("kind", [pa.uuid(), pa.binary(16)])
def test_a_uuid_is_its_canonical_text(kind: pa.DataType) -> None:
    array = pa.array([ONE.bytes, None, TWO.bytes], kind)
    assert fits("id", kind)
    assert ids_of(array) == [str(ONE), None, str(TWO)]
    assert not fits("label", kind)


BYTES: dict[str, pa.Array] = {
    **{str(kind): pa.array([b"xy", b"", None], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "categories": pa.array([b"xy", b"", None]).dictionary_encode(),
    "a struct": pa.array([{"bytes": b"xy", "path": None}, {"bytes": b"", "path": "p"}, {"bytes": None, "path": "q"}]),
    "a struct of views": pa.array([{"bytes": b"xy"}, {"bytes": b""}, None], pa.struct([("bytes", pa.binary_view())])),
    "a struct of categories": pa.StructArray.from_arrays([pa.array([b"xy", b"", None]).dictionary_encode()], ["bytes"]),
}


@pytest.mark.parametrize("array", BYTES.values(), ids=BYTES)
def test_bytes_are_bytes_in_any_type(array: pa.Array) -> None:
    assert fits("image", array.type)
    assert binary(array).to_pylist() == [b"xy", b"", None]


TRUTHS: dict[str, pa.Array] = {
    "booleans": pa.array([True, False, None]),
    "integers": pa.array([1, 0, None], pa.uint64()),
    "doubles": pa.array([1.0, 0.0, float("nan")]),
    "decimals": pa.array([Decimal(1), Decimal(0), None], pa.decimal128(38, 0)),
    "8-bit booleans": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8())),
    "words": pa.array([" True", "false", None]),
    "yes and no": pa.array(["YES", "no", ""], pa.large_string()),
    "numbers as text": pa.array(["1", "0.0", None], pa.string_view()),
    "categories": dictionary(pa.array(["false", "true"]), pa.int8()),
}


@pytest.mark.parametrize("array", TRUTHS.values(), ids=TRUTHS)
def test_truth_is_truth_in_any_type(array: pa.Array) -> None:
    assert fits("anomalous", array.type)
    assert truth(array).to_pylist() == [1, 0, None]


@pytest.mark.parametrize("array", [pa.array([0, 2]), pa.array(["no", "perhaps"]), pa.array([0.0, -1.0])])
def test_what_is_no_truth_is_named_by_its_row(array: pa.Array) -> None:
    assert may_not_fit("anomalous", array.type)
    with pytest.raises(UnfitValue, match=r"row 1 holds (2|'perhaps'|-1), which says neither 1"):
        truth(array)


TOKENS = [[7, 1], None, [], [2, None], [3, 4, 5]]


LISTS: dict[str, pa.Array] = {
    **{
        str(kind): pa.array(TOKENS, kind)
        for kind in (
            pa.list_(pa.uint16()),
            pa.list_(pa.int8()),
            pa.large_list(pa.uint64()),
            pa.list_view(pa.int32()),
            pa.large_list_view(pa.int64()),
            pa.list_(pa.float32()),
            pa.large_list(pa.float64()),
        )
    },
    "lists of decimals": pa.array(
        [[Decimal(7), Decimal(1)], None, [], [Decimal(2), None], [Decimal(3), Decimal(4), Decimal(5)]]
    ),
    "NaN": pa.array([[7.0, 1.0], None, [], [2.0, float("nan")], [3.0, 4.0, 5.0]]),
    "a slice": pa.array([[5.5], *TOKENS, [6.5]], pa.list_(pa.float64()))[1:-1],
}


@pytest.mark.parametrize("array", LISTS.values(), ids=LISTS)
def test_token_lists_are_lists_of_integers_in_any_type(array: pa.Array) -> None:
    assert fits("input_ids", array.type)
    lists = token_lists(array)
    assert pa.types.is_large_list(lists.type)
    assert pa.types.is_integer(lists.type.value_type)
    assert lists.to_pylist() == TOKENS
    assert [row.values.to_pylist() if row.is_valid else None for row in lists] == TOKENS


def test_token_lists_of_one_length_are_lists_of_integers() -> None:
    assert token_lists(pa.array([[7, 1], None], pa.list_(pa.float64(), 2))).to_pylist() == [[7, 1], None]


def test_a_fraction_in_a_list_is_named_by_its_row_and_position() -> None:
    array = pa.array([[1.0], None, [], [2.0, 3.5]])
    with pytest.raises(UnfitValue, match=r"^row 3 holds 3\.5, which is no whole number \(at position 1\)$"):
        token_lists(array)


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("id", pa.bool_()),
        ("id", pa.timestamp("us")),
        ("id", pa.list_(pa.int8())),
        ("id", pa.null()),
        ("label", pa.binary()),
        ("label", pa.date32()),
        ("image", pa.string()),
        ("image", pa.struct([("path", pa.string())])),
        ("input_ids", pa.list_(pa.string())),
        ("input_ids", pa.list_(pa.list_(pa.int8()))),
        ("input_ids", pa.fixed_shape_tensor(pa.int64(), (2, 3))),
        ("completion_start", pa.bool_()),
        ("anomalous", pa.binary()),
    ],
)
def test_what_carries_something_else_does_not_fit(role: str, kind: pa.DataType) -> None:
    assert not fits(role, kind)


Writer = Callable[[Path], None]


def by_pandas(path: Path) -> None:
    frame = pd.DataFrame(
        {"id": [10, 11, 12], "image": [picture(0)] * 3, "label": [4, None, 6], "anomalous": [1, 0, None]}
    )
    frame["target"] = None
    frame.to_parquet(path)


def by_pandas_with_categories(path: Path) -> None:
    frame = pd.DataFrame({"id": pd.Categorical(["10", "11", "12"]), "image": [picture(0)] * 3})
    frame["label"] = pd.Series([4, None, 6], dtype="Int8")
    frame["anomalous"] = pd.Categorical(["true", "false", None])
    frame.to_parquet(path)


def as_duckdb_does(path: Path) -> None:
    ids = pa.array([Decimal(10), Decimal(11), Decimal(12)], pa.decimal128(38, 0))
    labels = pa.array([4, None, 6], pa.decimal128(38, 0))
    table = {"id": ids, "image": [picture(0)] * 3, "label": labels, "anomalous": [True, False, None]}
    pq.write_table(pa.table(table), path, data_page_version="2.0", compression="zstd")


def as_polars_does(path: Path) -> None:
    table = {
        "id": pa.array(["10", "11", "12"], pa.string_view()),
        "image": pa.array([picture(0)] * 3, pa.binary_view()),
        "label": pa.array([4, None, 6], pa.uint64()),
        "anomalous": dictionary(pa.array(["true", "false"]), pa.uint32()).take(pa.array([1, 0, 2])),
    }
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize("write", [by_pandas, by_pandas_with_categories, as_duckdb_does, as_polars_does])
def test_files_of_other_tools_hold_the_same_samples(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "images.parquet")
    (source,), _ = find(tmp_path, "audited", "images.parquet")
    assert list(read_ids(source, 1)) == [["11", "12"]]
    (batch,) = read_images(source, 0, 3, ImageOptions(8, (2, 3), resize=False))
    assert batch.unreadable == ("", "", "")
    known = read_truth(source, 0, 3)
    assert known.label.tolist() == [4, UNKNOWN, 6]
    assert known.anomalous.tolist() == [1, 0, UNKNOWN]
    assert known.target.tolist() == [UNKNOWN] * 3


def test_texts_of_other_types_are_the_same_texts(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([ONE.bytes, TWO.bytes], pa.uuid()),
            "input_ids": pa.array([[7, 1, 2], [3, 4]], pa.list_view(pa.float64())),
            "completion_start": pa.array([Decimal(2), Decimal(1)], pa.decimal128(38, 0)),
        }
    )
    (batch,) = read_texts(source_of(tmp_path, table), 0, 2, TextLimits(256, 8), 8)
    assert (batch.ids, batch.unreadable) == ((str(ONE), str(TWO)), ("", ""))
    assert [(text.ids.tolist(), text.completion_start) for text in batch.texts] == [([7, 1, 2], 2), ([3, 4], 1)]
