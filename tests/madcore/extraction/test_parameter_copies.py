"""Copies of a parameter take its place, and the gradient of each is its sample's."""

import pytest
import torch
from torch import Tensor, nn

from madcore.extraction.parameter_copies import ParameterCopies, replaced, ways_to_copy
from madcore.formulas.matrices import Sides
from madcore.rows import Way

LAYOUTS: dict[str, tuple[tuple[int, ...], Way, tuple[int, ...]]] = {
    "token": ((1, 4, 3), "copies for the first axis", (5, 4, 3)),
    "matrix": ((4, 3), "copies", (5, 4, 3)),
    "before positions": ((3,), "copies before one axis", (5, 1, 3)),
    "before an image": ((3,), "copies before two axes", (5, 1, 1, 3)),
    "number": ((), "copies", (5,)),
}


def copies_of(module: nn.Module, name: str, way: Way, sides: Sides, place: slice) -> ParameterCopies:
    parameter = module.get_parameter(name)
    shape = (parameter.shape[0] if parameter.ndim else 1, parameter[0].numel() if parameter.ndim else 1)
    return ParameterCopies(parameter, [(module, name)], way, shape, sides, place)


@pytest.mark.parametrize(("shape", "way", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_copies_have_the_samples_first(shape: tuple[int, ...], way: Way, expected: tuple[int, ...]) -> None:
    module = nn.Module()
    module.own = nn.Parameter(torch.arange(float(torch.Size(shape).numel())).reshape(shape))
    copies = copies_of(module, "own", way, Sides(None, None), slice(0, 1)).copies(5)
    assert copies.shape == expected and copies.is_leaf and copies.requires_grad
    assert all(torch.equal(copy.flatten(), module.own.detach().flatten()) for copy in copies)


@pytest.mark.parametrize(
    ("shape", "ways"),
    [
        ((1, 4, 3), ("copies for the first axis",)),
        ((4, 3), ("copies",)),
        ((3,), ("copies before one axis", "copies", "copies before two axes")),
    ],
)
def test_likelier_layouts_come_first(shape: tuple[int, ...], ways: tuple[Way, ...]) -> None:
    assert ways_to_copy(nn.Parameter(torch.zeros(shape))) == ways


class Scaled(nn.Module):
    """Multiplies positions by a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 2) to the same."""
        return self.scale * x


def test_the_gradient_of_a_copy_is_its_samples() -> None:
    """Of scale * x it is the sum of x over positions; projected by (1, 10), and added to what is there."""
    module, x = Scaled(), torch.arange(12.0).reshape(2, 3, 2)
    own = copies_of(module, "scale", "copies before one axis", Sides(torch.tensor([[1.0, 10.0]]), None), slice(1, 2))
    rows = torch.ones(2, 3)
    with replaced([own], 2) as (copies,):
        assert module.scale is copies
        module(x).sum().backward()
        own.add(rows, copies)
    assert x.sum(dim=1).tolist() == [[6.0, 9.0], [24.0, 27.0]]
    assert rows.tolist() == [[1.0, 97.0, 1.0], [1.0, 295.0, 1.0]]


def test_copies_that_no_gradient_reached_add_nothing() -> None:
    module, rows = Scaled(), torch.ones(2, 2)
    own = copies_of(module, "scale", "copies", Sides(None, None), slice(0, 2))
    own.add(rows, own.copies(2))
    assert (rows == 1).all()


def test_modules_get_their_parameters_back_also_after_a_failure() -> None:
    module = Scaled()
    parameter = module.scale
    own = copies_of(module, "scale", "copies", Sides(None, None), slice(0, 2))
    with pytest.raises(RuntimeError, match="broken"), replaced([own], 2):
        raise RuntimeError("broken")
    assert module.scale is parameter and [name for name, _ in module.named_parameters()] == ["scale"]


def test_a_large_matrix_is_not_copied_for_every_sample() -> None:
    assert ways_to_copy(nn.Parameter(torch.zeros(1024, 1024))) == ("copies",)
    assert ways_to_copy(nn.Parameter(torch.zeros(1025, 1024))) == ()
    assert ways_to_copy(nn.Parameter(torch.zeros(1 << 21)))[0] == "copies before one axis"
