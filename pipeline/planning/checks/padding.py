"""Files of texts that look padded and have no mask: scored as they are, their padding would count as text."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from infra.errors import StorageError
from pipeline.data.sources import Source
from pipeline.data.texts.reading import read_texts
from pipeline.data.texts.rows import PADDING_REMEDY, PADDING_RUN, TextLimits, runs_at_ends
from pipeline.data.texts.tokens import TokenIds
from pipeline.errors import SourceError

ROWS_LOOKED_AT = 64  # of each file; enough to see padding, few enough for thousands of files


SHARE, LEAST = 20, 2  # of known padding tokens: one text in so many, and at least so many


LENGTHS = 3  # of unknown ones: so many different lengths, which no fixed beginning or end of texts has


def refuse_padded(sources: Sequence[Source], limits: TextLimits) -> dict[str, str]:
    """The files whose first texts begin or end with padding that no mask hides, and the sentence about each.

    A single padding token at an end may be one of the text's own; two or more, in several texts, are not. Where the
    model's folder does not say which token pads, padding is what half of the texts begin, or end, with: the same token
    PADDING_RUN times or more, and in runs of LENGTHS different lengths or more.
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
    if not source.may_be_padded:
        return ""
    rows, whole = min(source.rows, ROWS_LOOKED_AT), replace(limits, padding=())
    try:
        texts = [text.ids for batch in read_texts(source, 0, rows, whole, rows) for text in batch.texts]
    except StorageError:
        return ""  # damage costs the tasks that meet it, not the plan
    token, padded = _known(texts, limits.padding) or _unknown(texts) or (0, 0)
    if not padded:
        return ""
    return (
        f"{source.file.name}: looks padded: {padded:,} of the first {len(texts):,} texts begin or end with the token "
        f"{token} repeated; {PADDING_REMEDY}"
    )


def _known(texts: Sequence[TokenIds], padding: Sequence[int]) -> tuple[int, int] | None:
    """The padding token that most texts have at an end more than once, and how many texts have such a one."""
    found = [{token for token, times in runs_at_ends(ids) if token in padding and times > 1} for ids in texts]
    padded = sum(bool(tokens) for tokens in found)
    if padded < max(LEAST, len(texts) / SHARE):
        return None
    return Counter(token for tokens in found for token in tokens).most_common(1)[0][0], padded


def _unknown(texts: Sequence[TokenIds]) -> tuple[int, int] | None:
    """Like `_known`, for a token of which nothing is known."""
    runs = defaultdict[tuple[int, int], list[int]](list)
    for ids in texts:
        for end, (token, times) in enumerate(runs_at_ends(ids)):
            if PADDING_RUN <= times < len(ids):
                runs[end, token].append(times)
    for (_, token), lengths in runs.items():
        if len(lengths) >= max(LEAST, len(texts) / 2) and len(set(lengths)) >= LENGTHS:
            return token, len(lengths)
    return None
