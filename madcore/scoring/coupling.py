"""Coupling: how far the reference part explains an audited sample, and the anomaly score computed from it.

Whitened rows become unit rows. Each score kind compares a sample's unit row with an *explanation*, a direction made of
reference rows: the mean of its own predicted class (`prediction_coupling`), of the class that fits best
(`class_coupling`, the class-level correlation of arXiv 2604.18970), of all rows (`mean_coupling`), or of the q nearest
rows (`top_coupling`). The score is minus the cosine-like product with it: larger is more anomalous, always. `leverage`
compares |u|^2 with the reference part's median instead.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from madcore.rows import RowLayout

ScoreKind = Literal["prediction_coupling", "class_coupling", "mean_coupling", "top_coupling", "leverage"]
LayersForm = Literal["concatenated", "apart"]

CLASS_SCORES: tuple[ScoreKind, ...] = ("prediction_coupling", "class_coupling")
RARE_CLASS = 10
BLOCK = 1024
TOP_TRUSTED = 10


def unit_rows(whitened_nk: Tensor, layout: RowLayout, layers: LayersForm) -> Tensor:
    """Return unit rows (n, k): one L2 norm for the whole row, or one per layer (`apart`). Zeros stay zero."""
    return _normed(whitened_nk, layout.layer_norms(whitened_nk), layout, layers)[0]


def _normed(whitened_nk: Tensor, norms_nl: Tensor, layout: RowLayout, layers: LayersForm) -> tuple[Tensor, Tensor]:
    """Return unit rows (n, k), given the norms per layer (n, layers) of rows, and their own norms per layer."""
    whole = torch.linalg.vector_norm(norms_nl, dim=1, keepdim=True) if layers == "concatenated" else norms_nl
    divisors_nl = torch.where(whole > 0, whole, torch.ones_like(whole))
    spread = divisors_nl.to(whitened_nk)
    return whitened_nk / (spread if layers == "concatenated" else layout.spread(spread)), norms_nl / divisors_nl


def class_sums(units_mk: Tensor, predictions_m: Tensor, classes: int) -> Tensor:
    """Sum rows (m, k) by predicted class, (classes, k) float64."""
    sums_ck = torch.zeros(classes, units_mk.shape[1], dtype=torch.float64, device=units_mk.device)
    for units, predictions in zip(units_mk.split(BLOCK), predictions_m.split(BLOCK), strict=True):
        sums_ck.index_add_(0, predictions, units.double())
    return sums_ck


def class_means(units_mk: Tensor, predictions_m: Tensor, classes: int) -> Tensor:
    """Compute M_c, shape (classes, k): the means of unit rows by predicted class, not renormalised.

    A class with n_c < 10 rows is drawn towards B, the mean of M_c over the classes present:
    (n_c / 10) M_c + (1 - n_c / 10) B; so an absent class is B.
    """
    counts_c = torch.bincount(predictions_m, minlength=classes).to(units_mk)
    means_ck = (class_sums(units_mk, predictions_m, classes) / counts_c.clamp(min=1).unsqueeze(1)).to(units_mk)
    overall_k = means_ck[counts_c > 0].mean(dim=0)
    share_c1 = (counts_c / RARE_CLASS).clamp(max=1).unsqueeze(1)
    return share_c1 * means_ck + (1 - share_c1) * overall_k


def cohesion(units_mk: Tensor, predictions_m: Tensor, classes: int) -> Tensor:
    """Compute U_c, (classes,) float64: the mean inner product of two different unit rows of a class.

    `U_c = (|sum u|^2 - sum |u|^2) / (n_c (n_c - 1))`, which lacks the bias of |M_c|^2 for small classes. A class with
    n_c < 10 rows is drawn towards the mean over classes as its M_c is; all are 0 if no class has two rows.
    """
    counts_c = torch.bincount(predictions_m, minlength=classes).double()
    sums_ck = class_sums(units_mk, predictions_m, classes)
    squares_m1 = torch.linalg.vector_norm(units_mk, dim=1, keepdim=True, dtype=torch.float64).square()
    squares_c = class_sums(squares_m1, predictions_m, classes).squeeze(1)
    several_c = counts_c > 1
    if not several_c.any():
        return torch.zeros_like(counts_c)
    own_c = (sums_ck.square().sum(dim=1) - squares_c) / (counts_c * (counts_c - 1)).clamp(min=1)
    share_c = torch.where(several_c, counts_c / RARE_CLASS, 0.0).clamp(max=1)
    return share_c * own_c + (1 - share_c) * own_c[several_c].mean()


def debiased(means_ck: Tensor, cohesion_c: Tensor) -> Tensor:
    """Divide class means by sqrt(max(U_c, f)), f a tenth of the median U.

    A class whose rows agree less among themselves is expected to explain less. The means are unchanged if the median is
    not positive: the rows of a class then have nothing in common.
    """
    median = float(cohesion_c.quantile(0.5))
    if median <= 0:
        return means_ck
    return means_ck / cohesion_c.clamp(min=median / 10).sqrt().unsqueeze(1).to(means_ck)


@dataclass(frozen=True)
class References:
    """What scores compare with: the reference part's whitened rows (m, k), their statistics, and any class means."""

    layout: RowLayout
    layers: LayersForm
    whitened: Tensor
    units: Tensor
    class_means: Tensor
    present: Tensor
    log_leverage_median: float
    q: int | None = None

    @classmethod
    def of(  # noqa: PLR0913
        cls,
        layout: RowLayout,
        layers: LayersForm,
        whitened_mk: Tensor,
        predictions_m: Tensor,
        classes: int,
        *,
        debias: bool = False,
    ) -> "References":
        """Prepare whitened reference rows (m, k) with predicted classes (m,), m at least 1; 0 `classes` have no means.

        `debias`: class means are divided by how much the rows of a class agree among themselves (see `debiased`).

        Raises:
            ValueError: there are no reference rows.
        """
        if whitened_mk.shape[0] == 0:
            raise ValueError("the reference part is empty: no trusted sample is left to compare with")
        units_mk = unit_rows(whitened_mk, layout, layers)
        means_ck = class_means(units_mk, predictions_m, classes) if classes else units_mk[:0]
        if classes and debias:
            means_ck = debiased(means_ck, cohesion(units_mk, predictions_m, classes))
        present_c = torch.bincount(predictions_m[predictions_m >= 0], minlength=classes) > 0
        median = float(log_leverage(whitened_mk).quantile(0.5))
        return cls(layout, layers, whitened_mk, units_mk, means_ck, present_c, median)

    def explanation(self, kind: ScoreKind, units_nk: Tensor, predictions_n: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions (d, k) that samples are compared with, and which one belongs to each sample, (n,).

        Raises:
            ValueError: the kind needs classes, and there are none.
        """
        if kind in CLASS_SCORES and not len(self.class_means):
            raise ValueError(f"{kind} compares with predicted classes, but these references have none")
        if kind == "prediction_coupling":
            return self.class_means, predictions_n
        if kind == "class_coupling":
            cosines_nc = (units_nk @ self.class_means.T).masked_fill(~self.present, float("-inf"))
            return self.class_means, cosines_nc.argmax(dim=1)
        if kind == "top_coupling":
            nearest_nq = (units_nk @ self.units.T).topk(self.nearest, dim=1).indices
            weights_nm = units_nk.new_zeros(len(units_nk), len(self.units)).scatter_(1, nearest_nq, 1 / self.nearest)
            return weights_nm @ self.units, torch.arange(len(units_nk), device=units_nk.device)
        return self.units.mean(dim=0, keepdim=True), torch.zeros_like(predictions_n)

    @property
    def nearest(self) -> int:
        """The q of `top_coupling`: as given, at most all; otherwise min(20, reference / 20), at least 1."""
        return min(self.q, len(self.units)) if self.q else max(1, min(20, len(self.units) // 20))


@dataclass(frozen=True)
class SampleScores:
    """The scores of n samples: score (n,), leverage (n,), layer_scores (n, layers), and the largest influences."""

    score: Tensor
    leverage: Tensor
    layer_scores: Tensor
    top_indices: Tensor
    top_influence: Tensor

    def first(self, samples: int) -> "SampleScores":
        """Return the scores of the first samples only."""
        per_sample = self.score, self.leverage, self.layer_scores, self.top_indices, self.top_influence
        return SampleScores(*(values[:samples] for values in per_sample))


def log_leverage(whitened_nk: Tensor) -> Tensor:
    """Return the logarithm of the leverage |u|^2, float64, shape (n,): neither large nor small rows leave its range."""
    norms_n: Tensor = torch.linalg.vector_norm(whitened_nk, dim=1, dtype=torch.float64)
    return 2 * norms_n.clamp(min=torch.finfo(torch.float32).tiny).log()


def score(references: References, kind: ScoreKind, whitened_nk: Tensor, predictions_n: Tensor) -> SampleScores:
    """Compute anomaly scores from whitened rows (n, k) and predictions (n,); every sample is scored on its own.

    With layers `apart`, cosines are averaged over the layers in which the sample's row is not zero. Influence is u_i .
    u_j on whitened rows, before unit norms (see `madcore.curvature`); the 10 largest are returned, or as many as there
    are.
    """
    layout, whitened_norms_nl = references.layout, references.layout.layer_norms(whitened_nk)
    units_nk, norms_nl = _normed(whitened_nk, whitened_norms_nl, layout, references.layers)
    directions_dk, which_n = references.explanation(kind, units_nk, predictions_n)
    products_nk = units_nk * directions_dk.index_select(0, which_n)
    products_nl = torch.stack([block.sum(dim=1) for block in layout.blocks(products_nk)], dim=1)
    scores_n = -products_nl.sum(dim=1)
    if references.layers == "apart":
        scores_n = scores_n / (norms_nl > 0).sum(dim=1).clamp(min=1)
    if kind == "leverage":
        scores_n = (log_leverage(whitened_nk) - references.log_leverage_median).abs().to(whitened_nk)
    lengths_nl = (norms_nl * layout.layer_norms(directions_dk)[which_n]).to(products_nl)
    cosines_nl = torch.where(lengths_nl > 0, products_nl / lengths_nl.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    influence = whitened_nk @ references.whitened.T
    top = influence.topk(min(TOP_TRUSTED, influence.shape[1]), dim=1)
    leverage_n = whitened_norms_nl.square().sum(dim=1).to(whitened_nk)
    return SampleScores(scores_n, leverage_n, -cosines_nl, top.indices, top.values)
