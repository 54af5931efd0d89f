"""Rows of the estimator `loss_trace`: the losses of a sample at the kept draws of chains of weights around w*.

A row is the concatenation over chains of a sample's losses at that chain's draws; its `RowLayout` has a name and the
number of draws for each chain. That chains have different means says nothing about how two samples depend on the
weights, so each chain's own mean is subtracted.

Minus the covariance of two traces is the Bayesian influence function (Kreer et al. 2025, arXiv 2509.26544). With
weights of covariance `S = (n_beta H + gamma I)^-1` it is `g_i^T S g_j` to first order, which is 1/n_beta times the
influence damped by gamma/n_beta. That is exact for losses linear in w, and, with `1/2 tr(H_i S H_j S)` added, for
Gaussian weights and quadratic losses.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from madcore.rows import RowLayout
from madcore.scoring.coupling import class_means

WINDOW = 5
FEWEST_DRAWS = 4


def centred(traces_nk: Tensor, layout: RowLayout) -> Tensor:
    """Subtract each chain's own mean from traces (n, k), and divide by sqrt(k); the result is in their own precision.

    So an inner product of two rows is the covariance of two traces within chains, pooled over chains; a squared norm is
    a variance. Minus it is the Bayesian influence; to first order it is `g_i^T S g_j`, 1/n_beta times the influence
    damped by gamma/n_beta.
    """
    blocks = layout.blocks(traces_nk)
    deviations = [block.double() - block.mean(dim=1, keepdim=True, dtype=torch.float64) for block in blocks]
    return (torch.cat(deviations, dim=1) / math.sqrt(layout.k)).to(traces_nk)


def chain_means(traces_nk: Tensor, layout: RowLayout) -> Tensor:
    """Return the mean loss of each sample over each chain's draws, float64 (n, chains)."""
    return torch.stack([block.mean(dim=1, dtype=torch.float64) for block in layout.blocks(traces_nk)], dim=1)


def concordance(
    centred_nk: Tensor, means_nc: Tensor, others_mk: Tensor, other_means_mc: Tensor, layout: RowLayout
) -> Tensor:
    """Compute the concordance of each trace with each other one (Lin 1989), in [-1, 1].

    It is a correlation that is reduced where scale or level differ: `2 cov / (var_i + var_j + (mean_i - mean_j)^2)`,
    the last term a mean over chains, weighted by their draws.

    Args:
        centred_nk: n traces, centred by `centred`.
        means_nc: their `chain_means`.
        others_mk: m others, likewise.
        other_means_mc: theirs.
        layout: of the traces.

    Returns:
        (n, m) in the precision of the centred traces; 0 where the denominator is 0: both are constant, and equal.
    """
    ours_nk, others_mk = centred_nk.double(), others_mk.double()
    roots_c = (torch.tensor(layout.sizes, dtype=torch.float64, device=means_nc.device) / layout.k).sqrt()
    levels_nc, other_levels_mc = means_nc.double() * roots_c, other_means_mc.double() * roots_c
    distances_nm = torch.cdist(levels_nc, other_levels_mc, compute_mode="donot_use_mm_for_euclid_dist")
    variances_nm = ours_nk.square().sum(dim=1).unsqueeze(1) + others_mk.square().sum(dim=1)
    denominators_nm = variances_nm + distances_nm.square()
    concordances_nm = 2 * (ours_nk @ others_mk.T) / torch.where(denominators_nm > 0, denominators_nm, 1.0)
    return concordances_nm.to(centred_nk)


@dataclass(frozen=True)
class TraceReferences:
    """The reference part's traces, compared with others by their concordances; with `classes`, class by class."""

    layout: RowLayout
    centred: Tensor
    means: Tensor
    predictions: Tensor
    classes: int

    @classmethod
    def of(cls, layout: RowLayout, traces_mk: Tensor, predictions_m: Tensor, classes: int) -> "TraceReferences":
        """Prepare traces (m, k), m at least 1, with predicted classes (m,) int64; 0 classes compare with all traces."""
        return cls(layout, centred(traces_mk, layout), chain_means(traces_mk, layout), predictions_m, classes)

    def __call__(self, traces_nk: Tensor) -> Tensor:
        """Return how far the reference part explains traces (n, k), (n,).

        That is the mean of their concordances with it, or with the class for which this mean is largest. Classes with
        few samples are drawn towards the others (see `madcore.scoring.coupling.class_means`).
        """
        centred_nk, means_nc = centred(traces_nk, self.layout), chain_means(traces_nk, self.layout)
        values_nm = concordance(centred_nk, means_nc, self.centred, self.means, self.layout)
        if not self.classes:
            return values_nm.mean(dim=1)
        present_c = torch.bincount(self.predictions, minlength=self.classes) > 0
        return class_means(values_nm.T.contiguous(), self.predictions, self.classes)[present_c].amax(dim=0)


def autocorrelation_time(series_t: Tensor) -> float:
    """Estimate the integrated autocorrelation time tau = 1 + 2 (rho_1 + rho_2 + ...) of a chain's series, in draws.

    t draws are worth t / tau independent ones. The sum ends at the first lag that is at least 5 tau (Sokal 1997;
    Goodman & Weare 2010), beyond which the noise of rho would dominate. The time is 1 for a series that is constant or
    shorter than 4, and at least 1, so that an alternating chain is not credited with more draws than it has.
    """
    series_t = series_t.double()
    draws = len(series_t)
    if draws < FEWEST_DRAWS or bool(series_t.min() == series_t.max()):
        return 1.0
    spectrum = torch.fft.rfft(series_t - series_t.mean(), n=2 * draws)  # padded, so that the ends do not meet
    covariances_t = torch.fft.irfft(spectrum.abs().square(), n=2 * draws)[:draws]
    times_t = 2 * (covariances_t / covariances_t[0]).cumsum(dim=0) - 1
    # true at the last lag at the latest, where the time is 0
    long_enough_t = torch.arange(draws, device=series_t.device) >= WINDOW * times_t
    return max(1.0, float(times_t[long_enough_t][0]))
