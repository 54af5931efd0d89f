"""The shares that covered layers hold of a model's parameters, and of the gradient of samples."""

import math

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, select_layers
from madcore.coverage.shares import ParameterShare, Shares, measure_shares
from madcore.extraction.selection import parameters_of


class Scaled(nn.Module):
    """Scales its input, then maps it linearly: y = w (s x), of which d/ds = w x and d/dw = s x."""

    def __init__(self) -> None:
        super().__init__()
        self.s, self.map = nn.Parameter(torch.tensor([2.0])), nn.Linear(1, 1, bias=False)
        self.map.weight = nn.Parameter(torch.tensor([[3.0]]))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1) to the same."""
        return self.map(self.s * x)


def total(logits: Tensor) -> Tensor:
    """(n, 1) to (n,)."""
    return logits.sum(dim=1)


def samples(*numbers: float) -> list[Measured]:
    """One each."""
    return [Measured(torch.tensor([[number]]), total) for number in numbers]


def test_a_gradient_is_split_by_its_squared_norm() -> None:
    """Here each one's gradient is split as 9 to 4."""
    shares = measure_shares(Scaled(), ("*",), samples(1.0, 1e6, -1e-3))
    assert {name: one.numbers for name, one in shares.items()} == {"s": 1, "map.weight": 1}
    assert {name: one.gradient for name, one in shares.items()} == pytest.approx({"s": 9 / 13, "map.weight": 4 / 13})
    assert Shares.of(shares, ["map.weight"]) == Shares(0.5, pytest.approx(4 / 13))
    assert Shares.of(shares, ["s", "map.weight"]) == Shares(1.0, 1.0)


class Either(nn.Module):
    """Positive numbers go through one layer, the others through another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1) to the same."""
        return torch.where(x > 0, self.first(x), self.second(x))


def test_the_first_three_samples_with_a_finite_gradient_other_than_zero_count() -> None:
    shares = measure_shares(Either(), ("*",), samples(math.inf, 0.0, math.nan, 100.0, -0.1, 1.0, -1.0, -1.0))
    assert Shares.of(shares, ["first.weight"]).of_gradient == pytest.approx(2 / 3)


def test_a_long_gradient_does_not_outweigh_short_ones() -> None:
    shares = measure_shares(Either(), ("*",), samples(1e6, -1e-3, -1.0))
    assert {name: one.gradient for name, one in shares.items()} == pytest.approx(
        {"first.weight": 1 / 3, "second.weight": 2 / 3}
    )


def test_without_any_gradient_its_share_is_not_known() -> None:
    assert Shares.of(measure_shares(Scaled(), ("*",), samples(0.0)), ["s"]) == Shares(0.5, None)


def tied() -> nn.Module:
    """Parameters of 12, 4, 3 and 3 numbers; the first is a table and a head."""
    model = nn.Module()
    model.table, model.norm = nn.Embedding(4, 3), nn.BatchNorm1d(2)
    model.inner, model.head = nn.Linear(3, 1, bias=False), nn.Linear(3, 4, bias=False)
    model.head.weight = model.table.weight
    return model


def test_a_tied_parameter_counts_once_and_belongs_to_each_module_that_holds_it() -> None:
    assert parameters_of(tied(), ["*"]) == ("table.weight", "norm.weight", "norm.bias", "inner.weight")
    assert parameters_of(tied(), ["head"]) == ("table.weight",)
    assert parameters_of(tied(), ["!table", "!head"]) == ("norm.weight", "norm.bias", "inner.weight")


def test_the_denominator_has_biases_and_norms_of_the_chosen_modules_and_nothing_of_others() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    batches = [Measured(torch.ones(1, 3), total)]
    for patterns, numbers in ((("*",), 16 + 8 + 10), (("0", "1"), 16 + 8)):
        shares = measure_shares(model, patterns, batches)
        covered = [layer.name for layer in select_layers(model, [patterns[0]]).covered]
        assert Shares.of(shares, covered).of_parameters == sum(shares[name].numbers for name in covered) / numbers
        assert sum(one.gradient for one in shares.values()) == pytest.approx(1.0)


def test_the_model_is_left_as_found() -> None:
    model = Scaled().requires_grad_(False)
    model.s.grad = torch.ones(1)
    measure_shares(model, ("*",), samples(1.0))
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False]
    assert torch.equal(model.s.grad, torch.ones(1)) and model.map.weight.grad is None


def test_a_share_is_never_above_one() -> None:
    thirds = {name: ParameterShare(1, 1 / 3) for name in "abc"}
    assert Shares.of(thirds, "abc") == Shares(1.0, 1.0)
