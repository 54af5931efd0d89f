"""Texts: token sequences and their completions, read and checked one by one, so that a bad text costs one row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.columns import integers, token_lists
from pipeline.data.ids import ids_of
from pipeline.data.sources import Source
from pipeline.data.texts.rows import Text, TextLimits, TextRow, UnreadableText, parse_text
from pipeline.errors import SourceError

LISTS, INDICES = ("input_ids", "attention_mask", "labels"), ("completion_start", "completion_end")


LENGTHS_AT_ONCE = 1024


ROWS_SEARCHED = 256


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
    columns, limits = source.columns, limits if source.may_be_padded else replace(limits, padding=())
    names = [columns.id, *(str(getattr(columns, role)) for role in source.inputs)]
    for batch in source.read(start, stop, names, batch_rows):
        ids, texts, reasons = ids_of(batch.column(columns.id)), [], []
        found = {
            role: (token_lists if role in LISTS else integers)(batch.column(getattr(columns, role)))
            for role in source.inputs
        }
        for row, name in enumerate(ids):
            try:
                if name is None:
                    raise UnreadableText("the id is null")
                texts.append(parse_text(_text_row(found, row), limits))
                reasons.append("")
            except UnreadableText as error:
                reasons.append(str(error))
        yield TextBatch(tuple(name or "" for name in ids), tuple(reasons), tuple(texts))


def _text_row(columns: Mapping[str, pa.Array], row: int) -> TextRow:
    """A row of the columns, by their roles.

    Raises:
        UnreadableText: the file has masks, and this row has none.
    """
    found = {role: column[row] for role, column in columns.items()}
    if "attention_mask" in found and not found["attention_mask"].is_valid:
        raise UnreadableText("attention_mask is null")
    lists = {role: found[role].values for role in LISTS if role in found and found[role].is_valid}
    indices = {role: found[role].as_py() for role in INDICES if role in found}
    return TextRow(
        lists.get("input_ids"),
        indices.get("completion_start"),
        indices.get("completion_end"),
        lists.get("attention_mask"),
        lists.get("labels"),
    )


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
    if text.measured[:-1].any():
        return Text(text.ids[:-1], text.measured[:-1])
    return text if text.measured[1] else Text(text.ids[1:], text.measured[1:])


def longest_text(sources: Sequence[Source], limits: TextLimits) -> int:
    """Tokens of the longest text in the files that the model takes, padding aside; 1 where there is none."""
    longest = 1
    for source in sources:
        names = [
            str(getattr(source.columns, role)) for role in ("input_ids", "attention_mask") if role in source.inputs
        ]
        for batch in source.read(0, source.rows, names, LENGTHS_AT_ONCE):
            lengths = _tokens(*(token_lists(batch.column(name)) for name in names))
            fitting = lengths if limits.positions is None else lengths[lengths <= limits.positions]
            longest = max(longest, int(fitting.max(initial=1)))
    return longest


def _tokens(lists: pa.Array, masks: pa.Array | None = None) -> NDArray[np.int64]:
    """How many tokens each row has, padding aside, (n,); 0 where it is null."""
    lengths: NDArray[np.int64] = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    if masks is None:
        return lengths
    left = pc.fill_null(pc.cast(pc.list_flatten(masks), pa.int64()), 0).to_numpy() != 0
    rows = pc.list_parent_indices(masks).to_numpy()[left]
    return np.minimum(lengths, np.bincount(rows, minlength=len(masks)))
