"""Token types of zeros, which tokenizers add to texts of one part: whether they mean anything to a model.

Most causal models take none, and those of BERT's family take zeros where none are given. GPT-2 and its like look token
types up among the embeddings of their words, so that zeros add the embedding of word 0 to each token.
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infra.formats.data.formats import schema_of
from madcore import TokenBatch
from madcore.measurements import logits_of, run
from pipeline.data.input_columns import TYPE_IDS, described_unread
from pipeline.data.sources import Source
from pipeline.errors import SourceError


def zeros_change_logits(module: nn.Module, ids_s: Tensor) -> bool:
    """Whether a model takes token types, and its logits of a text (s,) are others with zeros than without any."""
    if TYPE_IDS not in inspect.signature(module.forward).parameters:
        return False
    inputs = TokenBatch.of([ids_s], [1]).inputs
    zeros = {**inputs, TYPE_IDS: torch.zeros_like(inputs["input_ids"])}
    with torch.no_grad():
        return not torch.equal(logits_of(run(module, inputs)), logits_of(run(module, zeros)))


def refuse_token_types(sources: Sequence[Source]) -> dict[str, str]:
    """The files that have a column of token types, and the sentence about each."""
    return {
        source.file.name: f"{source.file.name}: {described_unread(TYPE_IDS)}; this model adds an embedding for zeros"
        for source in sources
        if TYPE_IDS not in source.columns.ignored and _has_token_types(source)
    }


def check_token_types(sources: Sequence[Source]) -> None:
    """Refuse files that all have to be used.

    Raises:
        SourceError: one has a column of token types.
    """
    refused = refuse_token_types(sources)
    if refused:
        raise SourceError("; ".join(refused.values()))


def _has_token_types(source: Source) -> bool:
    return TYPE_IDS in schema_of(source.file, source.layout).names
