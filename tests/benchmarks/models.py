"""The models of the benchmarks, with random weights; for each one inputs, a training loss, and a measurement."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from madcore import Coverage, Measured, Projection, TokenBatch, check_layers, margin, select_layers, token_margin
from madcore.measurements import logits_of, run
from tests.benchmarks.network import CLASSES, SIDE, network

LENGTH = 128


class EncoderBlock(nn.Module):
    """A pre-norm transformer block with one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.wide, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens_nsd: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens_nsd)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens_nsd = tokens_nsd + self.proj(attended)
        return tokens_nsd + self.narrow(F.gelu(self.wide(self.norm2(tokens_nsd))))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4 pixels, a class token, position embeddings, blocks, a linear head (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (SIDE // 4) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        patches_nsd = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens_nsd = torch.cat([self.token.expand(len(inputs), -1, -1), patches_nsd], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens_nsd))[:, 0])


def gpt2(width: int, depth: int, vocabulary: int) -> nn.Module:
    """GPT-2's shape, its head tied to its embedding, without dropout."""
    logging.set_verbosity_error()
    shape = {"vocab_size": vocabulary, "n_positions": LENGTH, "n_embd": width, "n_layer": depth, "n_head": width // 64}
    config = GPT2Config(
        **shape,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return GPT2LMHeadModel(config).eval()


@dataclass(frozen=True)
class Case:
    """A model and its data: n inputs, the loss of logits on inputs, and what rows measure on inputs."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    measured: Callable[[Tensor], Measured]

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The training loss of inputs."""
        return self.loss(logits_of(run(model, self.measured(inputs).inputs)), inputs)

    def covered(self, model: nn.Module, parameters: str) -> Coverage:
        """The layers that a plan would cover: selected, then checked against autograd on three samples."""
        chosen = select_layers(model, parameters="all" if parameters == "all" else "matrices")
        samples = self.inputs(3).to(next(model.parameters()).device).split(1)
        return check_layers(model, chosen, samples, lambda some: self.measured(torch.cat(list(some))), Projection())


def images(model: Callable[[], nn.Module]) -> Case:
    """A classifier of 3 x 32 x 32 images."""
    return Case(
        build=model,
        inputs=lambda n: torch.randn(n, 3, SIDE, SIDE),
        loss=lambda logits, inputs: F.cross_entropy(logits, torch.arange(len(inputs), device=inputs.device) % CLASSES),
        measured=lambda inputs: Measured(inputs, margin),
    )


def texts(model: Callable[[], nn.Module], vocabulary: int) -> Case:
    """A language model on texts of 128 tokens, of which all but the first are predicted."""

    def measured(ids_ns: Tensor) -> Measured:
        completions_ns = (torch.arange(ids_ns.shape[1]) > 0).expand(ids_ns.shape)
        tokens = TokenBatch(ids_ns, torch.full((len(ids_ns),), ids_ns.shape[1]), completions_ns)
        return Measured({"input_ids": ids_ns}, token_margin(tokens))

    return Case(
        build=model,
        inputs=lambda n: torch.randint(vocabulary, (n, LENGTH)),
        loss=lambda logits, ids_ns: F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_ns[:, 1:].flatten()),
        measured=measured,
    )


CASES: dict[str, Case] = {
    "zoo-resnet": images(network),
    "gpt2-1m": texts(lambda: gpt2(192, 2, 256), 256),
    "gpt2-25m": texts(lambda: gpt2(512, 6, 8192), 8192),
    "vit-5m": images(lambda: VisionTransformer(256, 6, 4).eval()),
}
