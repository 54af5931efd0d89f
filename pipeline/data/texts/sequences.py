"""Sequences of tokens to classify: as columns hold them, or as a tokenizer makes them of texts, one by one checked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.data.columns import plain, token_lists
from pipeline.data.ids import ids_of
from pipeline.data.input_columns import TYPE_IDS
from pipeline.data.sources import Source
from pipeline.data.texts.rows import TextLimits, UnreadableText, check_vocabulary, unpadded
from pipeline.data.texts.tokens import Tokens
from pipeline.errors import SourceError

ROWS_SEARCHED = 256


Tokenize = Callable[[Sequence[str]], Sequence[Tokens]]


@dataclass(frozen=True)
class TokensBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and the sequences of those that are not.

    A null id is "", and so is the reason of a readable row.
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    sequences: tuple[Tokens, ...]


def read_sequences(  # noqa: PLR0913, PLR0917 - a range of rows, and how to read them
    source: Source, start: int, stop: int, limits: TextLimits, batch_rows: int, tokenize: Tokenize | None
) -> Iterator[TokensBatch]:
    """Rows [start, stop) in batches; a row that cannot be read is in its batch with the reason."""
    columns = source.columns
    names = [columns.id, *(str(getattr(columns, role)) for role in source.inputs)]
    for batch in source.read(start, stop, names, batch_rows):
        ids = ids_of(batch.column(columns.id))
        rows = _of_texts(batch, source, tokenize) if tokenize is not None else _of_lists(batch, source)
        reasons, sequences = list[str](), list[Tokens]()
        for name, row in zip(ids, rows, strict=True):
            try:
                if name is None:
                    raise UnreadableText("the id is null")
                sequences.append(_checked(row, limits))
                reasons.append("")
            except UnreadableText as error:
                reasons.append(str(error))
        yield TokensBatch(tuple(name or "" for name in ids), tuple(reasons), tuple(sequences))


def first_sequences(
    sources: Sequence[Source], wanted: int, limits: TextLimits, tokenize: Tokenize | None
) -> tuple[list[Tokens], list[Tokens]]:
    """The first readable sequences of the first file, up to `wanted`, and all that were looked at.

    The second has another length than the first, which is shortened for that if need be.

    Raises:
        SourceError: the first rows hold none.
    """
    source, found, reasons = sources[0], list[Tokens](), list[str]()
    searched = min(source.rows, ROWS_SEARCHED)
    for batch in read_sequences(source, 0, searched, limits, 16, tokenize):
        found += batch.sequences
        reasons += [reason for reason in batch.unreadable if reason]
    if not found:
        raise SourceError(
            f"{source.file.name}: none of its first {searched} texts can be read; the first: {reasons[0]}"
        )
    first, *rest = found
    other = next((one for one in rest if len(one.ids) != len(first.ids)), None)
    return [first, other or _shortened(first), *(one for one in rest if one is not other)][:wanted], found


def _shortened(sequence: Tokens) -> Tokens:
    """A sequence without its last token, if it has several."""
    kept = max(1, len(sequence.ids) - 1)
    return Tokens(sequence.ids[:kept], None if sequence.types is None else sequence.types[:kept])


def _of_texts(batch: pa.RecordBatch, source: Source, tokenize: Tokenize) -> Iterator[Tokens | str]:
    """Sequences of a batch's texts, or why there is none."""
    texts = plain(batch.column(str(source.columns.text))).to_pylist()
    made = iter(tokenize([text for text in texts if text is not None]))
    yield from ("the text is null" if text is None else next(made) for text in texts)


def _of_lists(batch: pa.RecordBatch, source: Source) -> Iterator[Tokens | str]:
    """Sequences of a batch's lists, padding aside, or why there is none."""
    columns = {role: token_lists(batch.column(str(getattr(source.columns, role)))) for role in source.inputs}
    for row in range(batch.num_rows):
        found = {role: column[row] for role, column in columns.items()}
        empty = next((role for role, value in found.items() if not value.is_valid), None)
        try:
            yield f"{empty} is null" if empty is not None else _unpadded(found)
        except UnreadableText as error:
            yield str(error)


def _unpadded(found: dict[str, pa.ListScalar]) -> Tokens:
    lists = {role: value.values for role, value in found.items()}
    ids, types = lists["input_ids"], lists.get(TYPE_IDS)
    if types is not None and len(types) != len(ids):
        raise UnreadableText(f"{TYPE_IDS} has {len(types):,} entries for {len(ids):,} tokens of input_ids")
    if not len(ids):
        raise UnreadableText("input_ids is empty")
    begin, end = unpadded(lists.get("attention_mask"), len(ids))
    kept = [one if one is None else one.slice(begin, end - begin) for one in (ids, types)]
    if any(one is not None and one.null_count for one in kept):
        raise UnreadableText(f"input_ids or {TYPE_IDS} holds a null")
    whole = [None if one is None else one.to_numpy(zero_copy_only=False).astype(np.int64) for one in kept]
    assert whole[0] is not None
    return Tokens(whole[0], whole[1])


def _checked(row: Tokens | str, limits: TextLimits) -> Tokens:
    """A sequence that the model takes.

    Raises:
        UnreadableText: there is none, or the model does not take it.
    """
    if isinstance(row, str):
        raise UnreadableText(row)
    if not len(row.ids):
        raise UnreadableText("the text has no tokens")
    if limits.positions is not None and len(row.ids) > limits.positions:
        raise UnreadableText(f"it has {len(row.ids):,} tokens, the model takes at most {limits.positions:,}")
    check_vocabulary(row.ids, 0, limits)
    return row
