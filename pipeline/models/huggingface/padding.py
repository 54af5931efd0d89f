"""The tokens that texts of a language model may be padded with, by what its folder says of itself."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.folders import TOKENIZER
from pipeline.models.weights.reading import LARGEST_HEADER


def padding_tokens(configs: Sequence[object], folder: Path, vocabulary: int) -> tuple[int, ...]:
    """Ids of the padding token and of the end of a text, which pads where a tokenizer has no padding token.

    They come from transformers' configs of the model and of its generation, and from the tokenizer's where the folder
    has one.
    """
    found = list[object](_of_tokenizer(folder))
    for config in configs:
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            found += value if isinstance(value, list) else [value]
    return tuple(sorted({one for one in found if isinstance(one, int) and 0 <= one < vocabulary}))


def _of_tokenizer(folder: Path) -> Iterator[int]:
    """Only a hint, so a file that is not as expected has none."""
    path = folder / TOKENIZER
    try:
        described = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_HEADER else {}
        names = [described.get("pad_token"), described.get("eos_token")]
        wanted = {one["content"] if isinstance(one, dict) else one for one in names if one is not None}
        yield from [int(key) for key, one in described["added_tokens_decoder"].items() if one["content"] in wanted]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
