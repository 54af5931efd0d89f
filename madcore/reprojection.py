"""Rows of a lower rank, computed from stored rows.

Nothing is approximated: the entries of a side's matrix come row by row from one stream (see `Projection.matrix`), and
only then are divided by sqrt(rank). So the matrix of rank r' < r with the same seed and kind is the first r' rows of
that of rank r, times sqrt(r / r'), and the same holds for a projected gradient. A side that rank r kept whole, because
it is no longer than r, is in the rows unchanged: the matrix of rank r' is applied to it. The result is the row of rank
r', up to the rounding of float32 and of stored rows.
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
        """Prepare the re-projection of rows of these layers.

        The rows of every kind of layer are `P_0 dW P_1^T`, however they were computed, so all of them can be
        re-projected.

        Args:
            layers: those of the rows, in their order.
            projection: the one that the rows were made with.
            rank: the lower rank.

        Raises:
            ModelError: the rank is not from 1 to below the projection's, or the rows are hashed.
        """
        if not 1 <= rank < projection.rank:
            possible = f"rows of rank {projection.rank} can be re-projected to ranks from 1 to {projection.rank - 1}"
            raise ModelError(f"{possible}, not to {rank}; choose one of these")
        if projection.sketch is not None:
            hashed = f"hashed to {projection.sketch:,} numbers a layer (estimator.projection.sketch)"
            raise ModelError(
                f"rows of rank {projection.rank} {hashed} cannot be re-projected to rank {rank}, because hashing adds "
                "numbers from different places; `mad run` with that rank computes them"
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
        blocks = zip(self.stored.blocks(rows_nk), self.layout.blocks(lower_nk), strict=True)
        for layer, (matrix_0, matrix_1), (block, lower) in zip(self.layers, self._matrices, blocks, strict=True):
            first, second = map(self.projection.kept, layer.shape)
            block_nio = block.unflatten(1, (first, second)).transpose(1, 2)
            half_noi = self._lowered(block_nio, layer.shape[0], matrix_0).transpose(1, 2)
            lower.copy_(self._lowered(half_noi, layer.shape[1], matrix_1).flatten(1))
        return lower_nk

    @cached_property
    def _matrices(self) -> tuple[tuple[Tensor | None, Tensor | None], ...]:
        """Per layer, the float64 matrix of each side that only the stored rank kept whole; None for other sides."""
        return tuple((self._matrix(layer, 0), self._matrix(layer, 1)) for layer in self.layers)

    def _matrix(self, layer: Layer, side: int) -> Tensor | None:
        size = layer.shape[side]
        if size > self.projection.rank:
            return None
        return replace(self.projection, rank=self.rank).matrix(layer.name, side, size)

    def _lowered(self, tensor: Tensor, size: int, matrix: Tensor | None) -> Tensor:
        """Reduce the last axis, which is what the stored rank kept of a side of `size`, to the lower rank."""
        if size > self.projection.rank:
            return tensor[..., : self.rank] * math.sqrt(self.projection.rank / self.rank)
        return tensor if matrix is None else tensor @ matrix.to(tensor).T
