"""Whole small models: attention in every setting, transformers, checkpoints, and custom modules."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.madcore.models import LayerCase


class Attends(nn.Module):
    """Self-attention, whose output projection is used without calling its module."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.attention, self.outputs = (
            nn.Linear(6, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        x = self.inputs(x)
        return self.outputs(self.attention(x, x, x, need_weights=False)[0])


class Tied(nn.Module):
    """Two modules that share one weight, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.own = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 6)."""
        return self.second(torch.tanh(self.own(torch.tanh(self.first(x)))))


class LayerScale(nn.Module):
    """Multiplies channels by a learned vector, in place or not, as vision transformers do."""

    def __init__(self, size: int, inplace: bool = False):
        super().__init__()
        self.gamma, self.inplace = nn.Parameter(torch.ones(size)), inplace

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size) to the same."""
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class Block(nn.Module):
    """A transformer's block with layer scales."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.norm1, self.attention, self.scale1 = (
            nn.LayerNorm(size),
            nn.MultiheadAttention(size, heads, batch_first=True),
            LayerScale(size),
        )
        self.norm2, self.scale2 = nn.LayerNorm(size), LayerScale(size, inplace=True)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(inplace=True), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, size) to the same."""
        normed = self.norm1(x)
        x = x + self.scale1(self.attention(normed, normed, normed, need_weights=False)[0])
        return x + self.scale2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Patches of 2 x 2, a class token, position embeddings, two blocks, and the class token's features."""

    def __init__(self, repeats_token: bool = False):
        super().__init__()
        self.patches, self.repeats_token = nn.Conv2d(2, 6, 2, stride=2), repeats_token
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.zeros(1, 5, 6))
        self.blocks, self.norm = nn.Sequential(Block(6, 2), Block(6, 3)), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, 4, 4) to (n, 6)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.repeat(len(x), 1, 1) if self.repeats_token else self.token.expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([token, x], dim=1) + self.positions))[:, 0]


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self, use_reentrant: bool):
        super().__init__()
        self.first, self.use_reentrant = nn.Linear(6, 6), use_reentrant
        self.blocks = nn.ModuleList(
            [Block(6, 2), nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.LayerNorm(5))]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return x


class Mixture(nn.Module):
    """Experts whose weights are one parameter, and a gate that is another: a custom module."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.gate, self.temperature = (
            nn.Parameter(torch.zeros(3, 6, 5)),
            nn.Linear(6, 3),
            nn.Parameter(torch.ones(())),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        weights = torch.softmax(self.gate(x) * self.temperature, dim=-1)
        return torch.einsum("nse,nsd,edo->nso", weights, x, self.experts)


class ReturnsTwo(nn.Module):
    """Returns its results in a mapping, one of them twice used, from keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.shift = nn.Parameter(torch.zeros(6, 5)), nn.Parameter(torch.zeros(5))

    def forward(self, *, x: Tensor, twice: bool) -> dict[str, Tensor]:
        """(n, 6) to two of (n, 5)."""
        out = x @ self.table + self.shift
        return {"plain": out, "squared": out.square() if twice else out}


