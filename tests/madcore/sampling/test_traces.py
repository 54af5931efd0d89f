"""Covariances and concordances of traces equal loops over pairs and chains; autocorrelation times are as known."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from madcore import RowLayout
from madcore.sampling.langevin import Chain, Langevin
from madcore.sampling.traces import autocorrelation_time, centred, chain_means, concordance
from tests.reference import places
from tests.strategies import LAW, layouts, seeds

Floats = NDArray[np.float64]


SIGMAS = 5


def traces_of(seed: int, n: int, layout: RowLayout) -> Tensor:
    """Traces (n, k), float64, of various levels and scales; the last is constant."""
    rng = np.random.default_rng(seed)
    traces = rng.standard_normal((n, layout.k)) * rng.uniform(0.1, 3, (n, 1)) + rng.standard_normal((n, 1))
    traces[-1] = 0.1
    return torch.from_numpy(traces)


def concordances(one_nk: Tensor, other_mk: Tensor, layout: RowLayout) -> Tensor:
    """Of traces."""
    return concordance(
        centred(one_nk, layout),
        chain_means(one_nk, layout),
        centred(other_mk, layout),
        chain_means(other_mk, layout),
        layout,
    )


def covariance_twin(one_k: Floats, other_k: Floats, sizes: Sequence[int]) -> float:
    """A loop over chains."""
    return float(
        sum(((one_k[p] - one_k[p].mean()) * (other_k[p] - other_k[p].mean())).sum() for p in places(sizes)) / sum(sizes)
    )


def concordance_twin(one_k: Floats, other_k: Floats, sizes: Sequence[int]) -> float:
    """Lin's formula, with covariances within chains and the squared difference of means in them."""
    shift = sum(len(one_k[p]) * (one_k[p].mean() - other_k[p].mean()) ** 2 for p in places(sizes)) / sum(sizes)
    denominator = covariance_twin(one_k, one_k, sizes) + covariance_twin(other_k, other_k, sizes) + shift
    return float(2 * covariance_twin(one_k, other_k, sizes) / denominator) if denominator > 0 else 0.0


@LAW
@given(layouts, seeds, st.integers(1, 4), st.integers(1, 4))
def test_equal_loops_over_pairs_and_chains(layout: RowLayout, seed: int, n: int, m: int) -> None:
    one, other = traces_of(seed, n, layout), traces_of(seed + 1, m, layout)
    products, agreement = centred(one, layout) @ centred(other, layout).T, concordances(one, other, layout)
    assert products.shape == agreement.shape == (n, m) and chain_means(one, layout).shape == (n, len(layout.sizes))
    for i, a in enumerate(one.numpy()):
        for j, b in enumerate(other.numpy()):
            np.testing.assert_allclose(
                float(products[i, j]), covariance_twin(a, b, layout.sizes), rtol=1e-10, atol=1e-12
            )
            np.testing.assert_allclose(
                float(agreement[i, j]), concordance_twin(a, b, layout.sizes), rtol=1e-10, atol=1e-12
            )


