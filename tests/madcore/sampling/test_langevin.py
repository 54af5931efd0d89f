"""The sampler equals its formula, and its stationary distribution is the one that theory has for a quadratic loss.

Statistical bounds are five standard errors, each derived where it is used, so that no seed needs to be chosen.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from madcore import ModelError
from madcore.sampling.langevin import (
    Chain,
    DivergedError,
    Langevin,
    Preconditioner,
    SamplingSet,
    check_loss,
    draw,
    flat_weights,
    minibatch,
    noise,
    place_weights,
)
from tests.strategies import LAW, seeds

SIGMAS = 5


CLASSES = 3


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def stepped(
    settings: Langevin, weights: list[float], anchor: list[float], steps: Sequence[tuple[list[float], list[float]]]
) -> list[float]:
    """The slow twin: the formula written out, a weight at a time, for (gradient, noise) of several steps."""
    ended = []
    for p, (weight, home) in enumerate(zip(weights, anchor, strict=True)):
        w, second_moment = weight, 0.0
        for gradient, normals in steps:
            g = gradient[p]
            second_moment = settings.alpha * second_moment + (1 - settings.alpha) * g * g
            scale = 1 / (math.sqrt(second_moment) + settings.eps_rms) if settings.preconditioner == "rmsprop" else 1.0
            drift = settings.step / 2 * scale * (settings.n_beta * g + settings.gamma * (w - home))
            w = w - drift + math.sqrt(settings.step * scale) * normals[p]
        ended.append(w)
    return ended


@LAW
@given(seeds, st.sampled_from(["rmsprop", "none"]), st.integers(1, 6), st.integers(1, 5))
def test_steps_equal_the_formula_written_out(
    seed: int, preconditioner: Preconditioner, weights: int, steps: int
) -> None:
    settings = Langevin(preconditioner, gamma=3.0, n_beta=7.0, step=0.1, alpha=0.8, eps_rms=0.2)
    anchor, start, gradients, normals = (
        normal(seed, weights),
        normal(seed + 1, weights),
        normal(seed + 2, steps, weights),
        normal(seed + 3, steps, weights),
    )
    chain = Chain(2, start, torch.zeros_like(start), 0)
    for gradient, normals_p in zip(gradients, normals, strict=True):
        chain = settings.advanced(chain, anchor, gradient, normals_p)
    expected = stepped(
        settings, start.tolist(), anchor.tolist(), list(zip(gradients.tolist(), normals.tolist(), strict=True))
    )
    np.testing.assert_allclose(chain.weights.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert (chain.number, chain.steps) == (2, steps)


class Regression(nn.Linear):
    """`replicas` linear regressions of the same samples, each with its own weights (d,): independent chains at once."""

    def __init__(self, inputs_nd: Tensor, targets_n: Tensor, replicas: int):
        super().__init__(inputs_nd.shape[1], replicas, bias=False, dtype=torch.float64)
        self.inputs, self.targets = inputs_nd, targets_n

    def losses(self, indices: Tensor) -> Tensor:
        """Half the squared error, summed over replicas: its mean has the Hessian mean x x^T in each."""
        errors: Tensor = self(self.inputs[indices]) - self.targets[indices, None]
        return 0.5 * errors.square().sum(dim=1)


def test_the_stationary_distribution_of_a_quadratic_loss_is_the_gaussian_of_the_method() -> None:
    """Covariance (n_beta H + gamma I)^-1, per eigenvector over 1 - step l / 4, which is exact for the discrete chain.

    In the eigenbasis, weights are independent first-order autoregressions, a = 1 - step l / 2. So the mean over N draws
    of a product of two has a variance of v_i v_j (1 + delta_ij) tau_ij / N, tau_ij = (1 + a_i a_j) / (1 - a_i a_j).
    """
    replicas, d, steps = 100, 3, 1500
    inputs_nd, targets_n = normal(0, 8, d), normal(1, 8)
    model = Regression(inputs_nd, targets_n, replicas).eval()
    settings = Langevin("none", gamma=2.0, n_beta=5.0, step=0.1)
    optimum = torch.linalg.lstsq(inputs_nd, targets_n.unsqueeze(1)).solution[:, 0]
    anchor = optimum.repeat(replicas)
    precisions, basis = torch.linalg.eigh(
        settings.n_beta * inputs_nd.T @ inputs_nd / 8 + settings.gamma * torch.eye(d, dtype=torch.float64)
    )
    contractions = 1 - settings.step * precisions / 2
    assert 0.1 < float(contractions.abs().max()) < 0.95 and float(settings.step * precisions.max()) > 0.5

    chain, kept = Chain.start(0, anchor), []
    for step in range(steps + 500):
        chain, _ = draw(model, settings, chain, anchor, SamplingSet(model.losses, 8))
        if step >= 500:  # after which less than 0.95^500 = 1e-11 is left of the start
            kept.append((chain.weights - anchor).view(replicas, d) @ basis)
    draws_nd = torch.cat(kept)

    exact = torch.diag(1 / precisions / (1 - settings.step * precisions / 4))
    products = contractions.outer(contractions)
    variances = exact.diagonal().outer(exact.diagonal()) * (1 + torch.eye(d, dtype=torch.float64))
    errors = (variances * (1 + products) / (1 - products) / len(draws_nd)).sqrt()
    found = draws_nd.T @ draws_nd / len(draws_nd)
    assert (found - exact).abs().lt(SIGMAS * errors).all()
    assert (found - torch.diag(1 / precisions)).abs().gt(SIGMAS * errors).any(), (
        "the step is large enough for its bias to be seen"
    )
    mean_errors = (exact.diagonal() * (1 + contractions) / (1 - contractions) / len(draws_nd)).sqrt()
    assert draws_nd.mean(dim=0).abs().lt(SIGMAS * mean_errors).all()


class Classifier(nn.Module):
    """A small classifier with BatchNorm, a frozen layer, a weight used twice and one never used; 20 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, CLASSES))
        self.unused, self.scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
        self.same_scale = self.scale
        self.inputs, self.labels = normal(0, 20, 5).float(), torch.arange(20) % CLASSES

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) to (n, 3)."""
        logits: Tensor = self.scale * self.body(x) * self.same_scale
        return logits

    def losses(self, indices: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(self.inputs[indices]), self.labels[indices], reduction="none")


@pytest.fixture
def classifier() -> Classifier:
    """In eval mode, its second Linear frozen, with weights from a seed."""
    model = Classifier().eval()
    place_weights(model, 0.5 * normal(1, flat_weights(model).numel()).float())
    model.body[3].requires_grad_(False)
    return model


SETTINGS = Langevin(gamma=100.0, n_beta=10.0, step=1e-3, batch=8)


def drawn(model: Classifier, settings: Langevin, chain: Chain, anchor: Tensor, draws: int) -> tuple[Chain, list[float]]:
    """A chain after some more draws, and their losses."""
    losses = []
    for _ in range(draws):
        chain, loss = draw(model, settings, chain, anchor, SamplingSet(model.losses, len(model.inputs)))
        losses.append(loss)
    return chain, losses


@pytest.mark.parametrize("preconditioner", ["rmsprop", "none"])
def test_a_draw_steps_by_the_gradient_of_its_minibatch(classifier: Classifier, preconditioner: Preconditioner) -> None:
    settings = Langevin(preconditioner, gamma=100.0, n_beta=10.0, step=1e-3, batch=8, seed=4)
    anchor = flat_weights(classifier)
    before, _ = drawn(classifier, settings, Chain.start(1, anchor), anchor, 3)
    after, loss = draw(classifier, settings, before, anchor, SamplingSet(classifier.losses, 20))
    assert torch.equal(flat_weights(classifier), after.weights)

    place_weights(classifier, before.weights)
    classifier.requires_grad_(True)
    mean = classifier.losses(minibatch(4, 1, 3, 20, 8)).mean()
    mean.backward()
    gradient = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in classifier.parameters()]
    )
    expected = settings.advanced(before, anchor, gradient, noise(4, 1, 3, anchor))
    assert loss == float(mean.detach()) and after.steps == expected.steps == 4
    torch.testing.assert_close(after.weights, expected.weights)
    torch.testing.assert_close(after.second_moment, expected.second_moment)
    assert bool(after.second_moment.any()) == (preconditioner == "rmsprop")


def test_a_chain_comes_again_bit_for_bit_also_when_it_is_resumed(classifier: Classifier) -> None:
    anchor = flat_weights(classifier)
    whole, losses = drawn(classifier, SETTINGS, Chain.start(0, anchor), anchor, 8)
    half, first = drawn(classifier, SETTINGS, Chain.start(0, anchor), anchor, 5)
    place_weights(classifier, torch.zeros_like(anchor))  # a resumed chain finds another model
    resumed, second = drawn(
        classifier,
        SETTINGS,
        Chain(half.number, half.weights.clone(), half.second_moment.clone(), half.steps),
        anchor,
        3,
    )
    assert torch.equal(whole.weights, resumed.weights) and torch.equal(whole.second_moment, resumed.second_moment)
    assert losses == first + second
    others = [(SETTINGS, 1), (Langevin(gamma=100.0, n_beta=10.0, step=1e-3, batch=8, seed=1), 0)]
    for settings, number in others:
        assert not torch.equal(
            whole.weights, drawn(classifier, settings, Chain.start(number, anchor), anchor, 8)[0].weights
        )


def test_a_draw_leaves_all_but_the_weights_as_found(classifier: Classifier) -> None:
    anchor = flat_weights(classifier)
    required, buffers = (
        [p.requires_grad for p in classifier.parameters()],
        {name: b.clone() for name, b in classifier.named_buffers()},
    )
    with torch.no_grad():
        chain, _ = drawn(classifier, SETTINGS, Chain.start(0, anchor), anchor, 3)
    assert not torch.equal(chain.weights, anchor)
    assert [p.requires_grad for p in classifier.parameters()] == required and False in required
    assert all(p.grad is None for p in classifier.parameters())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in classifier.named_buffers())


def test_flat_weights_are_those_of_the_model_tied_ones_once(classifier: Classifier) -> None:
    weights = flat_weights(classifier)
    assert len(weights) == 5 * 6 + 6 + 6 + 6 + 6 * 6 + 6 + 6 * CLASSES + CLASSES + 2 + 1
    assert torch.equal(weights, torch.cat([parameter.flatten() for _, parameter in classifier.named_parameters()]))
    place_weights(classifier, torch.arange(len(weights)).float())
    assert classifier.unused.tolist() == [0, 1] and classifier.same_scale.tolist() == [2]
    assert not torch.equal(weights, flat_weights(classifier)), "a copy, not a view"


def test_weights_in_half_precision_are_sampled_in_float32() -> None:
    model = nn.Linear(3, 2).bfloat16().eval()
    anchor = flat_weights(model)
    clean = SamplingSet(lambda indices: model(torch.ones(len(indices), 3).bfloat16()).square().sum(dim=1), 4)
    chain, _ = draw(model, SETTINGS, Chain.start(0, anchor), anchor, clean)
    assert chain.weights.dtype == torch.float32 and torch.equal(flat_weights(model), chain.weights.bfloat16().float())


def test_a_model_that_does_not_fit_is_refused(classifier: Classifier) -> None:
    anchor = flat_weights(classifier)
    with pytest.raises(
        ModelError, match=r"the model has 114 weights and is given 113: give it weights of the same architecture"
    ):
        place_weights(classifier, anchor[1:])
    with pytest.raises(ModelError, match="the losses do not depend on the model's weights"):
        draw(
            classifier,
            SETTINGS,
            Chain.start(0, anchor),
            anchor,
            SamplingSet(lambda indices: torch.ones(len(indices)), 20),
        )
    classifier.body[1].train()
    with pytest.raises(ModelError, match=r"training mode.*call model.eval\(\) first"):
        draw(classifier, SETTINGS, Chain.start(0, anchor), anchor, SamplingSet(classifier.losses, 20))


@LAW
@given(seeds, st.integers(0, 3), st.integers(0, 10_000), st.integers(1, 50), st.integers(1, 60))
def test_minibatches_are_keyed_and_without_replacement(
    seed: int, chain: int, step: int, samples: int, batch: int
) -> None:
    indices = minibatch(seed, chain, step, samples, batch)
    assert indices.dtype == torch.int64 and indices.device.type == "cpu"
    assert torch.equal(indices, minibatch(seed, chain, step, samples, batch))
    assert len(set(indices.tolist())) == len(indices) == min(batch, samples) and set(indices.tolist()) <= set(
        range(samples)
    )
    if batch >= samples:
        assert indices.tolist() == list(range(samples))


def test_other_keys_have_other_minibatches_and_noise() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 11, 0), (0, 0, 11)]
    assert len({tuple(minibatch(*key, 1000, 100).tolist()) for key in keys}) == len(keys)
    assert len({tuple(noise(*key, torch.zeros(5)).tolist()) for key in keys}) == len(keys)


def test_minibatches_are_uniform_in_the_long_run() -> None:
    """Each sample is in T b / n of T minibatches, with binomial variance; each pair in T b (b - 1) / (n (n - 1))."""
    steps, samples, batch = 4000, 10, 4
    member = torch.stack(
        [F.one_hot(minibatch(0, 0, step, samples, batch), samples).sum(dim=0) for step in range(steps)]
    ).double()
    together = member.T @ member / steps
    alone, pair = batch / samples, batch * (batch - 1) / (samples * (samples - 1))
    expected = torch.full_like(together, pair).fill_diagonal_(alone)
    assert (together - expected).abs().lt(SIGMAS * (expected * (1 - expected) / steps).sqrt()).all()


@pytest.mark.parametrize(("samples", "batch"), [(0, 4), (4, 0)])
def test_an_empty_minibatch_is_refused(samples: int, batch: int) -> None:
    with pytest.raises(ValueError, match=rf"a minibatch of {batch} of {samples} samples is empty"):
        minibatch(0, 0, 0, samples, batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_standard_normal_and_comes_again(dtype: torch.dtype) -> None:
    count = 100_000
    like = torch.zeros(count, dtype=dtype)
    numbers = noise(3, 1, 7, like)
    assert numbers.dtype == dtype and torch.equal(numbers, noise(3, 1, 7, like))
    numbers, following = numbers.double(), noise(3, 1, 8, like).double()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float(numbers.pow(power).mean()) - moment) < SIGMAS * (variance / count) ** 0.5
    assert abs(float((numbers * following).mean())) < SIGMAS / count**0.5


Losses = Callable[[Tensor], Tensor]


def constant(loss: float) -> Callable[[nn.Linear], Losses]:
    """Losses of this size that do not depend on the inputs, with a gradient of 0."""
    return lambda model: lambda indices: loss + 0 * model.weight.sum().expand(len(indices))


def steep(model: nn.Linear) -> Losses:
    """Losses whose gradient is finite, and its square is not."""
    return lambda indices: 1e25 * model.weight.sum().expand(len(indices))


REMEDY = r"To stay near them, lower `step` \(now {step}\) or `n_beta` \(now 100\), or raise `gamma` \(now 10000\)$"


DIVERGED: dict[str, tuple[float, Callable[[nn.Linear], Losses], str]] = {
    "a huge step": (
        1e30,
        lambda model: lambda indices: model(torch.ones(len(indices), 3)).square().sum(dim=1),
        r"draw 2 .*: its minibatch has a loss of inf\. ",
    ),
    "weights beyond float32": (
        1e38,
        constant(0.5),
        r"draw 1 .*: after a minibatch with a loss of 0\.5, its weights or their second moment are not finite\. ",
    ),
    "a loss that is not a number": (
        1e-6,
        constant(math.nan),
        r"draw 1 of chain 3 has left the trained weights: its minibatch has a loss of nan\. ",
    ),
    "a second moment beyond float32": (
        1e-6,
        steep,
        r"draw 1 .*: after a minibatch with a loss of 1e\+25, its weights or their second moment are not finite\. ",
    ),
}


@pytest.mark.parametrize(("step", "losses", "message"), DIVERGED.values(), ids=DIVERGED.keys())
def test_a_chain_that_diverges_says_where_and_what_to_change(
    step: float, losses: Callable[[nn.Linear], Losses], message: str
) -> None:
    model = nn.Linear(3, 1, bias=False).eval()
    place_weights(model, torch.full((3,), 1 / 3))
    anchor = flat_weights(model)
    chains = [Chain.start(3, anchor)]

    def sample() -> None:
        for _ in range(5):
            chains.append(draw(model, Langevin(step=step), chains[-1], anchor, SamplingSet(losses(model), 4))[0])

    with pytest.raises(DivergedError, match=message) as caught:
        sample()
    assert caught.match(REMEDY.format(step=f"{step:g}".replace("+", r"\+")))
    assert torch.equal(flat_weights(model), chains[-1].weights), "the weights before"


def test_a_loss_above_guessing_is_divergence() -> None:
    chain, guessing = Chain(1, torch.zeros(2), torch.zeros(2), 250), math.log(10)
    for fine in (0.0, 2.1, guessing):
        check_loss(Langevin(), chain, fine, guessing)
    where = "draw 250 of chain 1 has left the trained weights: "
    what = r"its probe has a loss of 3\.5, more than the 2\.30259 of guessing\. "
    with pytest.raises(DivergedError, match=where + what + REMEDY.format(step="1e-06")):
        check_loss(Langevin(), chain, 3.5, guessing)
    with pytest.raises(DivergedError, match="a loss of nan"):
        check_loss(Langevin(), chain, math.nan, guessing)