class AddsTwo(nn.Module):
    """Uses what another returns in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = ReturnsTwo(), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        both = self.inner(x=x, twice=True)
        return self.outer(both["plain"]) + both["squared"]


class ClassVector(nn.Module):
    """Appends a learned vector without axes for samples and positions, as CLIP does, and scales by a learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.scale, self.inner = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(())), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s + 1, 5)."""
        x = self.inner(x)
        return torch.tanh(torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)) * self.scale.exp()


class Encoder(nn.Module):
    """Self-attention, then attention to it: torch's own layers, with samples first or second."""

    def __init__(self, batch_first: bool):
        super().__init__()
        self.batch_first = batch_first
        settings = {"dim_feedforward": 5, "dropout": 0.0, "batch_first": batch_first}
        self.encoder, self.decoder = (
            nn.TransformerEncoderLayer(6, 2, **settings),
            nn.TransformerDecoderLayer(6, 3, **settings),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s - 1, 6)."""
        x = x if self.batch_first else x.transpose(0, 1)
        memory = self.encoder(x)
        out = self.decoder(x[:, 1:] if self.batch_first else x[1:], memory)
        return out if self.batch_first else out.transpose(0, 1)


@dataclass(frozen=True)
class Attention:
    """Settings of `nn.MultiheadAttention`, and of its call."""

    batch_first: bool = True
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    cross: bool = False
    need_weights: bool = False
    average: bool = True
    mask: str = "none"
    padding: str = "none"


class Attentive(nn.Module):
    """Attention of 3 positions to themselves, or to 4 others, in any setting; its weights are part of the output."""

    def __init__(self, settings: Attention):
        super().__init__()
        self.settings, s = settings, settings
        self.queries = nn.Linear(6, 6)
        self.keys = nn.Linear(6, s.kdim or 6) if s.cross or s.kdim else None
        self.attention = nn.MultiheadAttention(
            6,
            2,
            bias=s.bias,
            add_bias_kv=s.add_bias_kv,
            add_zero_attn=s.add_zero_attn,
            kdim=s.kdim,
            vdim=s.kdim,
            batch_first=s.batch_first,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, 7, 6) to (n, 3, ...)."""
        s = self.settings
        query = self.queries(x[:, :3])
        key = query if self.keys is None else torch.tanh(self.keys(x[:, 3:]))
        mask, padding = self._mask(query, key), self._padding(key)
        if not s.batch_first:
            query, key = (
                (query.transpose(0, 1), key.transpose(0, 1)) if key is not query else [query.transpose(0, 1)] * 2
            )
        out, weights = self.attention(
            query,
            key,
            key,
            key_padding_mask=padding,
            attn_mask=mask,
            need_weights=s.need_weights,
            average_attn_weights=s.average,
        )
        out = out if s.batch_first else out.transpose(0, 1)
        return torch.tanh(out) if weights is None else torch.cat([out.flatten(1), weights.flatten(1)], dim=1)

    def _mask(self, query: Tensor, key: Tensor) -> Tensor | None:
        causal = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1)
        if self.settings.mask == "per head":
            return causal.expand(2 * len(query), -1, -1)
        return {"none": None, "bool": causal, "float": 0.5 * causal.to(query.dtype)}[self.settings.mask]

    def _padding(self, key: Tensor) -> Tensor | None:
        last = torch.zeros(key.shape[:2], dtype=torch.bool)
        last[:, -1] = True
        return {"none": None, "bool": last, "float": -0.5 * last.to(key.dtype)}[self.settings.padding]


ATTENTIONS = {
    "itself": Attention(),
    "itself, samples second": Attention(batch_first=False),
    "itself, with weights": Attention(need_weights=True),
    "itself, with each head's weights": Attention(need_weights=True, average=False),
    "without biases": Attention(bias=False),
    "another": Attention(cross=True),
    "another, samples second, with weights": Attention(cross=True, batch_first=False, need_weights=True),
    "keys of another size": Attention(kdim=4),
    "keys of another size, samples second": Attention(kdim=4, batch_first=False, bias=False),
    "learned keys and a zero": Attention(add_bias_kv=True, add_zero_attn=True, padding="bool", mask="bool"),
    "learned keys, with weights": Attention(cross=True, add_bias_kv=True, need_weights=True),
    "masked": Attention(mask="bool"),
    "masked by numbers": Attention(mask="float", padding="float", need_weights=True),
    "masked per head": Attention(mask="per head", padding="bool"),
}


def zoo_of_attention() -> dict[str, LayerCase]:
    """One body per setting."""
    return {
        f"attention: {name}": LayerCase(lambda settings=settings: Attentive(settings), (7, 6))
        for name, settings in ATTENTIONS.items()
    }


