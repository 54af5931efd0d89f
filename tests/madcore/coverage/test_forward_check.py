"""A model whose outputs are random, or depend on the other samples of a batch, is refused by the module's name."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore import Measured, ModelError, margin
from madcore.coverage.forward_check import check_forward_pass
from madcore.coverage.random_sources import EXTREMES, NUMPY, RandomSource, mersenne_words

PYTHON = RandomSource(
    random.getstate,
    random.setstate,
    {extreme: (3, (*mersenne_words(extreme), 0), None) for extreme in EXTREMES},
)


class Applies(nn.Module):
    """Applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to the same."""
        return self.function(x)


class Dropping(nn.Dropout):
    """Dropout that is never switched off."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to the same."""
        return F.dropout(x, self.p, training=True)


class OwnCode(nn.Module):
    """Applies a function between its layers, in its own code."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(6, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 3)."""
        return self.second(self.function(self.first(x)))


def seeded_noise(x: Tensor) -> Tensor:
    """Noise that is the same in each pass, for the place of a sample in its batch."""
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def seeded_projection(x: Tensor) -> Tensor:
    """A random map that is the same in each pass."""
    return x @ torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(0))


def drawn_in_vain(x: Tensor) -> Tensor:
    """Draws numbers and does not use them, as models do whose layers are skipped in training only."""
    in_vain = [torch.rand([]), torch.randperm(3)[0], torch.randint(9, []), random.random(), np.random.rand()]
    return x + 0 * sum(in_vain)


def skipping(kept: Callable[[], object]) -> Applies:
    """A module that is skipped unless it is kept."""
    return Applies(lambda x: x if kept() else 0 * x)


class Draws(nn.Module):
    """Skips now and then, as a generator that it holds says."""

    def __init__(self, generator: object, draw: Callable[[object], float], chance: float = 1e-5) -> None:
        super().__init__()
        self.held, self.draw, self.chance = {"generators": [generator]}, draw, chance

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to the same."""
        return x if self.draw(self.held["generators"][0]) >= self.chance else 0 * x


OWN_GENERATORS = {
    "torch's": (torch.Generator, lambda one: torch.rand([], generator=one).item()),
    "numpy's": (np.random.default_rng, lambda one: one.random()),
    "numpy's older one": (np.random.RandomState, lambda one: one.rand()),
    "Python's": (random.Random, lambda one: one.random()),
}


def check(model: nn.Module, samples: int = 4) -> None:
    """The check on samples (6,)."""
    inputs = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1))
    check_forward_pass(
        model.eval(), inputs.split(1), lambda some: Measured(torch.cat(list(some)), margin), (NUMPY, PYTHON)
    )


def between(module: nn.Module) -> nn.Module:
    """The module between two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), module, nn.Linear(5, 3))


IN_APPLIES = r"first in 1 \(Applies\)"

RARELY = {
    "a number": lambda: torch.rand([]) > 1e-5,
    "an integer": lambda: torch.randint(10**6, []) > 0,
    "integers in place": lambda: torch.zeros(1).random_(5, 10**6) > 5,
    "an order": lambda: torch.randperm(10**5)[0] > 0,
    "a choice": lambda: torch.multinomial(torch.tensor([0, 1e-6, 1, 0]), 1) > 1,
    "a waiting time": lambda: torch.empty(1).exponential_() < 20,
    "waiting in steps": lambda: torch.empty(1).geometric_(0.9) < 9,
    "a count": lambda: torch.poisson(torch.tensor([1e-6])) < 1,
    "successes": lambda: torch.binomial(torch.tensor([1.0]), torch.tensor([1e-6])) < 1,
    "a far number": lambda: torch.empty(1).cauchy_() < 1e6,
    "a number of any size": lambda: torch.empty(1).log_normal_() < 200,
    "the largest of several": lambda: F.gumbel_softmax(torch.tensor([10.0, 0.0]), hard=True)[0],
    "the largest of several, by numpy": lambda: (np.random.rand(2) * 1.0001 + [1, 0]).argmax() == 0,
    "Python": lambda: random.random() > 1e-5,
    "numpy": lambda: np.random.rand() > 1e-5,
}

RANDOM = {
    "rare dropout": (Dropping(1e-6), r"first in 1 \(Dropping\)"),
    "dropout": (Dropping(0.5), r"first in 1 \(Dropping\)"),
    "noise": (Applies(lambda x: x + 1e-4 * torch.randn_like(x)), IN_APPLIES),
    **{f"a rare skip by {name}": (skipping(kept), IN_APPLIES) for name, kept in RARELY.items()},
}


@pytest.mark.parametrize(("module", "where"), RANDOM.values(), ids=RANDOM.keys())
def test_what_is_random_is_refused_however_rarely_it_shows(module: nn.Module, where: str) -> None:
    model, states = between(module), (torch.get_rng_state(), random.getstate(), NUMPY.read())
    with pytest.raises(ModelError, match=rf"outputs are random: the same 4 samples, run again, .*{where}; in eval"):
        check(model)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), NUMPY.read()) == states[1:]


