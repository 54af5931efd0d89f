"""Curvature in the space of the rows, and its damped inverse.

`block_moment`: per layer, the uncentred second moment `H_l = (1/m) sum_j g_j g_j^T` of the reference part's rows; layers are
independent blocks. A moment is a monoid (zero, update, merge, finalize), accumulated in float64. Influence of trusted sample j on
audited sample i is `g_i^T (H + lambda I)^-1 g_j` (Koh & Liang 2017, arXiv 1703.04730; damping: Grosse et al. 2023, arXiv
2308.03296), so with rows whitened by `(H + lambda I)^(-1/2)` it is a plain inner product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from madcore.rows import RowLayout


@dataclass(frozen=True)
class BlockMoment:
    """Sums of g g^T per layer, float64, each (k_l, k_l), over `count` rows."""

    layout: RowLayout
    sums: tuple[Tensor, ...]
    count: int

    @classmethod
    def zero(cls, layout: RowLayout) -> "BlockMoment":
        """The moment of no rows; it takes the device of the first ones added."""
        return cls(layout, tuple(torch.zeros(size, size, dtype=torch.float64) for size in layout.sizes), 0)

    def update(self, rows_nk: Tensor) -> "BlockMoment":
        """With the rows (n, k) added, n from 0 on."""
        blocks = [block.double() for block in self.layout.blocks(rows_nk)]
        sums = tuple(total.to(block.device) + block.T @ block for total, block in zip(self.sums, blocks, strict=True))
        return BlockMoment(self.layout, sums, self.count + rows_nk.shape[0])

    def merge(self, other: "BlockMoment") -> "BlockMoment":
        """The moment of both parts together."""
        sums = tuple(a + b.to(a.device) for a, b in zip(self.sums, other.sums, strict=True))
        return BlockMoment(self.layout, sums, self.count + other.count)

    def finalize(self) -> tuple[Tensor, ...]:
        """The curvature, float64 (k_l, k_l) per layer.

        Raises:
            ValueError: there are no rows.
        """
        if self.count == 0:
            raise ValueError("a block moment needs at least one row, it has none")
        return tuple(total / self.count for total in self.sums)


@dataclass(frozen=True)
class Damping:
    """lambda: `relative_mean` is `amount` times the layer's mean eigenvalue, `absolute` is `amount` in the curvature's unit."""

    kind: Literal["relative_mean", "absolute"] = "relative_mean"
    amount: float = 1.0

    def of(self, matrix: Tensor) -> float:
        """The number added to each eigenvalue of a curvature block (k_l, k_l)."""
        return self.amount if self.kind == "absolute" else self.amount * float(matrix.trace()) / matrix.shape[0]

    def of_all(self, blocks: Sequence[Tensor]) -> list[float]:
        """The number added to each block's eigenvalues.

        A layer that never matters to the reference part has an all-zero block, of which no relative damping can be made; it counts
        like the layer that matters least, so that a sample that wakes it stands out in whatever unit gradients come.
        """
        amounts = [self.of(block) for block in blocks]
        least = min((amount for amount in amounts if amount > 0), default=0.0)
        return [amount if amount > 0 else least for amount in amounts]


@dataclass(frozen=True)
class DampedInverse:
    """(H + lambda I)^-1 of one symmetric positive semi-definite block: factored once, applied many times."""

    eigenvectors: Tensor
    eigenvalues: Tensor
    damping: float

    @classmethod
    def of(cls, matrix: Tensor, damping: Damping) -> "DampedInverse":
        """Factors H (k, k). Rounding can leave tiny negative eigenvalues; they count as 0.

        An all-zero block without damping is inverted as the identity.
        """
        eigenvalues, eigenvectors = torch.linalg.eigh(matrix.double())
        amount = damping.of(matrix)
        if float(eigenvalues[-1]) <= 0 and amount <= 0:
            return cls(eigenvectors, torch.ones_like(eigenvalues), 0.0)
        floor = 0.0 if amount > 0 else float(eigenvalues[-1]) * torch.finfo(torch.float64).eps * len(eigenvalues)
        return cls(eigenvectors, eigenvalues.clamp(min=floor), amount)

    def _power(self, exponent: float) -> Tensor:
        return (self.eigenvectors * (self.eigenvalues + self.damping) ** exponent) @ self.eigenvectors.T

    def apply(self, rows_nk: Tensor) -> Tensor:
        """(H + lambda I)^-1 g for rows (n, k)."""
        return rows_nk @ self._power(-1.0).to(rows_nk)

    def quadratic(self, rows_nk: Tensor) -> Tensor:
        """Leverage g^T (H + lambda I)^-1 g, shape (n,)."""
        return (self.apply(rows_nk) * rows_nk).sum(dim=1)

    def whiten(self, rows_nk: Tensor) -> Tensor:
        """(H + lambda I)^(-1/2) g for rows (n, k)."""
        return rows_nk @ self.whitening().to(rows_nk)

    def whitening(self) -> Tensor:
        """The symmetric matrix (H + lambda I)^(-1/2), float64 (k, k)."""
        return self._power(-0.5)


@dataclass(frozen=True)
class Whitening:
    """The whitening matrices of all layers; none at all is the `identity` curvature."""

    layout: RowLayout
    matrices: tuple[Tensor, ...] | None = None

    @classmethod
    def fit(cls, layout: RowLayout, curvature: Sequence[Tensor], damping: Damping) -> "Whitening":
        """From a curvature block (k_l, k_l) per layer; kept as float32, the precision of rows."""
        pairs = zip(curvature, damping.of_all(curvature), strict=True)
        return cls(layout, tuple(DampedInverse.of(block, Damping("absolute", amount)).whitening().float() for block, amount in pairs))

    @property
    def infinite(self) -> tuple[str, ...]:
        """Layers whose whitening has overflown."""
        named = zip(self.layout.names, self.matrices or (), strict=self.matrices is not None)
        return tuple(name for name, matrix in named if not torch.isfinite(matrix).all())

    def __call__(self, rows_nk: Tensor) -> Tensor:
        """Whitened rows u (n, k): influence is u_i . u_j, leverage |u_i|^2."""
        if self.matrices is None:
            return rows_nk
        blocks = zip(self.layout.blocks(rows_nk), self.matrices, strict=True)
        return torch.cat([block @ matrix.to(block) for block, matrix in blocks], dim=1)
