"""Tiny random language models of Hugging Face's shapes, and texts for them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging

VOCABULARY, POSITIONS = 40, 32


def gpt2(seed: int = 0, vocabulary: int = VOCABULARY, embedding: int = 24, blocks: int = 2) -> PreTrainedModel:
    """Blocks of GPT-2, whose matrices are `Conv1D`s and whose head is tied to its embedding."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=POSITIONS,
        n_embd=embedding,
        n_layer=blocks,
        n_head=embedding // 8,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _randomised(GPT2LMHeadModel(config))


def llama(seed: int = 0, tied: bool = True) -> PreTrainedModel:
    """Two blocks of Llama: four query heads that share two key and value heads, rotary positions, RMSNorm."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=tied,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _randomised(LlamaForCausalLM(config))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": gpt2,
    "llama": llama,
    "llama, head of its own": lambda: llama(tied=False),
}


def _randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights than a fresh model's, so that attention and activations are far from linear."""
    model.config.use_cache = False
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def texts(lengths: Sequence[int], seed: int = 1) -> list[tuple[Tensor, int]]:
    """Random sequences of these lengths (at least 2), each with where its completion starts."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
    return [(one, int(torch.randint(1, len(one), (1,), generator=generator))) for one in ids]


def double_norms(model: nn.Module) -> nn.Module:
    """The model in float64, with norms that compute in it: Llama's own go through float32, whatever the model is in."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)
    return model.double().eval()


def table(rows: int, seed: int, prefix: str) -> pa.Table:
    """A table of random texts of 2 to POSITIONS tokens, such as an audit reads."""
    lengths = torch.randint(2, POSITIONS + 1, (rows,), generator=torch.Generator().manual_seed(seed)).tolist()
    made = texts(lengths, seed)
    ids = [f"{prefix}-{row:03d}" for row in range(rows)]
    columns = [
        pa.array(ids),
        pa.array([one.tolist() for one, _ in made], pa.list_(pa.int32())),
        pa.array([start for _, start in made], pa.int32()),
    ]
    return pa.table(columns, names=["id", "input_ids", "completion_start"])


def save(model: PreTrainedModel, folder: Path) -> None:
    """Writes a model's folder."""
    progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if progress:
        logging.enable_progress_bar()