@pytest.mark.parametrize(("kind", "draw"), OWN_GENERATORS.values(), ids=OWN_GENERATORS.keys())
def test_generators_that_a_module_holds_are_seen_too(
    kind: Callable[[], object], draw: Callable[[object], float]
) -> None:
    generator, twin = kind(), kind()
    for one in (generator, twin):
        getattr(one, "manual_seed", getattr(one, "seed", lambda _: None))(1)
    with pytest.raises(ModelError, match=r"outputs are random: .* first in 1 \(Draws\); in eval"):
        check(between(Draws(generator, draw)))
    check(between(Draws(generator, draw, chance=-1)))
    if not isinstance(generator, np.random.Generator):
        assert draw(generator) == draw(twin)


def test_a_generator_is_left_as_found() -> None:
    model = between(Draws(np.random.default_rng(0), lambda one: one.random(), chance=-1))
    before = model[1].held["generators"][0]
    check(model)
    assert model[1].held["generators"][0] is before and before.random() == np.random.default_rng(0).random()


def test_what_a_models_own_code_draws_is_named_by_the_next_module() -> None:
    with pytest.raises(ModelError, match=r"first in the model's own code \(OwnCode\), before it calls second;"):
        check(OwnCode(lambda x: x + torch.rand_like(x)))


def finite_in_float32_alone(x: Tensor) -> Tensor:
    """As it is, by way of the largest number of its precision, rounded to float32."""
    largest = torch.tensor(torch.finfo(x.dtype).max).float().to(x.dtype)
    return x + 0 * largest


@pytest.mark.parametrize("function", [drawn_in_vain, seeded_projection, torch.tanh])
def test_numbers_that_are_not_used_or_always_the_same_are_no_randomness(function: Callable[[Tensor], Tensor]) -> None:
    check(between(Applies(function)))


MIXES = {
    "statistics of the batch": (
        nn.Sequential(nn.Unflatten(1, (5, 1)), nn.BatchNorm1d(5, track_running_stats=False), nn.Flatten()),
        r"runs 4 samples together and fails on one of them alone in 1\.1 \(BatchNorm1d\) \(Expected more",
    ),
    "a mean": (
        Applies(lambda x: x - 0.01 * x.mean(0)),
        r"change by [\d.e-]+ of the largest when .* 3 others, first in 1 ",
    ),
    "a mean, in a model that is not finite in float64": (
        Applies(lambda x: finite_in_float32_alone(x - 0.01 * x.mean(0))),
        r"depend on the other samples .* first in 1 \(Applies\)",
    ),
    "a reference": (Applies(lambda x: x - x[:1]), r"first in 1 \(Applies\)"),
    "a deviation, which one sample has not": (
        Applies(lambda x: (x - x.mean(0)) / ((x - x.mean(0)).square().sum(0) / (len(x) - 1)).sqrt()),
        r"alone 0 of its 3 outputs are finite, in company 3, first in 1 \(Applies\)",
    ),
    "seeded noise": (Applies(seeded_noise), r"first in 1 \(Applies\)"),
    "a squeeze": (Applies(torch.squeeze), r"alone its outputs have the shape \(3,\), in company \(4, 3\)"),
}


@pytest.mark.parametrize(("module", "found"), MIXES.values(), ids=MIXES.keys())
def test_what_mixes_the_samples_of_a_batch_is_refused(module: nn.Module, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        check(between(module))


@pytest.mark.parametrize("mask", [-torch.inf, torch.finfo().min, -1e9])
def test_a_class_that_is_masked_out_hides_no_mixing(mask: float) -> None:
    masks = Applies(lambda x: x.index_fill(1, torch.tensor([0]), mask))
    check(nn.Sequential(between(nn.Tanh()), masks))
    with pytest.raises(ModelError, match=r"outputs change by [\d.e-]+ of the largest .* first in 0\.1 \(Applies\)"):
        check(nn.Sequential(between(Applies(lambda x: x - 0.01 * x.mean(0))), masks))


def test_a_mean_over_the_batch_in_images_is_named() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(16, 3)
    )
    images = torch.randn(3, 3, 4, 4)
    with pytest.raises(ModelError, match=r"depend on the other samples .* first in 1 \(BatchNorm2d\); in eval mode"):
        check_forward_pass(model.eval(), images.split(1), lambda some: Measured(torch.cat(list(some)), margin))


def test_rounding_alone_is_decided_in_float64() -> None:
    """A difference of nearly equal numbers, which float32 rounds to noise."""
    check(between(Applies(lambda x: 1e6 * ((x + 1e4) - x.mean(1, keepdim=True) - 1e4) / 1e6)))


def test_a_pass_that_changes_a_parameter_is_refused() -> None:
    model = OwnCode(torch.tanh)
    model.second.bias.requires_grad_(False)
    model.function = lambda x: x + 0 * model.second.bias.add_(1).sum()
    with pytest.raises(ModelError, match=r"changes the parameter second\.bias in place"):
        check(model)


def test_one_sample_is_enough() -> None:
    check(between(nn.Tanh()), samples=1)
