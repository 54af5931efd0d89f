"""Files of texts that look padded and have no mask are refused before anything is scored."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.data.texts.rows import TextLimits
from pipeline.errors import SourceError
from pipeline.planning.checks.padding import check_padding, refuse_padded
from tests.pipeline.data.texts.files import source_of, text_table

LIMITS = TextLimits(10, None, padding=(0,))


def padded(count: int, of: int, end: list[int]) -> pa.Table:
    """Texts of which some have padding at their end."""
    return text_table([[1, 2, 3, *(end if row < count else [])] for row in range(of)], [1] * of)


def test_a_file_that_looks_padded_is_refused_with_the_numbers(tmp_path: Path) -> None:
    source = source_of(tmp_path, padded(3, 20, [0, 0]))
    says = (
        r"^texts\.parquet: looks padded: 3 of the first 20 texts begin or end with the token 0 repeated; "
        r"add a column attention_mask, or, if these tokens are part of the texts, set data\.columns"
    )
    with pytest.raises(SourceError, match=says):
        check_padding([source], LIMITS)
    assert list(refuse_padded([source], LIMITS)) == ["texts.parquet"]
    assert refuse_padded([source], TextLimits(10, None)) == {}


@pytest.mark.parametrize(
    "table",
    [
        padded(1, 10, [0, 0]),
        padded(2, 50, [0, 0]),
        padded(10, 10, [0]),
        padded(10, 10, [0, 0]).append_column("attention_mask", pa.array([[1] * 5] * 10)),
        padded(10, 10, [0, 0]).append_column("completion_end", pa.array([3] * 10)),
    ],
    ids=["one text", "few texts", "a token that ends texts", "a mask", "an end before the padding"],
)
def test_what_may_be_a_text_is_not_refused(tmp_path: Path, table: pa.Table) -> None:
    check_padding([source_of(tmp_path, table)], LIMITS)


def test_tokens_that_are_meant_are_not_refused_where_the_config_says_so(tmp_path: Path) -> None:
    check_padding([source_of(tmp_path, padded(10, 10, [0, 0]), attention_mask=None)], LIMITS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_seen_where_nothing_is_known_of_the_token(tmp_path: Path, side: str) -> None:
    lists = [[*[9] * (4 + row % 4), row % 7, 1, 2] for row in range(6)] + [[1, 2, 3, 4]] * 6
    whole = [own if side == "left" else own[::-1] for own in lists]
    source = source_of(tmp_path, text_table(whole, [len(own) - 1 for own in whole]))
    says = "texts.parquet: looks padded: 6 of the first 12 texts begin or end with the token 9 repeated; add a column"
    assert refuse_padded([source], TextLimits(10, None))["texts.parquet"].startswith(says)


@pytest.mark.parametrize(
    "lists",
    [
        [[9] * 4 + [1, 2]] * 8,
        [[9] * length for length in range(4, 12)],
        [[9] * (4 + row) + [1] for row in range(3)] + [[1, 2]] * 4,
    ],
    ids=["one beginning", "one token alone", "less than half"],
)
def test_what_texts_have_in_common_is_not_taken_for_padding(tmp_path: Path, lists: list[list[int]]) -> None:
    check_padding([source_of(tmp_path, text_table(list(lists), [1] * len(lists)))], TextLimits(10, None))


def test_a_file_that_cannot_be_read_is_left_to_the_tasks_that_read_it(tmp_path: Path) -> None:
    source = source_of(tmp_path, padded(10, 10, [0, 0]))
    (tmp_path / "texts.parquet").unlink()
    check_padding([source], LIMITS)
