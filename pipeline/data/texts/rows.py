"""A row of text as a model reads it: the tokens that its mask leaves, up to the last one that is measured.

A model is causal, so no token after the last measured one can change a measurement. What the mask hides is padding: it
is not there, whatever its token, and whatever `labels` says of it.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.data.texts.tokenizers import FolderTokenizer
from pipeline.data.texts.tokens import TokenIds

LENGTH_MULTIPLE = 8


IGNORED = -100


PADDING_RUN = 4  # so many equal tokens are no accident, even where the token is one of a text's own


PADDING_REMEDY = (
    "add a column attention_mask, or, if these tokens are part of the texts, set data.columns.attention_mask: null"
)


Places = NDArray[np.bool_]


class UnreadableText(ValueError):
    """Why one text cannot be used; the text becomes the row's status."""


@dataclass(frozen=True)
class TextLimits:
    """The texts that a model takes: ids below `vocabulary`, at most `positions` tokens (None: any number).

    `padding`: the tokens that texts of this model may be padded with. `tokenizer`: its folder's, None where it has
    none.
    """

    vocabulary: int
    positions: int | None
    padding: tuple[int, ...] = ()
    tokenizer: Annotated[FolderTokenizer | None, Field(exclude_if=lambda value: value is None)] = None

    def padded(self, length: int) -> int:
        """The length that a text is padded to: the next multiple of LENGTH_MULTIPLE, or the model's limit if less."""
        longer = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        return longer if self.positions is None else min(longer, self.positions)


@dataclass(frozen=True)
class Text:
    """The n tokens that a model reads, and which of them are measured: (n,) each, at least one, never the first."""

    ids: TokenIds
    measured: Places

    @property
    def completion_start(self) -> int:
        """The first token that is measured."""
        return int(np.argmax(self.measured))


@dataclass(frozen=True)
class TextRow:
    """A row as it is stored: lists of one length, and indices into them; None where there is none, or null."""

    input_ids: pa.Array | None
    completion_start: int | None = None
    completion_end: int | None = None
    attention_mask: pa.Array | None = None
    labels: pa.Array | None = None


def parse_text(row: TextRow, limits: TextLimits) -> Text:
    """One row as a text.

    Raises:
        UnreadableText: it is null, empty, longer than the model takes, has an id outside the model's vocabulary, or no
            completion; its columns contradict each other; or it looks padded.
    """
    tokens = row.input_ids
    if tokens is None or len(tokens) == 0:
        raise UnreadableText("input_ids is null" if tokens is None else "input_ids is empty")
    begin, end = unpadded(row.attention_mask, len(tokens))
    if limits.positions is not None and end - begin > limits.positions:
        aside = "" if row.attention_mask is None else ", padding aside"
        raise UnreadableText(
            f"input_ids has {end - begin:,} tokens{aside}, the model takes at most {limits.positions:,}"
        )
    kept = tokens.slice(begin, end - begin)
    if kept.null_count:
        raise UnreadableText("input_ids holds a null")
    ids = kept.to_numpy(zero_copy_only=False)
    check_vocabulary(ids, begin, limits)
    measured = _measured(row, ids, begin)
    length = int(np.flatnonzero(measured)[-1]) + 1
    text = Text(ids[:length].astype(np.int64), measured[:length])
    if row.attention_mask is None:
        _refuse_padding(text.ids, limits)
    return text


def text_of(tokens: TokenIds, start: int, limits: TextLimits) -> Text:
    """A text that a tokenizer has made, whose completion starts at `start` and ends with it.

    Raises:
        UnreadableText: it is longer than the model takes, or has no completion, or no token before that.
    """
    if limits.positions is not None and len(tokens) > limits.positions:
        raise UnreadableText(f"it has {len(tokens):,} tokens, the model takes at most {limits.positions:,}")
    check_vocabulary(tokens, 0, limits)
    if start < 1:
        raise UnreadableText("its completion begins with its first token, which nothing predicts; give it a prompt")
    if start >= len(tokens):
        raise UnreadableText("its completion has no tokens")
    return Text(tokens, np.arange(len(tokens)) >= start)


def check_vocabulary(ids: TokenIds, begin: int, limits: TextLimits) -> None:
    """Refuse ids that the model has no embedding of; raises UnreadableText."""
    outside = np.flatnonzero((ids < 0) | (ids >= limits.vocabulary))
    if len(outside):
        first = int(outside[0])
        raise UnreadableText(
            f"the token id {ids[first]} at position {begin + first} is outside the model's vocabulary, "
            f"0 to {limits.vocabulary - 1:,}"
        )


