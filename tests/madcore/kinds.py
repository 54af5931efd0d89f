"""Norms, embeddings and parameters as other libraries spell them."""

import torch
from torch import Tensor, nn


class HouseRMSNorm(nn.Module):
    """A custom RMSNorm, as Hugging Face's models have."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(size)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size), scaled to unit mean square."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class HouseLayerNorm(HouseRMSNorm):
    """The same under T5's name for it."""


class OnePlusRMSNorm(nn.Module):
    """RMSNorm whose weight is a difference from one."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size), scaled to unit mean square."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class CentredLayerNorm(nn.Module):
    """A custom LayerNorm."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size), centred and scaled to unit variance."""
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


class Looks(nn.Module):
    """Makes ids of numbers, and looks them up."""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, ..., d)."""
        return self.table((10 * x).long() % self.table.num_embeddings)


class ScaledEmbedding(nn.Embedding):
    """Multiplies its vectors, as Gemma's does."""

    embed_scale = 3.0

    def forward(self, ids: Tensor) -> Tensor:
        """(n, ...) to (n, ..., d)."""
        return super().forward(ids) * self.embed_scale


class SharedPositions(nn.Module):
    """Adds a learned vector per position, looked up once for all samples."""

    def __init__(self, positions: int, size: int):
        super().__init__()
        self.table = nn.Embedding(positions, size)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, d) to the same."""
        return x + self.table(torch.arange(x.shape[1]).unsqueeze(0))
