"""Texts: token sequences and their completions, read and checked one by one, so that a bad text costs one row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError
from numpy.typing import NDArray

from pipeline.data.columns import integers, token_lists
from pipeline.data.ids import ids_of
from pipeline.data.input_columns import MADE_TEXTS
from pipeline.data.sources import Source
from pipeline.data.texts.rows import Text, TextLimits, TextRow, UnreadableText, parse_text, text_of
from pipeline.data.texts.tokenizers import FolderTokenizer
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
    if set(MADE_TEXTS) & set(source.inputs):
        yield from _read_made(source, start, stop, limits, batch_rows)
        return
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


def _read_made(source: Source, start: int, stop: int, limits: TextLimits, batch_rows: int) -> Iterator[TextBatch]:
    """Rows of texts of which the model's tokenizer makes tokens.

    Raises:
        SourceError: it has none.
    """
    tokenizer = limits.tokenizer
    if tokenizer is None:
        raise SourceError(
            f"{source.file.name}: data.columns names {source.inputs[0]}, and the model's folder has no tokenizer.json, "
            "which makes tokens of texts; save it there with tokenizer.save_pretrained(folder), or name input_ids"
        )
    columns = [str(getattr(source.columns, role)) for role in source.inputs]
    for batch in source.read(start, stop, [source.columns.id, *columns], batch_rows):
        ids, reasons, texts = ids_of(batch.column(source.columns.id)), list[str](), list[Text]()
        for name, row in zip(ids, zip(*(batch.column(one).to_pylist() for one in columns), strict=True), strict=True):
            try:
                if name is None:
                    raise UnreadableText("the id is null")
                texts.append(_made(row, tokenizer, limits))
                reasons.append("")
            except UnreadableText as error:
                reasons.append(str(error))
        yield TextBatch(tuple(name or "" for name in ids), tuple(reasons), tuple(texts))


def _made(row: tuple[object, ...], tokenizer: FolderTokenizer, limits: TextLimits) -> Text:
    """The text of a conversation, or of a prompt with its completion; raises UnreadableText."""
    if any(one is None for one in row):
        raise UnreadableText("the text is null")
    try:
        ids, start = tokenizer.chat(*row) if len(row) == 1 else tokenizer.continuation(str(row[0]), str(row[1]))
    except (ValueError, TypeError, TemplateError) as error:
        raise UnreadableText(f"the tokenizer does not take it ({' '.join(str(error).split())[:200]})") from error
    return text_of(ids, start, limits)


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
    """Tokens of the longest text in the files that the model takes, padding aside; 1 where there is none.

    Of texts that are to be made tokens of, the first rows of each file are looked at.
    """
    longest = 1
    for source in sources:
        if set(MADE_TEXTS) & set(source.inputs):
            looked_at = read_texts(source, 0, min(source.rows, ROWS_SEARCHED), limits, LENGTHS_AT_ONCE)
            longest = max([longest, *(len(text.ids) for batch in looked_at for text in batch.texts)])
            continue
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
