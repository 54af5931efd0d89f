"""Kronecker factors: a layer's curvature from the second moments of the two sides of its gradient.

A gradient is a sum over positions s of outer products d_s (x) a_s. K-FAC (Martens & Grosse 2015, arXiv 1503.05671;
convolutions: Grosse & Martens 2016, arXiv 1602.01407) approximates H_l by S (x) A, with A the mean over samples and
positions of a a^T and S the mean over samples of the sum over positions of d d^T, of the projected sides. It is exact
for one sample with one position, and for deep linear networks under squared loss with labels sampled as for the Fisher.
EK-FAC (George et al. 2018, arXiv 1806.03884) keeps the eigenvectors and uses the second moments of the rows along them
as eigenvalues.

The gradient is the measurement's, as in `block_moment`. The *side numbers* of a sample are, for a layer with factors,
its sums over positions of both second moments, (o, o) and (i, i), and its number of positions; for any other layer (a
bias, a norm, a sketch, a fallback), whose block is kept, the row itself.
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
    """The layout of side numbers.

    `rows`: the layout of the rows. `kept`: per layer its kept sides (o, i), or None for a layer that keeps its block.
    """

    rows: RowLayout
    kept: tuple[tuple[int, int] | None, ...]

    @cached_property
    def factors(self) -> Mapping[str, tuple[int, int]]:
        """Kept sides (o, i) of the layers that have factors, by name."""
        return {name: kept for name, kept in zip(self.rows.names, self.kept, strict=True) if kept is not None}

    @cached_property
    def blocks(self) -> RowLayout:
        """The rows of the layers that keep their block."""
        layers = zip(self.rows.names, self.rows.sizes, self.kept, strict=True)
        named = [(name, size) for name, size, kept in layers if kept is None]
        return RowLayout(tuple(name for name, _ in named), tuple(size for _, size in named))

    @cached_property
    def stored(self) -> RowLayout:
        """Side numbers as a row: of layers with factors both moments and the number of positions, then blocks' rows."""
        names = [f"{name} {part}" for name in self.factors for part in ("first", "second", "positions")]
        sizes = [size for first, second in self.factors.values() for size in (first * first, second * second, 1)]
        return RowLayout((*names, *self.blocks.names), (*sizes, *self.blocks.sizes))

    def of_layers(self, names: Collection[str]) -> "SideLayout":
        """Return the layout of some of the layers, in the same order."""
        layers = zip(self.rows.names, self.rows.sizes, self.kept, strict=True)
        chosen = [layer for layer in layers if layer[0] in names]
        rows = RowLayout(tuple(name for name, _, _ in chosen), tuple(size for _, size, _ in chosen))
        return SideLayout(rows, tuple(kept for _, _, kept in chosen))

    @property
    def summed(self) -> int:
        """The number of side numbers that belong to layers with factors."""
        return self.stored.k - self.blocks.k


class SideSums:
    """The side numbers (n, stored) of a pass under way: first those of its layers with factors.

    `counted` (n, s) is true at the positions of a sample that count, in layers that have s of them; padding does not
    count. None counts all positions.
    """

    def __init__(self, layout: SideLayout, samples: int, like: Tensor, counted: Tensor | None = None):
        """Start from zeros, on the device and in the precision of `like`."""
        self.numbers = like.new_zeros(samples, layout.stored.k)
        self._layout, self._counted = layout, counted
        slices = iter(layout.stored.slices)
        self._places = {name: (next(slices), next(slices), next(slices)) for name in layout.factors}

    def add(self, name: str, first_nso: Tensor, second_nsi: Tensor) -> None:
        """Add one use of a layer: the projected sides of its gradient by position."""
        if name not in self._places:
            return
        counts = first_nso.new_full((len(first_nso),), first_nso.shape[1])
        if self._counted is not None and self._counted.shape[1] == first_nso.shape[1]:
            counted_ns = self._counted.to(first_nso)
            first_nso, second_nsi = first_nso * counted_ns.unsqueeze(2), second_nsi * counted_ns.unsqueeze(2)
            counts = counted_ns.sum(dim=1)
        for place, side in zip(self._places[name], (first_nso, second_nsi), strict=False):
            self.numbers[:, place] += (side.transpose(1, 2) @ side).flatten(1)
        self.numbers[:, self._places[name][2]] += counts.unsqueeze(1)

    def with_blocks(self, rows_nk: Tensor) -> Tensor:
        """Fill in, from rows (n, k), the layers that keep their block, and return all side numbers."""
        layers = zip(self._layout.rows.blocks(rows_nk), self._layout.kept, strict=True)
        kept = [block for block, sides in layers if sides is None]
        if kept:
            self.numbers[:, self._layout.summed :] = torch.cat(kept, dim=1)
        return self.numbers


