"""Texts: token sequences and where their completions start, checked one by one, so that a bad text costs one row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.formats.tables import read_rows
from pipeline.data.columns import integers, token_lists
from pipeline.data.ids import ids_of
from pipeline.data.sources import Source
from pipeline.errors import SourceError

LENGTH_MULTIPLE = 8


LENGTHS_AT_ONCE = 1024


ROWS_SEARCHED = 256


TokenIds = NDArray[np.int64]


class UnreadableText(ValueError):
    """Why one text cannot be used; the text becomes the row's status."""


@dataclass(frozen=True)
class TextLimits:
    """The texts that a model takes: ids below `vocabulary`, at most `positions` tokens (None: any number)."""

    vocabulary: int
    positions: int | None

    def padded(self, length: int) -> int:
        """The length that a text is padded to: the next multiple of LENGTH_MULTIPLE, or the model's limit if less."""
        longer = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        return longer if self.positions is None else min(longer, self.positions)


@dataclass(frozen=True)
class Text:
    """A prompt and its completion, which starts at `completion_start`: 1 or more, and below the number of tokens."""

    ids: TokenIds
    completion_start: int


@dataclass(frozen=True)
class TextBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and the texts of those that are not.

    A null id is "", and so is the reason of a readable row.
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    texts: tuple[Text, ...]


def read_texts(source: Source, start: int, stop: int, limits: TextLimits, batch_rows: int) -> Iterator[TextBatch]:
    """Rows [start, stop) in batches; a row that cannot be read is in its batch with the reason."""
    columns = source.columns
    names = [columns.id, columns.input_ids, columns.completion_start]
    for batch in read_rows(source.file.url, start, stop, names, batch_rows):
        ids, texts, reasons = ids_of(batch.column(columns.id)), [], []
        inputs = token_lists(batch.column(columns.input_ids)), integers(batch.column(columns.completion_start))
        for name, tokens, begin in zip(ids, *inputs, strict=True):
            try:
                if name is None:
                    raise UnreadableText("the id is null")
                texts.append(parse_text(tokens.values if tokens.is_valid else None, begin.as_py(), limits))
                reasons.append("")
            except UnreadableText as error:
                reasons.append(str(error))
        yield TextBatch(tuple(name or "" for name in ids), tuple(reasons), tuple(texts))


def parse_text(tokens: pa.Array | None, completion_start: int | None, limits: TextLimits) -> Text:
    """One row as a text.

    Raises:
        UnreadableText: it is null, empty, longer than the model takes, has an id outside the model's vocabulary, or no
            completion.
    """
    if tokens is None or len(tokens) == 0:
        raise UnreadableText("input_ids is null" if tokens is None else "input_ids is empty")
    if limits.positions is not None and len(tokens) > limits.positions:
        raise UnreadableText(f"input_ids has {len(tokens):,} tokens, the model takes at most {limits.positions:,}")
    if tokens.null_count:
        raise UnreadableText("input_ids holds a null")
    ids = tokens.to_numpy(zero_copy_only=False)
    outside = np.flatnonzero((ids < 0) | (ids >= limits.vocabulary))
    if len(outside):
        first = int(outside[0])
        raise UnreadableText(
            f"the token id {ids[first]} at position {first} is outside the model's vocabulary, "
            f"0 to {limits.vocabulary - 1:,}"
        )
    if completion_start is None:
        raise UnreadableText("completion_start is null")
    if completion_start < 1:
        raise UnreadableText(
            f"completion_start is {completion_start}, "
            "but a completion needs a token before it to be predicted from: 1 or more"
        )
    if completion_start >= len(ids):
        raise UnreadableText(f"the completion is empty: it starts at {completion_start} of {len(ids)} tokens")
    return Text(ids.astype(np.int64), completion_start)


def first_texts(sources: Sequence[Source], wanted: int, limits: TextLimits) -> list[Text]:
    """The first readable texts of the first file, up to `wanted`.

    The second has another length than the first, which is shortened for that if need be.

    Raises:
        SourceError: the first rows hold no readable text.
    """
    source, found, reasons = sources[0], list[Text](), list[str]()
    searched = min(source.rows, ROWS_SEARCHED)
    for batch in read_texts(source, 0, searched, limits, 16):
        found += batch.texts
        reasons += [reason for reason in batch.unreadable if reason]
    if not found:
        raise SourceError(
            f"{source.file.name}: none of its first {searched} texts can be read; the first: {reasons[0]}"
        )
    first, *rest = found
    other = next((text for text in rest if len(text.ids) != len(first.ids)), None)
    return [first, other or _shortened(first), *(text for text in rest if text is not other)][:wanted]


def _shortened(text: Text) -> Text:
    """A text without its last or its first token, so that a batch of texts of one length has padding to be tested."""
    if len(text.ids) - text.completion_start > 1:
        return Text(text.ids[:-1], text.completion_start)
    return Text(text.ids[1:], text.completion_start - 1) if text.completion_start > 1 else text


def longest_text(sources: Sequence[Source], limits: TextLimits) -> int:
    """Tokens of the longest text in the files that the model takes; 1 where there is none."""
    longest = 1
    for source in sources:
        for batch in read_rows(source.file.url, 0, source.rows, [source.columns.input_ids], LENGTHS_AT_ONCE):
            tokens = token_lists(batch.column(source.columns.input_ids))
            lengths = pc.fill_null(pc.list_value_length(tokens), 0).to_numpy()
            fitting = lengths if limits.positions is None else lengths[lengths <= limits.positions]
            longest = max(longest, int(fitting.max(initial=1)))
    return longest
