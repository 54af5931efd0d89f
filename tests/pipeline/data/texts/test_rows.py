"""Rows of texts, one by one: what is measured of them, and the reason where one is unreadable."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.texts.rows import Text, TextLimits, TextRow, UnreadableText, parse_text

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


def row(
    ids: Sequence[int | None] | None,
    start: int | None = None,
    end: int | None = None,
    mask: Sequence[int | bool | None] | None = None,
    labels: Sequence[int | None] | None = None,
) -> TextRow:
    """A row of these values."""
    tokens, hidden, labelled = (None if own is None else pa.array(own) for own in (ids, mask, labels))
    return TextRow(tokens, start, end, hidden, labelled)


def parts(text: Text) -> tuple[list[int], list[int]]:
    """The tokens that are read, and the places of those that are measured."""
    return text.ids.tolist(), np.flatnonzero(text.measured).tolist()


def reason(bad: TextRow, limits: TextLimits = LIMITS) -> str:
    with pytest.raises(UnreadableText) as caught:
        parse_text(bad, limits)
    return str(caught.value)


@pytest.mark.parametrize(("ids", "start", "expected"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.int8()], ids=str)
def test_a_bad_text_is_unreadable_with_the_numbers(
    ids: list[int] | None, start: int | None, expected: str, kind: pa.DataType
) -> None:
    assert reason(TextRow(None if ids is None else pa.array(ids, kind), start)).startswith(expected)


@pytest.mark.parametrize(("ids", "start"), [([0, 9], 1), ([5] * 12, 11), ([1, 2, 3], 1)])
def test_a_good_text_is_read_to_the_last_token(ids: list[int], start: int) -> None:
    text = parse_text(TextRow(pa.array(ids, pa.uint16()), start), LIMITS)
    assert (text.ids.tolist(), text.ids.dtype, text.completion_start) == (ids, np.int64, start)
    assert parts(text)[1] == list(range(start, len(ids)))


def test_a_model_without_a_limit_takes_any_length() -> None:
    assert len(parse_text(row([1] * 5000, 1), TextLimits(10, None)).ids) == 5000
    assert TextLimits(10, None).padded(5001) == 5008
    assert [LIMITS.padded(length) for length in (1, 8, 9, 12)] == [8, 8, 12, 12]


PADDED = {
    "left": row([0, 0, 1, 2, 3, 4], 4, mask=[0, 0, 1, 1, 1, 1]),
    "right": row([1, 2, 3, 4, 0, 0], 2, mask=[1, 1, 1, 1, 0, 0]),
    "both": row([0, 1, 2, 3, 4, 0], 3, mask=[0, 1, 1, 1, 1, 0]),
    "by truths": row([0, 1, 2, 3, 4, 0], 3, mask=[False, True, True, True, True, False]),
    "not at all": row([1, 2, 3, 4], 2, mask=[1, 1, 1, 1]),
    "with what is no token": row([-1, None, 1, 2, 3, 4, 999], 4, mask=[0, 0, 1, 1, 1, 1, 0]),
    "beyond the model's limit": row([0] * 20 + [1, 2, 3, 4], 22, mask=[0] * 20 + [1] * 4),
    "and labelled": row([0, 1, 2, 3, 4, 0], mask=[0, 1, 1, 1, 1, 0], labels=[0, -100, -100, 3, 4, 0]),
}


@pytest.mark.parametrize("padded", PADDED.values(), ids=PADDED)
def test_padding_that_a_mask_hides_is_not_there(padded: TextRow) -> None:
    assert parts(parse_text(padded, LIMITS)) == ([1, 2, 3, 4], [2, 3])


MASKS = {
    "short": ([1, 1], "attention_mask has 2 entries for 4 tokens of input_ids"),
    "a null": ([1, None, 1, 1], "attention_mask holds a null"),
    "numbers of packed texts": (
        [1, 1, 2, 2],
        "attention_mask holds 2 at position 2; 0 (padding) or 1 is expected",
    ),
    "nothing": ([0, 0, 0, 0], "attention_mask hides all 4 tokens"),
    "a hole": ([1, 0, 1, 0], "attention_mask hides position 1, inside the text from 0 to 2; padding is expected at"),
    "the completion": ([1, 1, 0, 0], "the completion is empty: it starts at 2 of 2 tokens"),
    "the prompt": (
        [0, 0, 1, 1],
        "completion_start is 2, but the text begins at 2, after its padding, and a completion needs a token before it "
        "to be predicted from: 3 or more",
    ),
}


@pytest.mark.parametrize(("mask", "expected"), MASKS.values(), ids=MASKS)
def test_a_mask_that_is_no_padding_is_refused_with_the_place(mask: list[int | None], expected: str) -> None:
    assert reason(row([1, 2, 3, 4], 2, mask=mask)).startswith(expected)


def test_numbers_in_reasons_count_from_the_list_as_it_is_stored() -> None:
    mask = [0, 0, 1, 1, 1]
    assert reason(row([0, 0, 1, 99, 3], 3, mask=mask)).startswith("the token id 99 at position 3 is outside")
    assert reason(row([0] * 9 + [1] * 13, 11, mask=[0] * 9 + [1] * 13)).startswith(
        "input_ids has 13 tokens, padding aside, the model takes at most 12"
    )
    assert reason(row([0, 0, 1, 2, 3], mask=mask, labels=[-100, -100, -100, 2, 4])).startswith(
        "labels has 4 at position 4, where input_ids has 3; a label is its own token (models shift them), or -100"
    )
    assert reason(row([0, 0, 1, 2, 3], 5, mask=mask)) == "the completion is empty: it starts at 5 and ends at 5"


ENDS = {
    "before the end": (row([1, 2, 3, 4], 1, 3), ([1, 2, 3], [1, 2])),
    "at the end": (row([1, 2, 3, 4], 1, 4), ([1, 2, 3, 4], [1, 2, 3])),
    "null": (row([1, 2, 3], 2, None), ([1, 2, 3], [2])),
    "after padding": (row([0, 1, 2, 3, 4], 2, 4, mask=[0, 1, 1, 1, 1]), ([1, 2, 3], [1, 2])),
}


@pytest.mark.parametrize(("ended", "expected"), ENDS.values(), ids=ENDS)
def test_a_completion_ends_before_its_end(ended: TextRow, expected: tuple[list[int], list[int]]) -> None:
    assert parts(parse_text(ended, LIMITS)) == expected


def test_an_end_that_is_no_end_is_refused() -> None:
    assert reason(row([1, 2, 3], 1, 4)) == "completion_end is 4, and the text ends at 3"
    assert reason(row([1, 2, 0], 1, 3, mask=[1, 1, 0])) == "completion_end is 3, and the text ends at 2"
    assert reason(row([1, 2, 3], 2, 2)) == "the completion is empty: it starts at 2 and ends at 2"
    assert reason(row([1, 2, 3], 1, 0)) == "the completion is empty: it starts at 1 and ends at 0"


LABELLED = {
    "a completion": (row([1, 2, 3, 4], labels=[-100, -100, 3, 4]), ([1, 2, 3, 4], [2, 3])),
    "padding that labels ignore": (row([1, 2, 3, 0, 0], labels=[-100, 2, 3, -100, -100]), ([1, 2, 3], [1, 2])),
    "every token": (row([1, 2, 3], labels=[1, 2, 3]), ([1, 2, 3], [1, 2])),
    "two turns": (row([1, 2, 3, 4, 5], labels=[-100, 2, -100, -100, 5]), ([1, 2, 3, 4, 5], [1, 4])),
    "the same start": (row([1, 2, 3, 4], 2, labels=[-100, -100, 3, 4]), ([1, 2, 3, 4], [2, 3])),
    "the same start and end": (row([1, 2, 3, 4], 1, 3, labels=[-100, 2, 3, -100]), ([1, 2, 3], [1, 2])),
    "a start alone": (row([1, 2, 3, 4], 1, labels=[-100, 2, 3, -100]), ([1, 2, 3], [1, 2])),
}


@pytest.mark.parametrize(("labelled", "expected"), LABELLED.values(), ids=LABELLED)
def test_labels_say_which_tokens_are_measured(labelled: TextRow, expected: tuple[list[int], list[int]]) -> None:
    assert parts(parse_text(labelled, LIMITS)) == expected


MISLABELLED = {
    "short": (row([1, 2, 3], labels=[-100, 2]), "labels has 2 entries for 3 tokens of input_ids"),
    "a null": (row([1, 2, 3], labels=[-100, None, 3]), "labels holds a null"),
    "shifted": (row([1, 2, 3], labels=[2, 3, -100]), "labels has 2 at position 0, where input_ids has 1; a label is"),
    "nothing": (row([1, 2], labels=[-100, -100]), "the completion is empty: labels is -100 from position 1 on"),
    "the first token alone": (row([1, 2], labels=[1, -100]), "the completion is empty: labels is -100 from position 1"),
    "another start": (
        row([1, 2, 3, 4], 1, labels=[-100, -100, 3, 4]),
        "labels make positions 2 to 3 the completion, and completion_start or completion_end 1 to 3; set one",
    ),
    "another end": (
        row([1, 2, 3, 4], 1, 3, labels=[-100, 2, 3, 4]),
        "labels make positions 1 to 3 the completion, and completion_start or completion_end 1 to 2; set one",
    ),
    "gaps and a start": (
        row([1, 2, 3, 4], 1, labels=[-100, 2, -100, 4]),
        "labels make positions 1 to 3 the completion, 1 of them left out, and completion_start or completion_end",
    ),
}


@pytest.mark.parametrize(("bad", "expected"), MISLABELLED.values(), ids=MISLABELLED)
def test_labels_that_contradict_the_text_are_refused_by_name(bad: TextRow, expected: str) -> None:
    assert reason(bad).startswith(expected)


def test_a_text_that_looks_padded_is_refused_unless_a_mask_says_that_it_is_not() -> None:
    limits = TextLimits(10, 12, padding=(0, 9))
    for ids, times in (([0] * 4 + [1, 2], 4), ([1, 2] + [9] * 5, 5), ([0] * 6, 6)):
        assert reason(row(ids, 1), limits).startswith(
            f"looks padded: input_ids begins or ends with {times} times the token {ids[-1] if ids[0] else 0}, which "
            "pads texts of this model; add a column attention_mask, or, if these tokens are part of the texts, set"
        )
        assert parts(parse_text(row(ids, 1, mask=[1] * len(ids)), limits))[0] == ids
    for ids in ([0, 1, 2, 9, 9, 9], [1, 0, 0, 0, 0, 2], [5] * 6):
        assert parts(parse_text(row(ids, 1), limits))[0] == ids
    assert parts(parse_text(row([1, 2] + [0] * 5, 1, 2), limits))[0] == [1, 2]
