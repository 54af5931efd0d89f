"""Measurements of several labels, and of numbers."""

import numpy as np
import pytest
import torch

from madcore import Measured, ModelError
from madcore.many_outputs import LabelMargin, OutputSum

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -0.25, -2.0], [4.0, 5.0, 6.0]])


def test_a_sample_is_measured_by_the_margins_of_its_predicted_labels_or_of_its_likeliest() -> None:
    odds = torch.logit(LOGITS.double().sigmoid())
    expected = torch.stack([-(odds[0, 0] + odds[0, 2]), odds[1, 1], -odds[2].sum()])
    torch.testing.assert_close(LabelMargin()(LOGITS).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_chosen_labels_have_the_margins_of_their_decisions_whatever_is_predicted(label: int) -> None:
    """Of two classes with logits 0 and z."""
    z = LOGITS[:, label]
    two = torch.stack([torch.zeros_like(z), z], dim=1).log_softmax(dim=1)
    expected = two.amin(dim=1) - two.amax(dim=1)
    torch.testing.assert_close(LabelMargin((label,))(LOGITS), expected)
    both = LabelMargin((label, 1))(LOGITS)
    torch.testing.assert_close(both, expected - LOGITS[:, 1].abs())


def test_the_gradient_of_the_sum_is_the_sum_of_the_gradients() -> None:
    logits = LOGITS.clone().requires_grad_()
    (all_own,) = torch.autograd.grad(LabelMargin()(logits).sum(), logits)
    apart = [torch.autograd.grad(LabelMargin((label,))(logits)[0], logits)[0] for label in (0, 2)]
    torch.testing.assert_close(all_own[0], (apart[0] + apart[1])[0])


def test_one_output_is_measured_as_it_is() -> None:
    outputs = torch.tensor([[1.5], [-2.0]])
    assert OutputSum(7)(outputs).tolist() == [1.5, -2.0]


def test_of_several_outputs_inner_products_are_kept_in_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 5, 30, generator=generator, dtype=torch.float64)  # gradients of 5 outputs each
    exact = float((left * right).sum())
    signs = torch.stack([OutputSum(seed).signs(5) for seed in range(20000)]).double()
    products = torch.einsum("sd,dp,ep,se->s", signs, left, right, signs)
    error = float(products.std()) / np.sqrt(len(products))
    assert abs(float(products.mean()) - exact) < 4 * error
    assert float(products.std()) > 0


def test_signs_follow_from_the_seed_and_more_outputs_change_none() -> None:
    assert OutputSum(3).signs(8)[:5].tolist() == OutputSum(3).signs(5).tolist()
    assert OutputSum(3).signs(64).tolist() != OutputSum(4).signs(64).tolist()
    assert set(OutputSum(3).signs(64).tolist()) == {-1.0, 1.0}


def test_chosen_outputs_count_alone() -> None:
    first, second = OutputSum(1, (1,))(LOGITS), OutputSum(1, (0,))(LOGITS)
    assert torch.equal(first.abs(), LOGITS[:, 1].abs())
    assert torch.equal(OutputSum(1, (0, 1))(LOGITS), first + second)


@pytest.mark.parametrize("measurement", [LabelMargin((3,)), OutputSum(0, (3,))])
def test_an_output_that_is_not_there_is_named(measurement: LabelMargin | OutputSum) -> None:
    with pytest.raises(ModelError, match=r"no output 3: the model has 3, counted from 0; .* estimator\.measured"):
        measurement(LOGITS)
    with pytest.raises(ModelError, match=r"the model returned shape \(3,\)"):
        measurement(LOGITS[:, 0])


@pytest.mark.parametrize("measurement", [LabelMargin(), OutputSum()])
def test_batches_can_be_measured_in_parts(measurement: LabelMargin | OutputSum) -> None:
    batch = Measured(LOGITS.repeat(8, 1), measurement)
    whole = measurement(LOGITS.repeat(8, 1))
    parts = torch.cat(
        [part.measurement(part.inputs) for _, part in batch.parts(8) if isinstance(part.inputs, torch.Tensor)]
    )
    assert len(batch.parts(8)) == 3 and torch.equal(parts, whole)
