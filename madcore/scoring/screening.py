"""Screening: trusted samples that do not belong, found before anything is compared with them.

A poisoned trusted set takes the power of any split-conformal test, because its triggered samples score like the attack.
They share a predicted class with the samples whose place they take, and not the mechanism, so their class has two
modes. Per predicted class: rows, each layer of unit norm, on their first three principal components, are split into two
by 2-means, and the modes' separation is compared with that of the other classes (spectral signatures: Tran et al. 2018,
arXiv 1811.00636; two clusters of a class: Chen et al. 2018, arXiv 1811.03728).

A class stands out from others only if most of them are clean. Where the smaller mode is nearly as large as the other,
it is not possible to tell which of them is clean, and none is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madcore.rows import RowLayout
from madcore.scoring.coupling import unit_rows

COMPONENTS = 3
FEWEST_SAMPLES, FEWEST_CLASSES = 10, 5
STANDS_OUT = 6.0
LARGEST_MINORITY = 0.4
NORMAL_MAD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
SMALLEST_SPREAD = 0.02  # of the median: separations that are alike by chance must not make the next one stand out
MOST_ROUNDS = 100
ROUNDING = 1e-5  # of rows whose layers have unit norm


@dataclass(frozen=True)
class Modes:
    """The two modes of a predicted class: how many samples it has, how far apart they are, and the smaller one.

    `separation`: the distance of the modes' means over their pooled standard deviation along it. `z`: the separation
    standardised among those of all classes, by median and median absolute deviation. `minority`: places of the smaller
    mode's samples among all samples, int64.
    """

    predicted: int
    samples: int
    separation: float
    z: float
    minority: Tensor

    @property
    def share(self) -> float:
        """The share of the smaller mode in the class."""
        return len(self.minority) / self.samples

    @property
    def stands_out(self) -> bool:
        """Whether the modes are further apart than chance and the other classes explain."""
        return self.z > STANDS_OUT

    @property
    def decidable(self) -> bool:
        """Whether the larger mode is large enough to be taken for the clean one."""
        return self.share <= LARGEST_MINORITY


@dataclass(frozen=True)
class Screened:
    """The result of screening: modes by predicted class, and the classes with too few samples to split."""

    modes: tuple[Modes, ...]
    too_small: tuple[int, ...]

    @property
    def suspects(self) -> Tensor:
        """Places of the samples to leave out, ascending."""
        found = [modes.minority for modes in self.modes if modes.stands_out and modes.decidable]
        return torch.cat([*found, torch.zeros(0, dtype=torch.int64)]).sort().values

    @property
    def undecidable(self) -> tuple[int, ...]:
        """Classes of which one mode does not belong, without a way to tell which."""
        return tuple(modes.predicted for modes in self.modes if modes.stands_out and not modes.decidable)


def screen(rows_mk: Tensor, predictions_m: Tensor, layout: RowLayout) -> Screened:
    """Look for a second mode in each predicted class of the trusted set.

    Args:
        rows_mk: rows (m, k) of all trusted samples in the reference or calibration part, not whitened.
        predictions_m: their predicted classes, (m,) int64; samples with a negative one are ignored.
        layout: of the rows.

    Returns:
        The modes of each class with at least 10 samples; their `z` is 0 if fewer than five classes can be compared.
    """
    places = {
        int(predicted): torch.nonzero(predictions_m == predicted).flatten()
        for predicted in predictions_m.unique()
        if predicted >= 0
    }
    large = {predicted: own for predicted, own in places.items() if len(own) >= FEWEST_SAMPLES}
    splits = {predicted: _two_modes(unit_rows(rows_mk[own], layout, "apart")) for predicted, own in large.items()}
    z = _standardised([separation for separation, _ in splits.values()])
    modes = [
        Modes(predicted, len(large[predicted]), separation, z_of_class, large[predicted][minority].cpu())
        for (predicted, (separation, minority)), z_of_class in zip(splits.items(), z, strict=True)
    ]
    return Screened(tuple(modes), tuple(sorted(places.keys() - large.keys())))


def _standardised(separations: Sequence[float]) -> list[float]:
    """Return the distance of each separation from their median, in standard deviations."""
    if len(separations) < FEWEST_CLASSES:
        return [0.0] * len(separations)
    values = torch.tensor(separations, dtype=torch.float64)
    centred = values - values.quantile(0.5)
    spread = NORMAL_MAD * centred.abs().quantile(0.5)
    least = SMALLEST_SPREAD * values.quantile(0.5) + torch.finfo(torch.float64).tiny
    standardised: list[float] = (centred / torch.maximum(spread, least)).tolist()
    return standardised


def _two_modes(units_nk: Tensor) -> tuple[float, Tensor]:
    """Return how far apart the two modes of some samples are, and which samples are in the smaller one, (n,) bool."""
    components_nr = _principal_components(units_nk)
    splits = [_settled(components_nr, _best_split(numbers_n)) for numbers_n in components_nr.unbind(dim=1)]
    second_n = min(splits, key=lambda second: _within(components_nr, second))
    return _separation(components_nr, second_n), second_n if 2 * int(second_n.sum()) <= len(second_n) else ~second_n


def _principal_components(units_nk: Tensor) -> Tensor:
    """Return coordinates (n, r) of rows on their first principal axes, float64, from the smaller Gram matrix."""
    centred_nk = (units_nk - units_nk.mean(dim=0)).double()
    if centred_nk.shape[0] <= centred_nk.shape[1]:
        values, vectors = torch.linalg.eigh(centred_nk @ centred_nk.T)
        components_nr: Tensor = vectors[:, -COMPONENTS:] * values[-COMPONENTS:].clamp(min=0).sqrt()
        return components_nr
    _, axes = torch.linalg.eigh(centred_nk.T @ centred_nk)
    projected_nr: Tensor = centred_nk @ axes[:, -COMPONENTS:]
    return projected_nr


def _best_split(numbers_n: Tensor) -> Tensor:
    """Split numbers into low and high by the threshold with the least variance within; true where high, (n,)."""
    order = numbers_n.argsort()
    sums = numbers_n[order].cumsum(0)
    low_counts = torch.arange(1, len(numbers_n), dtype=numbers_n.dtype, device=numbers_n.device)
    between = sums[:-1].square() / low_counts + (sums[-1] - sums[:-1]).square() / (len(numbers_n) - low_counts)
    high_n = torch.zeros(len(numbers_n), dtype=torch.bool, device=numbers_n.device)
    high_n[order[int(between.argmax()) + 1 :]] = True
    return high_n


def _settled(points_nr: Tensor, second_n: Tensor) -> Tensor:
    """Run 2-means (Lloyd 1982) from a first split until it no longer changes; a mode is never left empty."""
    for _ in range(MOST_ROUNDS):
        means = torch.stack([points_nr[~second_n].mean(dim=0), points_nr[second_n].mean(dim=0)])
        nearer_n = torch.cdist(points_nr, means).argmin(dim=1).bool()
        if torch.equal(nearer_n, second_n) or nearer_n.all() or not nearer_n.any():
            break
        second_n = nearer_n
    return second_n


def _within(points_nr: Tensor, second_n: Tensor) -> float:
    """Return the sum of squared distances from the modes' means."""
    modes = points_nr[~second_n], points_nr[second_n]
    return sum(float((points - points.mean(dim=0)).square().sum()) for points in modes)


def _separation(points_nr: Tensor, second_n: Tensor) -> float:
    """Return the distance of the modes' means over the pooled standard deviation along the line between them.

    It is 0 if the distance is mere rounding.
    """
    first, second = points_nr[~second_n], points_nr[second_n]
    between_r = second.mean(dim=0) - first.mean(dim=0)
    distance = float(between_r.norm())
    if distance <= ROUNDING:
        return 0.0
    along = [points @ (between_r / distance) for points in (first, second)]
    pooled = sum(float((numbers - numbers.mean()).square().sum()) for numbers in along) / len(points_nr)
    return float(distance / max(pooled, torch.finfo(torch.float64).tiny) ** 0.5)
