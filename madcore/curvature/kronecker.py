"""Kronecker factors: a layer's curvature from the second moments of the two sides of its gradient.

A gradient is a sum over positions s of outer products d_s (x) a_s. K-FAC (Martens & Grosse 2015, arXiv 1503.05671; convolutions: Grosse
& Martens 2016, arXiv 1602.01407) takes H_l for S (x) A, with A the mean over samples and positions of a a^T and S the mean over samples
of the sum over positions of d d^T, of the projected sides. Exact for one sample with one position, and for deep linear networks under
squared loss with labels of the Fisher. EK-FAC (George et al. 2018, arXiv 1806.03884) keeps the eigenvectors and takes the second
moments of the rows along them for eigenvalues.

The gradient is the measurement's, as in `block_moment`. A sample's *side numbers* are, of a layer with factors, its sums over positions
of both second moments, (o, o) and (i, i), and how many positions it has; of another layer (a bias, a norm, a sketch, a fallback), which
keeps its block, the row itself.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from madcore.curvature.moments import BlockMoment
from madcore.curvature.whitening import Basis, Spectrum
from madcore.rows import RowLayout


@dataclass(frozen=True)
class SideLayout:
    """What side numbers are: the layout of rows, and of each layer with factors its kept sides (o, i), None for one that keeps its block."""

    rows: RowLayout
    kept: tuple[tuple[int, int] | None, ...]

    @cached_property
    def factors(self) -> Mapping[str, tuple[int, int]]:
        """Kept sides (o, i) of the layers that have factors, by name."""
        return {name: kept for name, kept in zip(self.rows.names, self.kept, strict=True) if kept is not None}

    @cached_property
    def blocks(self) -> RowLayout:
        """The rows of the layers that keep their block."""
        named = [
            (name, size)
            for name, size, kept in zip(self.rows.names, self.rows.sizes, self.kept, strict=True)
            if kept is None
        ]
        return RowLayout(tuple(name for name, _ in named), tuple(size for _, size in named))

    @cached_property
    def stored(self) -> RowLayout:
        """Side numbers as a row of their own: both moments and the number of positions of each layer with factors, then the blocks' rows."""
        names = [f"{name} {part}" for name in self.factors for part in ("first", "second", "positions")]
        sizes = [size for first, second in self.factors.values() for size in (first * first, second * second, 1)]
        return RowLayout((*names, *self.blocks.names), (*sizes, *self.blocks.sizes))

    def of_layers(self, names: Collection[str]) -> "SideLayout":
        """The layout of some of the layers, in the same order."""
        own = [
            (name, size, kept)
            for name, size, kept in zip(self.rows.names, self.rows.sizes, self.kept, strict=True)
            if name in names
        ]
        return SideLayout(
            RowLayout(tuple(one[0] for one in own), tuple(one[1] for one in own)), tuple(one[2] for one in own)
        )

    @property
    def summed(self) -> int:
        """How many of the side numbers are of layers with factors."""
        return self.stored.k - self.blocks.k


class SideSums:
    """Side numbers (n, stored) of a pass in the making: its layers with factors.

    `counted` (n, s) says which positions of a sample count, in layers that have s of them; padding does not. None counts all.
    """

    def __init__(self, layout: SideLayout, samples: int, like: Tensor, counted: Tensor | None = None):
        """Zeros, on the device and in the precision of a tensor."""
        self.numbers = like.new_zeros(samples, layout.stored.k)
        self._layout, self._counted = layout, counted
        slices = iter(layout.stored.slices)
        self._places = {name: (next(slices), next(slices), next(slices)) for name in layout.factors}

    def add(self, name: str, first_nso: Tensor, second_nsi: Tensor) -> None:
        """Adds one use of a layer: the projected sides of its gradient by position."""
        if name not in self._places:
            return
        counts = first_nso.new_full((len(first_nso),), first_nso.shape[1])
        if self._counted is not None and self._counted.shape[1] == first_nso.shape[1]:
            counted_ns = self._counted.to(first_nso)
            first_nso, second_nsi, counts = (
                first_nso * counted_ns.unsqueeze(2),
                second_nsi * counted_ns.unsqueeze(2),
                counted_ns.sum(dim=1),
            )
        for place, side in zip(self._places[name], (first_nso, second_nsi), strict=False):
            self.numbers[:, place] += (side.transpose(1, 2) @ side).flatten(1)
        self.numbers[:, self._places[name][2]] += counts.unsqueeze(1)

    def with_blocks(self, rows_nk: Tensor) -> Tensor:
        """The side numbers, filled in of the layers that keep their block from rows (n, k)."""
        kept = [
            block
            for block, sides in zip(self._layout.rows.blocks(rows_nk), self._layout.kept, strict=True)
            if sides is None
        ]
        if kept:
            self.numbers[:, self._layout.summed :] = torch.cat(kept, dim=1)
        return self.numbers


