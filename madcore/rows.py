"""The layout of a row, and its stored form.

A row is the concatenation over layers of `vec(P_0 dW P_1^T)`, in the order of the layout. At rest its numbers are
float16 times a float32 scale per row and layer. Scales are powers of two: scaling is then exact, and a last-bit
difference in one number cannot change how all others are rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from madcore.projections import Projection

LARGEST_EXPONENT = 15


Way = Literal[
    "formula",
    "formula, samples second",
    "formula, samples merged",
    "formula, no samples",
    "copies for the first axis",
    "copies",
    "copies before one axis",
    "copies before two axes",
    "fallback",
    "fallback, one by one",
]


@dataclass(frozen=True)
class Layer:
    """One covered parameter: its module's name, its name in it, the sides of its gradient, and the way to its rows.

    `levels`, for a fallback: how many levels above the layer's own module is the one that runs again.
    """

    module: str
    parameter: str
    shape: tuple[int, int]
    way: Way = "formula"
    levels: int = 0

    @property
    def name(self) -> str:
        """The parameter's full name, `blocks.0.conv1.weight`."""
        return f"{self.module}.{self.parameter}" if self.module else self.parameter

    @property
    def rerun(self) -> str:
        """The module that a fallback runs again."""
        return self.module.rsplit(".", self.levels)[0] if self.levels else self.module


@dataclass(frozen=True)
class RowLayout:
    """The names of the layers (parameters) of a row, and how many numbers each has."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def k(self) -> int:
        """The number of numbers per row."""
        return sum(self.sizes)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The place of each layer's numbers in a row."""
        stops = accumulate(self.sizes)
        return tuple(slice(stop - size, stop) for stop, size in zip(stops, self.sizes, strict=True))

    def blocks(self, rows_nk: Tensor) -> Sequence[Tensor]:
        """Return views (n, k_l) of rows (n, k), one per layer."""
        blocks: Sequence[Tensor] = rows_nk.split(self.sizes, dim=1)
        return blocks

    def layer_norms(self, rows_nk: Tensor) -> Tensor:
        """Return L2 norms per layer, (n, k) -> (n, layers); float64, so that squares of small numbers do not vanish."""
        norms = [torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in self.blocks(rows_nk)]
        return torch.stack(norms, dim=1)

    def spread(self, per_layer_nl: Tensor) -> Tensor:
        """Repeat a number per layer over that layer's numbers: (n, layers) -> (n, k)."""
        sizes = torch.tensor(self.sizes, device=per_layer_nl.device)
        return per_layer_nl.repeat_interleave(sizes, dim=1, output_size=self.k)


def row_layout(layers: Sequence[Layer], projection: Projection) -> RowLayout:
    """Return the layout of rows of these layers under this projection."""
    kept = [projection.numbers(layer.shape) for layer in layers]
    return RowLayout(tuple(layer.name for layer in layers), tuple(kept))


def to_half(rows_nk: Tensor, layout: RowLayout) -> tuple[Tensor, Tensor]:
    """Convert finite rows to float16 (n, k) and float32 scales (n, layers), `rows = half * scale`.

    The largest number of a layer lands in [2^14, 2^15), so that small ones keep float16's full precision over 29
    octaves below it.
    """
    half_nk, scales = torch.empty_like(rows_nk, dtype=torch.float16), []
    for block, half in zip(layout.blocks(rows_nk.float()), layout.blocks(half_nk), strict=True):
        smallest, largest = torch.aminmax(block, dim=1)
        peaks = torch.maximum(largest, -smallest)
        exponents = torch.frexp(peaks).exponent - LARGEST_EXPONENT
        exponents = torch.where(peaks > 0, exponents, torch.zeros_like(exponents)).clamp(min=-126)
        scales.append(torch.ldexp(torch.ones_like(peaks), exponents))
        half.copy_(block / scales[-1].unsqueeze(1))
    return half_nk, torch.stack(scales, dim=1)


def from_half(half_nk: Tensor, scales_nl: Tensor, layout: RowLayout) -> Tensor:
    """Return the float32 rows (n, k) of what `to_half` returned."""
    rows_nk = half_nk.to(torch.float32, copy=True)
    for block, scales_n in zip(layout.blocks(rows_nk), scales_nl.unbind(1), strict=True):
        block.mul_(scales_n.unsqueeze(1))
    return rows_nk
