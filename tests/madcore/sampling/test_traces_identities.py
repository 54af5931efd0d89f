"""What theory says exactly of losses over sampled weights, in a design of draws that has the moments of a Gaussian."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore import RowLayout
from madcore.sampling.langevin import flat_weights, place_weights
from madcore.sampling.traces import centred

CLASSES = 3


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def gaussian_design(covariance: Tensor) -> Tensor:
    """Draws (6^d, d) of equal weight whose moments up to the fifth are those of N(0, covariance).

    They are Gauss-Hermite's three nodes along each axis.
    """
    nodes = torch.tensor([-(3**0.5), 0, 0, 0, 0, 3**0.5], dtype=torch.float64)
    factor: Tensor = torch.linalg.cholesky(covariance)
    return torch.cartesian_prod(*[nodes] * len(covariance)) @ factor.T


def positive(seed: int, d: int) -> Tensor:
    """A random positive definite matrix (d, d)."""
    factor = normal(seed, d, d + 2)
    return factor @ factor.T / d


def covariances(traces_nk: Tensor) -> Tensor:
    """(n, n), of traces over one chain."""
    rows = centred(traces_nk, RowLayout(("chain 0",), (traces_nk.shape[1],)))
    return rows @ rows.T


N_BETA, GAMMA, D = 5.0, 2.0, 4


@pytest.mark.parametrize("seed", range(3))
def test_losses_covary_as_the_method_says(seed: int) -> None:
    """Exactly, as the draws' moments are Gaussian up to the fourth, which is as far as covariances of quadratics go."""
    metric = torch.linalg.inv(N_BETA * positive(seed, D) + GAMMA * torch.eye(D, dtype=torch.float64))
    draws_kd, gradients, hessians = gaussian_design(metric), normal(seed + 1, 3, D), normal(seed + 2, 3, D, D)
    hessians = hessians + hessians.mT
    linear, quadratic = gradients @ draws_kd.T, torch.einsum("kd,nde,ke->nk", draws_kd, hessians, draws_kd)
    first, traced = (
        gradients @ metric @ gradients.T,
        torch.einsum("iab,bc,jcd,da->ij", hessians, metric, hessians, metric),
    )
    torch.testing.assert_close(covariances(1 + linear), first, rtol=0, atol=1e-12)
    found = covariances(1 + linear + quadratic / 2)
    torch.testing.assert_close(found, first + traced / 2, rtol=0, atol=1e-12)
    for wrong in (first, first + traced):
        assert (found - wrong).abs().max() > 0.01, "the trace term is needed, and so is its factor"


def test_to_first_order_covariance_is_the_damped_influence() -> None:
    """1/n_beta times the influence on the curvature of the sampling loss, damped by gamma/n_beta."""
    hessian, gradients = positive(0, D), normal(1, 3, D)
    identity = torch.eye(D, dtype=torch.float64)
    metric = torch.linalg.inv(N_BETA * hessian + GAMMA * identity)
    influence = gradients @ torch.linalg.solve(hessian + GAMMA / N_BETA * identity, gradients.T)
    torch.testing.assert_close(
        covariances(gradients @ gaussian_design(metric).T), influence / N_BETA, rtol=0, atol=1e-12
    )


def test_correlations_of_traces_tend_to_cosines_of_gradients_as_the_noise_shrinks() -> None:
    """In the metric of the draws, which have exactly that second moment.

    The remainder is the losses' curvature, of first order in sigma.
    """
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double().eval(), normal(0, 6, 3)
    place_weights(model, normal(1, 31))
    weights, labels = flat_weights(model), model(inputs).argmax(dim=1)
    normals = normal(2, 300, 31)
    normals = normals - normals.mean(dim=0)
    whitener: Tensor = torch.linalg.inv(torch.linalg.cholesky(normals.T @ normals / 300))
    metric = positive(3, 31)
    directions = normals @ whitener.T @ torch.linalg.cholesky(metric).T

    def losses(at: Tensor) -> Tensor:
        place_weights(model, at)
        return F.cross_entropy(model(inputs), labels, reduction="none")

    gradients = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])
            for loss in losses(weights)
        ]
    )
    cosines = correlations(gradients @ metric @ gradients.T)
    largest = []
    for sigma in [0.02 / 2**halving for halving in range(6)]:
        traces = torch.stack([losses(weights + sigma * direction).detach() for direction in directions], dim=1)
        largest.append(float((correlations(covariances(traces)) - cosines).abs().max()))
    for before, after in pairwise(largest[2:]):
        assert after / before == pytest.approx(0.5, abs=0.1)


def correlations(covariances_nn: Tensor) -> Tensor:
    """(n, n), of covariances or inner products."""
    deviations = covariances_nn.diagonal().sqrt()
    return covariances_nn / deviations.outer(deviations)
