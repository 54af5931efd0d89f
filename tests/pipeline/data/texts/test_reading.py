"""Files of texts: their columns, batches with bad rows, and the texts that a plan probes with."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.data.texts.reading import first_texts, longest_text, read_texts
from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from tests.pipeline.data.texts.files import source_of, text_table

LIMITS = TextLimits(vocabulary=10, positions=12)


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_bad_rows_are_in_their_batch_with_the_reason(tmp_path: Path, batch_rows: int) -> None:
    source = source_of(
        tmp_path, text_table([[1, 2], None, [3, 4, 5], [1, 2], [6, 7]], [1, 1, 2, 1, 1], ["a", "b", "c", None, "d"])
    )
    batches = list(read_texts(source, 1, 5, LIMITS, batch_rows))
    assert [name for batch in batches for name in batch.ids] == ["b", "c", "", "d"]
    assert [reason for batch in batches for reason in batch.unreadable] == [
        "input_ids is null",
        "",
        "the id is null",
        "",
    ]
    assert [(text.ids.tolist(), text.completion_start) for batch in batches for text in batch.texts] == [
        ([3, 4, 5], 2),
        ([6, 7], 1),
    ]


def test_columns_may_have_other_names_and_integer_ids(tmp_path: Path) -> None:
    table = text_table([[1, 2]], [1]).set_column(0, "id", pa.array([7]))
    source = source_of(
        tmp_path,
        table.rename_columns(["key", "tokens", "start"]),
        id="key",
        input_ids="tokens",
        completion_start="start",
    )
    assert next(read_texts(source, 0, 1, LIMITS, 8)).ids == ("7",)


def test_two_lengths_are_probed_where_there_are_two(tmp_path: Path) -> None:
    source = source_of(tmp_path, text_table([None, [1, 2, 3], [4, 5, 6], [7, 8]], [1, 1, 2, 1]))
    assert [[len(text.ids) for text in first_texts([source], wanted, LIMITS)] for wanted in (2, 3, 9)] == [
        [3, 2],
        [3, 2, 3],
        [3, 2, 3],
    ]
    assert longest_text([source], LIMITS) == 3


@pytest.mark.parametrize(("start", "length", "shorter", "its_start"), [(1, 3, 2, 1), (2, 3, 2, 1), (1, 2, 2, 1)])
def test_texts_of_one_length_are_probed_with_one_shortened(
    tmp_path: Path, start: int, length: int, shorter: int, its_start: int
) -> None:
    source = source_of(tmp_path, text_table([[1] * length] * 3, [start] * 3))
    _, second = first_texts([source], 2, LIMITS)
    assert (len(second.ids), second.completion_start) == (shorter, its_start)


def test_no_readable_text_to_probe_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    source = source_of(tmp_path, text_table([[1] * 20, None], [1, 1]))
    with pytest.raises(
        SourceError,
        match=r"none of its first 2 texts can be read; the first: input_ids has 20 tokens, the model takes at most 12",
    ):
        first_texts([source], 2, LIMITS)
    assert longest_text([source], LIMITS) == 1


def test_masks_labels_and_ends_are_read_from_their_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "tokens": pa.array([[0, 1, 2, 3], [1, 2, 3, 0], [1, 2], [1, 2, 3]], pa.large_list(pa.int16())),
            "mask": pa.array([[0, 1, 1, 1], [1, 1, 1, 0], [1, 1], None], pa.list_(pa.int8())),
            "labels": pa.array([[-100, -100, 2, -100], None, [-100, 2], None], pa.list_(pa.int64())),
            "completion_start": pa.array([None, 1, None, 1], pa.int32()),
            "completion_end": pa.array([None, 2, None, None], pa.int32()),
        }
    )
    source = source_of(tmp_path, table, input_ids="tokens", attention_mask="mask")
    (batch,) = read_texts(source, 0, 4, LIMITS, 8)
    assert batch.unreadable == ("", "", "", "attention_mask is null")
    assert [(text.ids.tolist(), text.measured.tolist()) for text in batch.texts] == [([1, 2], [False, True])] * 3


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int8()), pa.list_(pa.bool_(), 6)], ids=str)
def test_the_longest_text_is_counted_without_its_padding(tmp_path: Path, kind: pa.DataType) -> None:
    masks = [[1, 1, 0, 0, 0, 0], None, [0, 0, 0, 1, 1, 1], [0] * 6]
    table = text_table([[1] * 6] * 4, [1] * 4).append_column("attention_mask", pa.array(masks, pa.list_(pa.int32())))
    source = source_of(tmp_path, table.set_column(3, "attention_mask", table.column(3).cast(kind)))
    assert longest_text([source], TextLimits(10, 5)) == 3
    assert longest_text([source_of(tmp_path, table.drop(["attention_mask"]))], LIMITS) == 6