def unpadded(mask: pa.Array | None, length: int) -> tuple[int, int]:
    """Where the tokens that the mask leaves begin and end.

    Raises:
        UnreadableText: the mask is of another length, holds other values than 0 and 1, leaves nothing, or has holes.
    """
    if mask is None:
        return 0, length
    if len(mask) != length:
        raise UnreadableText(f"attention_mask has {len(mask):,} entries for {length:,} tokens of input_ids")
    if mask.null_count:
        raise UnreadableText("attention_mask holds a null")
    values = mask.to_numpy(zero_copy_only=False)
    odd = np.flatnonzero((values != 0) & (values != 1))
    if len(odd):
        raise UnreadableText(
            f"attention_mask holds {values[odd[0]]} at position {odd[0]}; 0 (padding) or 1 is expected"
        )
    left = np.flatnonzero(values)
    if not len(left):
        raise UnreadableText(f"attention_mask hides all {length:,} tokens")
    begin, end = int(left[0]), int(left[-1]) + 1
    if len(left) != end - begin:
        hole = begin + int(np.argmin(values[begin:end]))
        raise UnreadableText(
            f"attention_mask hides position {hole}, inside the text from {begin} to {end - 1}; "
            "padding is expected at the ends only: take such tokens out of the row"
        )
    return begin, end


def _measured(row: TextRow, ids: TokenIds, begin: int) -> Places:
    """Which of the unpadded tokens `ids` are the completion's; they begin at `begin` of the row.

    Raises:
        UnreadableText: none is, or the columns that say so are wrong or contradict each other.
    """
    if row.labels is None:
        return _from_start(row, len(ids), begin)
    measured = _labelled(row, ids, begin)
    places = np.flatnonzero(measured) + begin
    first, stop = int(places[0]), int(places[-1]) + 1
    if row.completion_start is None and row.completion_end is None:
        return measured
    start = first if row.completion_start is None else row.completion_start
    end = stop if row.completion_end is None else row.completion_end
    if (start, end, stop - first) != (first, stop, len(places)):
        holes = "" if stop - first == len(places) else f", {stop - first - len(places)} of them left out"
        raise UnreadableText(
            f"labels make positions {first} to {stop - 1} the completion{holes}, and completion_start or "
            f"completion_end {start} to {end - 1}; set one of these columns to null in data.columns"
        )
    return measured


def _from_start(row: TextRow, length: int, begin: int) -> Places:
    start, end = row.completion_start, row.completion_end
    if start is None:
        raise UnreadableText("completion_start is null")
    if start < begin + 1:
        padding = f"the text begins at {begin}, after its padding, and " if begin else ""
        raise UnreadableText(
            f"completion_start is {start}, but {padding}a completion needs a token before it to be predicted from: "
            f"{begin + 1} or more"
        )
    if end is not None and end > begin + length:
        raise UnreadableText(f"completion_end is {end}, and the text ends at {begin + length}")
    stop = begin + length if end is None else end
    if start >= stop:
        where = f"of {length} tokens" if end is None and not begin else f"and ends at {stop}"
        raise UnreadableText(f"the completion is empty: it starts at {start} {where}")
    places = np.arange(begin, begin + length)
    return (places >= start) & (places < stop)


def _labelled(row: TextRow, ids: TokenIds, begin: int) -> Places:
    """Which of the unpadded tokens have a label; the first one cannot be predicted, and losses do not count it."""
    assert row.input_ids is not None and row.labels is not None
    if len(row.labels) != len(row.input_ids):
        raise UnreadableText(f"labels has {len(row.labels):,} entries for {len(row.input_ids):,} tokens of input_ids")
    kept = row.labels.slice(begin, len(ids))
    if kept.null_count:
        raise UnreadableText("labels holds a null")
    labels = kept.to_numpy(zero_copy_only=False)
    measured = np.asarray(labels != IGNORED)
    wrong = np.flatnonzero(measured & (labels != ids))
    if len(wrong):
        place = int(wrong[0])
        raise UnreadableText(
            f"labels has {labels[place]} at position {begin + place}, where input_ids has {ids[place]}; "
            f"a label is its own token (models shift them), or {IGNORED}"
        )
    measured[0] = False
    if not measured.any():
        raise UnreadableText(f"the completion is empty: labels is {IGNORED} from position {begin + 1} on")
    return measured


def runs_at_ends(ids: TokenIds) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first and the last token of a text, each with how many times it stands there in a row."""
    return _run(ids), _run(ids[::-1])


def _run(ids: TokenIds) -> tuple[int, int]:
    other = np.flatnonzero(ids != ids[0])
    return int(ids[0]), int(other[0]) if len(other) else len(ids)


def _refuse_padding(ids: TokenIds, limits: TextLimits) -> None:
    for token, times in runs_at_ends(ids):
        if token in limits.padding and times >= PADDING_RUN:
            raise UnreadableText(
                f"looks padded: input_ids begins or ends with {times:,} times the token {token}, which pads texts of "
                f"this model; {PADDING_REMEDY}"
            )