@LAW
@given(layouts, seeds, st.integers(1, 5))
def test_concordance_is_symmetric_one_with_itself_and_at_most_one(layout: RowLayout, seed: int, n: int) -> None:
    traces, others = traces_of(seed, n, layout), traces_of(seed + 1, 3, layout)
    agreement = concordances(traces, traces, layout)
    varying = centred(traces, layout).square().sum(dim=1) > 1e-20
    torch.testing.assert_close(agreement, agreement.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        agreement.diagonal()[varying], torch.ones(int(varying.sum()), dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert concordances(traces, others, layout).abs().max() <= 1 + 1e-12


@LAW
@given(layouts, seeds, st.floats(0.1, 10))
def test_concordance_falls_with_a_shift_that_covariance_does_not_see(
    layout: RowLayout, seed: int, shift: float
) -> None:
    assume(max(layout.sizes) > 1)
    trace = traces_of(seed, 2, layout)[:1]
    torch.testing.assert_close(centred(trace + shift, layout), centred(trace, layout), rtol=0, atol=1e-12)
    variance = float(centred(trace, layout).square().sum())
    for shifted in (shift, 2 * shift):
        assert float(concordances(trace, trace + shifted, layout)) == pytest.approx(
            2 * variance / (2 * variance + shifted**2), rel=1e-9
        )


def test_constant_traces_that_agree_have_no_concordance() -> None:
    layout = RowLayout(("chain 0",), (3,))
    assert concordances(torch.full((2, 3), 0.1), torch.full((2, 3), 0.1), layout).tolist() == [[0, 0], [0, 0]]


def test_small_deviations_of_large_losses_survive_in_float32() -> None:
    """The mean is taken in float64: one of float32 would be off by as much as the deviations are."""
    layout = RowLayout(("chain 0",), (10_000,))
    traces = (1000 + torch.tensor([0.0, 1.0]).repeat(5000) * 2**-10).unsqueeze(0)
    assert centred(traces, layout).dtype == torch.float32
    assert float(centred(traces, layout).square().sum()) == pytest.approx(2.0**-22, rel=1e-5)


def autoregression(phi: float, draws: int, seed: int) -> Tensor:
    """A stationary x_t = phi x_(t-1) + N(0, 1), float64."""
    innovations = np.random.default_rng(seed).standard_normal(draws)
    series = np.empty(draws)
    last = series[0] = innovations[0] / (1 - phi * phi) ** 0.5
    for t in range(1, draws):
        last = series[t] = phi * last + innovations[t]
    return torch.from_numpy(series)


def relative_error(tau: float, draws: int) -> float:
    """The relative standard error of a time: sqrt(2 (2 M + 1) / t) of a window M = 5 tau (Sokal 1997, eq. 3.19)."""
    return float((2 * (2 * 5 * tau + 1) / draws) ** 0.5)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.95])
def test_the_time_of_an_autoregression(phi: float) -> None:
    """(1 + phi) / (1 - phi); what lies beyond five times that is below 1e-4 of it."""
    draws, tau = 400_000, (1 + phi) / (1 - phi)
    assert autocorrelation_time(autoregression(phi, draws, 0)) == pytest.approx(
        tau, rel=SIGMAS * relative_error(tau, draws)
    )


def test_the_paper_s_settings_have_the_time_that_the_method_says() -> None:
    """About 39 draws: step and gamma alone contract by 1 - step gamma / (2 eps_rms) = 0.95 a draw.

    There is no gradient; the mean is over 20 independent weights.
    """
    settings, draws, anchor = Langevin(), 8000, torch.zeros(20, dtype=torch.float64)
    normals, chain, kept = (
        torch.from_numpy(np.random.default_rng(0).standard_normal((draws, 20))),
        Chain.start(0, anchor),
        [],
    )
    for noise in normals:
        chain = settings.advanced(chain, anchor, torch.zeros_like(anchor), noise)
        kept.append(chain.weights)
    times = [autocorrelation_time(series) for series in torch.stack(kept, dim=1)]
    assert np.mean(times) == pytest.approx(39, rel=SIGMAS * relative_error(39, draws) / 20**0.5)


@LAW
@given(seeds, st.integers(4, 60), st.floats(-0.9, 0.95))
def test_equals_the_sum_written_out(seed: int, draws: int, phi: float) -> None:
    series = autoregression(phi, draws, seed)
    x = series.numpy() - series.numpy().mean()
    tau, lag = 1.0, 0
    while lag < 5 * tau:
        lag += 1
        tau += 2 * float((x[lag:] * x[:-lag]).sum() / (x * x).sum())
    assert autocorrelation_time(series) == pytest.approx(max(tau, 1.0), rel=1e-9)


@pytest.mark.parametrize(
    "series", [[0.1] * 100, [], [1.0, 5.0, 2.0], [1.0, -1.0] * 50], ids=["constant", "empty", "short", "alternating"]
)
def test_a_time_is_at_least_one(series: list[float]) -> None:
    assert autocorrelation_time(torch.tensor(series)) == 1.0