@dataclass(frozen=True)
class KroneckerMoment:
    """Sums of side numbers over `blocks.count` samples: (summed,) float64 of layers with factors, a block moment of the others."""

    layout: SideLayout
    sums: Tensor
    blocks: BlockMoment

    @classmethod
    def zero(cls, layout: SideLayout) -> "KroneckerMoment":
        """The moment of no samples."""
        return cls(layout, torch.zeros(layout.summed, dtype=torch.float64), BlockMoment.zero(layout.blocks))

    def update(self, numbers_ns: Tensor) -> "KroneckerMoment":
        """With the side numbers (n, stored) of samples added."""
        summed = self.layout.summed
        sums = self.sums.to(numbers_ns.device) + numbers_ns[:, :summed].double().sum(dim=0)
        return KroneckerMoment(self.layout, sums, self.blocks.update(numbers_ns[:, summed:]))

    def merge(self, other: "KroneckerMoment") -> "KroneckerMoment":
        """The moment of both parts together."""
        return KroneckerMoment(
            self.layout, self.sums + other.sums.to(self.sums.device), self.blocks.merge(other.blocks)
        )

    @property
    def count(self) -> int:
        """Of samples."""
        return self.blocks.count

    @property
    def accepts(self) -> RowLayout:
        """The layout of side numbers."""
        return self.layout.stored

    @property
    def flat(self) -> Tensor:
        """All of its numbers, float64 (numbers,), from which `restored` makes it again."""
        return torch.cat([self.sums, self.blocks.flat])

    def restored(self, flat: Tensor, count: int) -> "KroneckerMoment":
        """The moment of the same layout whose `flat` this is."""
        summed = self.layout.summed
        return KroneckerMoment(self.layout, flat[:summed], self.blocks.restored(flat[summed:], count))

    def finalize(self) -> tuple[Spectrum, ...]:
        """The curvature of each layer: S (x) A, or its block.

        A position's factor is the mean over positions and the other one the mean over samples; which of the two is which side's
        changes nothing in the product.

        Raises:
            ValueError: there are no samples.
        """
        blocks = dict(zip(self.layout.blocks.names, self.blocks.finalize(), strict=True))
        pieces = dict(
            zip(
                self.layout.stored.names,
                self.sums.split(self.layout.stored.sizes[: 3 * len(self.layout.factors)]),
                strict=False,
            )
        )
        for name, (first, second) in self.layout.factors.items():
            one, other = pieces[f"{name} first"].reshape(first, first), pieces[f"{name} second"].reshape(second, second)
            positions = pieces[f"{name} positions"].clamp(min=1)
            blocks[name] = Spectrum.of_product(one / self.blocks.count, other / positions)
        return tuple(blocks[name] for name in self.layout.rows.names)


@dataclass(frozen=True)
class EigenvalueMoment:
    """Sums over `count` rows of their squared coefficients on each layer's eigenvectors, float64 (r_l,) each."""

    layout: RowLayout
    bases: tuple[Basis, ...]
    sums: tuple[Tensor, ...]
    count: int

    @classmethod
    def zero(cls, layout: RowLayout, spectra: tuple[Spectrum, ...]) -> "EigenvalueMoment":
        """The moment of no rows, on the eigenvectors of a curvature."""
        return cls(
            layout, tuple(one.basis for one in spectra), tuple(torch.zeros_like(one.eigenvalues) for one in spectra), 0
        )

    def update(self, rows_nk: Tensor) -> "EigenvalueMoment":
        """With the rows (n, k) added."""
        layers = zip(self.sums, self.bases, self.layout.blocks(rows_nk), strict=True)
        sums = tuple(
            total.to(rows_nk.device) + basis.rotate(block.double()).square().sum(dim=0)
            for total, basis, block in layers
        )
        return EigenvalueMoment(self.layout, self.bases, sums, self.count + len(rows_nk))

    def merge(self, other: "EigenvalueMoment") -> "EigenvalueMoment":
        """The moment of both parts together, on the same eigenvectors."""
        sums = tuple(a + b.to(a.device) for a, b in zip(self.sums, other.sums, strict=True))
        return EigenvalueMoment(self.layout, self.bases, sums, self.count + other.count)

    @property
    def accepts(self) -> RowLayout:
        """The layout of the rows that it sums."""
        return self.layout

    @property
    def flat(self) -> Tensor:
        """All of its numbers, float64 (numbers,), from which `restored` makes it again."""
        return torch.cat(self.sums)

    def restored(self, flat: Tensor, count: int) -> "EigenvalueMoment":
        """The moment on the same eigenvectors whose `flat` this is."""
        return EigenvalueMoment(self.layout, self.bases, flat.split([len(total) for total in self.sums]), count)

    def finalize(self) -> tuple[Spectrum, ...]:
        """The curvature of each layer, its eigenvalues the second moments of the rows along its eigenvectors.

        Raises:
            ValueError: there are no rows.
        """
        if self.count == 0:
            raise ValueError("eigenvalues need at least one row, there is none")
        layers = zip(self.bases, self.sums, self.layout.sizes, strict=True)
        return tuple(Spectrum(basis, total / self.count, size) for basis, total, size in layers)
