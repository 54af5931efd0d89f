"""Gradients of vectors: sums over positions by hand, and norms' scales and biases against autograd by sample."""

import pytest
import torch
from torch import Tensor, nn

from madcore.formulas.matrices import Sides
from madcore.formulas.norms import Axes, norm_formula, project_both
from tests.madcore.kinds import CentredLayerNorm, HouseLayerNorm, HouseRMSNorm, OnePlusRMSNorm

WHOLE = Sides(None, None)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_gradient_is_projected_on_both_sides() -> None:
    """By hand: P_0 adds both rows, P_1 takes twice the last column."""
    grads = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    p0, p1 = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0, 2.0]])
    assert torch.equal(project_both(grads, WHOLE), grads)
    assert project_both(grads, Sides(p0, None)).tolist() == [[[11.0, 22.0, 33.0]]]
    assert project_both(grads, Sides(None, p1)).tolist() == [[[6.0], [60.0]]]
    assert project_both(grads, Sides(p0, p1)).tolist() == [[[66.0]]]


def test_axes_sum_over_the_other_positions() -> None:
    outputs = torch.arange(24.0).reshape(2, 3, 4)
    assert Axes((3,), last=False).total(outputs).tolist() == [[[6.0], [22.0], [38.0]], [[54.0], [70.0], [86.0]]]
    assert Axes((4,), last=True).total(outputs)[0].flatten().tolist() == [12.0, 15.0, 18.0, 21.0]
    assert torch.equal(Axes((3, 4), last=True).total(outputs), outputs)
    assert Axes((3, 4, 5), last=True).sides == (3, 20)


NORMS = {
    "batchnorm": (nn.BatchNorm2d(4), (4, 3, 2)),
    "batchnorm without statistics": (nn.BatchNorm1d(4, track_running_stats=False), (4, 5)),
    "groupnorm": (nn.GroupNorm(2, 4, eps=0.1), (4, 3)),
    "instancenorm": (nn.InstanceNorm1d(4, affine=True), (4, 3)),
    "instancenorm with statistics": (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (4, 3)),
    "layernorm": (nn.LayerNorm(4, eps=0.1), (3, 4)),
    "layernorm over two axes": (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "rmsnorm": (nn.RMSNorm(4), (3, 4)),
    "rmsnorm of Llama": (HouseRMSNorm(4), (3, 4)),
    "rmsnorm of T5": (HouseLayerNorm(4), (3, 4)),
    "rmsnorm of Gemma": (OnePlusRMSNorm(4), (3, 4)),
    "layernorm of one's own": (CentredLayerNorm(4), (4,)),
}


@pytest.mark.parametrize(("module", "shape"), NORMS.values(), ids=NORMS)
def test_scales_and_biases_equal_autograd(module: nn.Module, shape: tuple[int, ...]) -> None:
    module, inputs, grads = module.double().eval(), normals(3, *shape), normals(3, *shape, seed=1)
    if getattr(module, "running_var", None) is not None:
        module.running_mean.copy_(normals(4, seed=2))
        module.running_var.copy_(normals(4, seed=3).exp())
    for name, parameter in module.named_parameters():
        formula = norm_formula(module, name)
        assert formula is not None
        rows = formula.row(formula.save(inputs, WHOLE), grads, WHOLE)
        for index in range(3):
            output = module(inputs)[index]  # of all samples: without statistics, the batch's own are used
            (expected,) = torch.autograd.grad(output, parameter, grads[index])
            torch.testing.assert_close(rows[index], expected.reshape(formula.shape), rtol=1e-10, atol=1e-12)


def test_other_modules_and_parameters_are_no_norms() -> None:
    assert norm_formula(nn.Linear(3, 3), "weight") is None
    assert norm_formula(nn.BatchNorm1d(3), "running_mean") is None
    assert norm_formula(nn.Identity(), "weight") is None