class Routed(nn.Module):
    """Two of four experts for each position, chosen by its numbers; positions of all samples lie on one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4, bias=False)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6)) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to the same."""
        flat = x.flatten(0, 1)
        weights, chosen = torch.softmax(9 * self.router(torch.sin(9 * flat)), dim=1).topk(2, dim=1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            position, place = torch.where(chosen == number)
            if len(position):
                out = out.index_add(0, position, expert(flat[position]) * weights[position, place].unsqueeze(1))
        return out.unflatten(0, x.shape[:2])


class Experts(nn.Module):
    """A residual block around routed experts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.routed = nn.Linear(6, 6), Routed()

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to the same."""
        x = torch.tanh(self.inner(x))
        return x + self.routed(x)


class Recurrent(nn.Module):
    """A recurrent layer's outputs and its last states, in which the samples are second."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]):
        super().__init__()
        self.cells = kind(6, 4, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s + 2, 8)."""
        outputs, states = self.cells(x)
        last = (states if isinstance(states, Tensor) else states[0]).transpose(0, 1).reshape(len(x), 2, 8)
        return torch.cat([outputs, last], dim=1)


class LearnedPositions(nn.Module):
    """Adds a learned vector per position, looked up by ids without an axis for samples."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(9, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        return torch.tanh(self.inner(x + self.table(torch.arange(x.shape[1]))))


class Bag(nn.Module):
    """A mean of vectors looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s) to (n, 5)."""
        return torch.tanh(self.table((10 * x).long() % 7))


def decoder() -> nn.Module:
    """From a vector to an image, by transposed convolutions."""
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Unflatten(1, (4, 2, 1)),
        nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        nn.GroupNorm(3, 3),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(3, 2, 2, groups=1, bias=False),
        nn.BatchNorm2d(2),
        nn.Tanh(),
    )


ZOO = {
    "vision transformer": LayerCase(VisionTransformer, (2, 4, 4)),
    "decoder": LayerCase(decoder, (6,)),
    "checkpointed": LayerCase(lambda: Checkpointed(use_reentrant=False), (3, 6)),
    "checkpointed, reentrant": LayerCase(lambda: Checkpointed(use_reentrant=True), (3, 6)),
    "tied": LayerCase(Tied, (6,)),
    "attention and linear maps": LayerCase(Attends, (4, 6)),
    "torch's transformer": LayerCase(lambda: Encoder(batch_first=True), (4, 6)),
    "torch's transformer, samples second": LayerCase(lambda: Encoder(batch_first=False), (4, 6)),
    "class vector": LayerCase(ClassVector, (4, 6)),
    "positions without samples": LayerCase(LearnedPositions, (4, 6)),
    **zoo_of_attention(),
}


def recurrent(*parts: str) -> tuple[str, ...]:
    """Parameters of both layers and directions."""
    return tuple(f"0.cells.{part}_l{layer}{end}" for layer in range(2) for end in ("", "_reverse") for part in parts)


BY_FALLBACK = {
    "mixture": (LayerCase(Mixture, (4, 6)), ("0.experts",)),
    "a repeated token": (LayerCase(lambda: VisionTransformer(repeats_token=True), (2, 4, 4)), ("0.token",)),
    "a slope": (LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.PReLU()), (6,)), ("0.1.weight",)),
    "outputs in a mapping": (LayerCase(AddsTwo, (6,)), ("0.inner.table",)),
    "routed experts": (
        LayerCase(Experts, (30, 6)),
        tuple(f"0.routed.experts.{n}.{part}.{own}" for n in range(4) for part in (0, 2) for own in ("weight", "bias")),
    ),
    "a bag of vectors": (LayerCase(Bag, (9,)), ("0.table.weight",)),
    "an LSTM": (LayerCase(lambda: Recurrent(nn.LSTM), (4, 6)), recurrent("weight_ih", "weight_hh")),
    "a GRU": (LayerCase(lambda: Recurrent(nn.GRU), (4, 6)), recurrent("weight_ih", "weight_hh")),
}