@dataclass(frozen=True)
class KroneckerMoment:
    """Sums of side numbers over `blocks.count` samples.

    `sums`: those of layers with factors, (summed,) float64. `blocks`: the block moment of the other layers.
    """

    layout: SideLayout
    sums: Tensor
    blocks: BlockMoment

    @classmethod
    def zero(cls, layout: SideLayout) -> "KroneckerMoment":
        """Return the moment of no samples."""
        return cls(layout, torch.zeros(layout.summed, dtype=torch.float64), BlockMoment.zero(layout.blocks))

    def update(self, numbers_ns: Tensor) -> "KroneckerMoment":
        """Return the moment with the side numbers (n, stored) of samples added."""
        summed = self.layout.summed
        sums = self.sums.to(numbers_ns.device) + numbers_ns[:, :summed].double().sum(dim=0)
        return KroneckerMoment(self.layout, sums, self.blocks.update(numbers_ns[:, summed:]))

    def merge(self, other: "KroneckerMoment") -> "KroneckerMoment":
        """Return the moment of both parts together."""
        sums = self.sums + other.sums.to(self.sums.device)
        return KroneckerMoment(self.layout, sums, self.blocks.merge(other.blocks))

    @property
    def count(self) -> int:
        """The number of samples."""
        return self.blocks.count

    @property
    def accepts(self) -> RowLayout:
        """The layout of side numbers."""
        return self.layout.stored

    @property
    def flat(self) -> Tensor:
        """All numbers of the moment, float64 (numbers,), from which `restored` rebuilds it."""
        return torch.cat([self.sums, self.blocks.flat])

    def restored(self, flat: Tensor, count: int) -> "KroneckerMoment":
        """Return the moment of the same layout with this `flat`."""
        summed = self.layout.summed
        return KroneckerMoment(self.layout, flat[:summed], self.blocks.restored(flat[summed:], count))

    def finalize(self) -> tuple[Spectrum, ...]:
        """Return the curvature of each layer: S (x) A, or its block.

        One factor is divided by the number of positions and the other by the number of samples; which of the two
        belongs to which side changes nothing in the product.

        Raises:
            ValueError: there are no samples.
        """
        blocks = dict(zip(self.layout.blocks.names, self.blocks.finalize(), strict=True))
        stored, with_factors = self.layout.stored, 3 * len(self.layout.factors)
        pieces = dict(zip(stored.names, self.sums.split(stored.sizes[:with_factors]), strict=False))
        for name, (first, second) in self.layout.factors.items():
            one = pieces[f"{name} first"].reshape(first, first)
            other = pieces[f"{name} second"].reshape(second, second)
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
        """Return the moment of no rows, on the eigenvectors of a curvature."""
        bases = tuple(spectrum.basis for spectrum in spectra)
        return cls(layout, bases, tuple(torch.zeros_like(spectrum.eigenvalues) for spectrum in spectra), 0)

    def update(self, rows_nk: Tensor) -> "EigenvalueMoment":
        """Return the moment with rows (n, k) added."""
        layers = zip(self.sums, self.bases, self.layout.blocks(rows_nk), strict=True)
        sums = tuple(
            total.to(rows_nk.device) + basis.rotate(block.double()).square().sum(dim=0)
            for total, basis, block in layers
        )
        return EigenvalueMoment(self.layout, self.bases, sums, self.count + len(rows_nk))

    def merge(self, other: "EigenvalueMoment") -> "EigenvalueMoment":
        """Return the moment of both parts together, on the same eigenvectors."""
        sums = tuple(a + b.to(a.device) for a, b in zip(self.sums, other.sums, strict=True))
        return EigenvalueMoment(self.layout, self.bases, sums, self.count + other.count)

    @property
    def accepts(self) -> RowLayout:
        """The layout of the rows that are summed."""
        return self.layout

    @property
    def flat(self) -> Tensor:
        """All numbers of the moment, float64 (numbers,), from which `restored` rebuilds it."""
        return torch.cat(self.sums)

    def restored(self, flat: Tensor, count: int) -> "EigenvalueMoment":
        """Return the moment on the same eigenvectors with this `flat`."""
        return EigenvalueMoment(self.layout, self.bases, flat.split([len(total) for total in self.sums]), count)

    def finalize(self) -> tuple[Spectrum, ...]:
        """Return the curvature of each layer, its eigenvalues the rows' second moments along its eigenvectors.

        Raises:
            ValueError: there are no rows.
        """
        if self.count == 0:
            raise ValueError("eigenvalues need at least one row, there is none")
        layers = zip(self.bases, self.sums, self.layout.sizes, strict=True)
        return tuple(Spectrum(basis, total / self.count, size) for basis, total, size in layers)
