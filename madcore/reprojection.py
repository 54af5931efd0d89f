"""Rows of a lower rank, of stored rows: nothing is approximated, because a matrix of a lower rank is made of the rows of one of a higher rank.

Entries of a side's matrix come row by row from one stream (see `Projection.matrix`), and only then are divided by
sqrt(rank). So the matrix of rank r' < r with the same seed and kind is the first r' rows of that of rank r, times
sqrt(r / r'), and so is what it leaves of a gradient. A side that rank r kept whole, because it is no longer than r, is
in the rows as it is: the matrix of rank r' is applied to it. The result is the row of rank r', up to the rounding of
float32 and of the rows at rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from madcore.errors import ModelError
from madcore.projections import Projection
from madcore.rows import Layer, RowLayout, row_layout


@dataclass(frozen=True)
class Reprojection:
    """From rows of some layers under a `projection` to their rows at a lower `rank`; made by `Reprojection.of`."""

    layers: tuple[Layer, ...]
    projection: Projection
    rank: int

    @classmethod
    def of(cls, layers: Sequence[Layer], projection: Projection, rank: int) -> "Reprojection":
        """The re-projection of rows of these layers.

        Every kind of layer has rows that are `P_0 dW P_1^T` of its sides, whatever the way to them, so all of them can
        be re-projected.

        Args:
            layers: those of the rows, in their order.
            projection: the one that the rows were made with.
            rank: the lower one.

        Raises:
            ModelError: the rank is not from 1 to below the projection's, or the rows are hashed.
        """
        if not 1 <= rank < projection.rank:
            raise ModelError(
                f"rows of rank {projection.rank} can be re-projected to ranks from 1 to {projection.rank - 1}, not to {rank}; choose one of these"
            )
        if projection.sketch is not None:
            raise ModelError(
                f"rows of rank {projection.rank} hashed to {projection.sketch:,} numbers a layer (estimator.projection.sketch) cannot be re-projected to rank "
                f"{rank}, because a hash adds numbers of different places together; `mad run` with that rank computes them"
            )
        return cls(tuple(layers), projection, rank)

    @cached_property
    def stored(self) -> RowLayout:
        """The layout of the rows that are given, of k numbers."""
        return row_layout(self.layers, self.projection)

    @cached_property
    def layout(self) -> RowLayout:
        """The layout of the rows of the lower rank, of k' numbers."""
        return row_layout(self.layers, replace(self.projection, rank=self.rank))

    def __call__(self, rows_nk: Tensor) -> Tensor:
        """Rows (n, k) -> rows of the lower rank (n, k'), on the same device and in the same precision."""
        lower_nk = rows_nk.new_empty(rows_nk.shape[0], self.layout.k)
        for layer, matrices, block, lower in zip(
            self.layers, self._matrices, self.stored.blocks(rows_nk), self.layout.blocks(lower_nk), strict=True
        ):
            first, second = map(self.projection.kept, layer.shape)
            firsts_noi = self._lowered(
                block.unflatten(1, (first, second)).transpose(1, 2), layer.shape[0], matrices[0]
            ).transpose(1, 2)
            lower.copy_(self._lowered(firsts_noi, layer.shape[1], matrices[1]).flatten(1))
        return lower_nk

    @cached_property
    def _matrices(self) -> tuple[tuple[Tensor | None, Tensor | None], ...]:
        """Of each layer the matrices of sides that the stored rank kept whole and the lower one does not, float64; None for other sides."""
        return tuple((self._matrix(layer, 0), self._matrix(layer, 1)) for layer in self.layers)

    def _matrix(self, layer: Layer, side: int) -> Tensor | None:
        size = layer.shape[side]
        return (
            None
            if size > self.projection.rank
            else replace(self.projection, rank=self.rank).matrix(layer.name, side, size)
        )

    def _lowered(self, tensor: Tensor, size: int, matrix: Tensor | None) -> Tensor:
        """The last axis, which is what the stored rank kept of a side of `size`, as the lower rank keeps it."""
        if size > self.projection.rank:
            return tensor[..., : self.rank] * math.sqrt(self.projection.rank / self.rank)
        return tensor if matrix is None else tensor @ matrix.to(tensor).T
