"""Files of texts that look padded and have no mask: scored as they are, their padding would count as text."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.data.sources import Source
from pipeline.data.text_rows import PADDING_REMEDY, TextLimits, padding_of
from pipeline.data.texts import ROWS_SEARCHED, read_texts
from pipeline.errors import SourceError

SHARE, LEAST = 20, 2  # one text in so many, and at least so many


def refuse_padded(sources: Sequence[Source], limits: TextLimits) -> dict[str, str]:
    """The files whose first texts begin or end with padding that no mask hides, and the sentence about each.

    A single padding token at an end may be one of the text's own; two or more, in several texts, are not.
    """
    return {source.file.name: reason for source in sources if (reason := _complaint(source, limits))}


def check_padding(sources: Sequence[Source], limits: TextLimits) -> None:
    """Refuse files that all have to be used.

    Raises:
        SourceError: one looks padded.
    """
    refused = refuse_padded(sources, limits)
    if refused:
        raise SourceError("; ".join(refused.values()))


def _complaint(source: Source, limits: TextLimits) -> str:
    if not limits.padding or not source.may_be_padded:
        return ""
    texts, padded, token = 0, 0, 0
    whole = replace(limits, padding=())
    for batch in read_texts(source, 0, min(source.rows, ROWS_SEARCHED), whole, ROWS_SEARCHED):
        for text in batch.texts:
            found, times = padding_of(text.ids, limits)
            texts += 1
            padded, token = (padded + 1, found) if times > 1 else (padded, token)
    if padded < max(LEAST, texts / SHARE):
        return ""
    return (
        f"{source.file.name}: looks padded: {padded:,} of the first {texts:,} texts begin or end with a padding token "
        f"of the model ({token}), more than once; {PADDING_REMEDY}"
    )
