"""Texts, one by one: what is readable, and the reason where one is not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.texts import TextLimits, UnreadableText, first_texts, longest_text, parse_text, read_texts
from pipeline.errors import SourceError
from tests.pipeline.data.text_files import source_of, text_table

LIMITS = TextLimits(vocabulary=10, positions=12)


BAD = {
    "null": (None, 1, "input_ids is null"),
    "empty": ([], 0, "input_ids is empty"),
    "too long": ([1] * 13, 1, "input_ids has 13 tokens, the model takes at most 12"),
    "a null inside": ([1, None, 3], 1, "input_ids holds a null"),
    "beyond the vocabulary": (
        [1, 2, 10, 11],
        1,
        "the token id 10 at position 2 is outside the model's vocabulary, 0 to 9",
    ),
    "negative": ([1, -1, 10], 1, "the token id -1 at position 1 is outside the model's vocabulary, 0 to 9"),
    "no start": ([1, 2], None, "completion_start is null"),
    "no prompt": (
        [1, 2],
        0,
        "completion_start is 0, but a completion needs a token before it to be predicted from: 1 or more",
    ),
    "a negative start": ([1, 2], -1, "completion_start is -1, but a completion needs a token"),
    "no completion": ([1, 2, 3], 3, "the completion is empty: it starts at 3 of 3 tokens"),
    "beyond the end": ([1, 2, 3], 7, "the completion is empty: it starts at 7 of 3 tokens"),
    "one token": ([1], 1, "the completion is empty: it starts at 1 of 1 tokens"),
}


@pytest.mark.parametrize(("ids", "start", "reason"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int8())], ids=str)
def test_a_bad_text_is_unreadable_with_the_numbers(
    ids: list[int] | None, start: int | None, reason: str, kind: pa.DataType
) -> None:
    tokens = pa.array([ids], kind)[0]
    with pytest.raises(UnreadableText) as caught:
        parse_text(tokens.values if tokens.is_valid else None, start, LIMITS)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(("ids", "start"), [([0, 9], 1), ([5] * 12, 11), ([1, 2, 3], 1)])
def test_a_good_text_is_read_to_the_last_token(ids: list[int], start: int) -> None:
    text = parse_text(pa.array(ids, pa.uint16()), start, LIMITS)
    assert (text.ids.tolist(), text.ids.dtype, text.completion_start) == (ids, np.int64, start)


def test_a_model_without_a_limit_takes_any_length() -> None:
    assert len(parse_text(pa.array([1] * 5000), 1, TextLimits(10, None)).ids) == 5000
    assert TextLimits(10, None).padded(5001) == 5008
    assert [LIMITS.padded(length) for length in (1, 8, 9, 12)] == [8, 8, 12, 12]


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
