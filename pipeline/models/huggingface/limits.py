"""The texts that a language model takes, by what its folder says of itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.texts.rows import TextLimits
from pipeline.models.huggingface.padding import padding_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def limits_of(module: "PreTrainedModel", folder: Path) -> TextLimits:
    """Its vocabulary, how many tokens it takes, and those that may pad."""
    text = module.config.get_text_config()
    vocabulary = int(text.vocab_size)
    padding = padding_tokens([module.config, text, getattr(module, "generation_config", None)], folder, vocabulary)
    return TextLimits(vocabulary, getattr(text, "max_position_embeddings", None), padding)
