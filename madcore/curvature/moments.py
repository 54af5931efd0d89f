"""Curvature in the space of the rows, as sums over reference samples.

The sums are monoids (zero, update, merge, finalize), accumulated in float64. `block_moment`: per layer, the uncentred
second moment `H_l = (1/m) sum_j g_j g_j^T` of the reference part's rows; layers are independent blocks. Its damped
inverse is in `madcore.curvature.whitening`; Kronecker factors are in `madcore.curvature.kronecker`.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from madcore.curvature.whitening import Spectrum
from madcore.rows import RowLayout


class Moment(Protocol):
    """The sums over rows that a curvature is computed from, a monoid."""

    @property
    def count(self) -> int:
        """The number of rows."""

    @property
    def accepts(self) -> RowLayout:
        """The layout of the rows that `update` takes."""

    @property
    def flat(self) -> Tensor:
        """All numbers of the moment, float64 (numbers,)."""

    def restored(self, flat: Tensor, count: int) -> Self:
        """Return the moment of the same layout with this `flat` and `count`."""

    def update(self, rows_nk: Tensor) -> Self:
        """Return the moment with rows (n, k) added."""

    def merge(self, other: Self) -> Self:
        """Return the moment of both parts together."""

    def finalize(self) -> tuple[Spectrum, ...]:
        """Return the curvature of each layer."""


@dataclass(frozen=True)
class BlockMoment:
    """Sums of g g^T per layer over `count` rows, float64.

    `parts`: for a layer with k_l numbers, the sum (k_l, k_l); or, while there are fewer than k_l rows, the rows
    themselves (count, k_l), which are smaller, and whose curvature is applied by the Woodbury identity.
    """

    layout: RowLayout
    parts: tuple[Tensor, ...]
    count: int

    @classmethod
    def zero(cls, layout: RowLayout) -> "BlockMoment":
        """Return the moment of no rows; it takes the device of the first rows added."""
        return cls(layout, tuple(torch.zeros(0, size, dtype=torch.float64) for size in layout.sizes), 0)

    def update(self, rows_nk: Tensor) -> "BlockMoment":
        """Return the moment with rows (n, k) added; n may be 0."""
        parts = tuple(_part_of(block.double(), len(rows_nk)) for block in self.layout.blocks(rows_nk))
        return self.merge(BlockMoment(self.layout, parts, len(rows_nk)))

    def merge(self, other: "BlockMoment") -> "BlockMoment":
        """Return the moment of both parts together."""
        pairs, count = zip(self.parts, other.parts, strict=True), self.count + other.count
        parts = tuple(_merged((a.to(b.device), self.count), (b, other.count)) for a, b in pairs)
        return BlockMoment(self.layout, parts, count)

    @property
    def accepts(self) -> RowLayout:
        """The layout of the rows that are summed."""
        return self.layout

    @property
    def flat(self) -> Tensor:
        """All numbers of the moment, float64 (numbers,), from which `restored` rebuilds it."""
        return torch.cat([part.flatten() for part in (*self.parts, torch.zeros(0, dtype=torch.float64))])

    def restored(self, flat: Tensor, count: int) -> "BlockMoment":
        """Return the moment of the same layout with this `flat`."""
        shapes = [(min(count, size), size) for size in self.layout.sizes]
        pieces = flat.split([rows * size for rows, size in shapes])
        parts = tuple(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True))
        return BlockMoment(self.layout, parts, count)

    def finalize(self) -> tuple[Spectrum, ...]:
        """Return the curvature of each layer, k_l x k_l.

        Raises:
            ValueError: there are no rows.
        """
        if self.count == 0:
            raise ValueError("a block moment needs at least one row, it has none")
        return tuple(
            Spectrum.of(part / self.count) if self.count >= part.shape[1] else Spectrum.of_rows(part)
            for part in self.parts
        )


CountedPart = tuple[Tensor, int]


def _part_of(rows_nk: Tensor, count: int) -> Tensor:
    """Return the part that a moment keeps of `count` rows (count, k)."""
    return rows_nk.T @ rows_nk if count >= rows_nk.shape[1] else rows_nk


def _merged(one: CountedPart, other: CountedPart) -> Tensor:
    (a, n), (b, m) = one, other
    size = a.shape[1]
    if n + m < size:
        return torch.cat([a, b])
    return sum_of(a, n) + sum_of(b, m)


def sum_of(part: Tensor, count: int) -> Tensor:
    """Return the sum (k, k) of g g^T over the `count` rows of a moment's part."""
    return part if count >= part.shape[1] else part.T @ part
