"""The texts that a language model or a text classifier takes, by what its folder says of itself."""

from typing import TYPE_CHECKING

from torch import nn

from pipeline.data.folders import FolderPlace
from pipeline.data.texts.rows import TextLimits
from pipeline.data.texts.tokenizers import FolderTokenizer, most_tokens, tokenizer_documents
from pipeline.models.huggingface.padding import padding_tokens
from pipeline.models.interface import SequenceFacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def limits_of(module: "PreTrainedModel", place: FolderPlace) -> TextLimits:
    """Its vocabulary, how many tokens it takes, those that may pad, and its folder's tokenizer."""
    folder, documents = place.find(), tokenizer_documents(place)
    text = module.config.get_text_config()
    vocabulary = int(text.vocab_size)
    padding = padding_tokens([module.config, text, getattr(module, "generation_config", None)], folder, vocabulary)
    tokenizer = FolderTokenizer(place, documents, None) if documents else None
    return TextLimits(vocabulary, getattr(text, "max_position_embeddings", None), padding, tokenizer)


def sequence_facts(module: "PreTrainedModel", place: FolderPlace) -> SequenceFacts:
    """What a text classifier takes: its vocabulary, the most tokens of its positions, and its tokenizer's cut.

    Raises:
        SourceError: the folder is not there any more.
        StorageError: it cannot be read.
    """
    text = module.config.get_text_config()
    positions = _positions(module, getattr(text, "max_position_embeddings", None))
    limits = TextLimits(int(text.vocab_size), positions)
    documents = tokenizer_documents(place)
    tokenizer = None
    if documents:
        said = [one for one in (most_tokens(place), positions) if one is not None]
        tokenizer = FolderTokenizer(place, documents, min(said, default=None))
    pad = getattr(text, "pad_token_id", None)
    return SequenceFacts(limits, pad if isinstance(pad, int) and 0 <= pad < limits.vocabulary else 0, tokenizer)


def _positions(module: nn.Module, said: int | None) -> int | None:
    """The most tokens: fewer than the table has where positions count from behind the padding's, as RoBERTa's do."""
    tables = [
        each
        for name, each in module.named_modules()
        if isinstance(each, nn.Embedding) and name.endswith("position_embeddings") and each.padding_idx is not None
    ]
    return min([each.num_embeddings - int(each.padding_idx or 0) - 1 for each in tables], default=said)
