"""The margin equals its identity with the confidence, and keeps its gradient where the confidence rounds to 1."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from madcore import ModelError, margin
from madcore.measurements import predictions_and_confidence
from tests.strategies import LAW, seeds


def logits_of(seed: int, n: int, classes: int, spread: float) -> Tensor:
    """Gaussian logits (n, C), float64."""
    return spread * torch.randn(n, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@LAW
@given(seeds, st.integers(0, 4), st.integers(2, 6), st.floats(0.1, 4))
def test_margin_is_minus_the_log_odds_of_the_prediction(seed: int, n: int, classes: int, spread: float) -> None:
    logits = logits_of(seed, n, classes, spread)
    p = torch.softmax(logits, dim=1).amax(dim=1)
    torch.testing.assert_close(margin(logits), -torch.log(p / (1 - p)), rtol=1e-7, atol=1e-7)


@LAW
@given(seeds, st.integers(2, 6), st.floats(0.1, 4))
def test_its_gradient_is_that_of_cross_entropy_without_the_factor(seed: int, classes: int, spread: float) -> None:
    logits = logits_of(seed, 3, classes, spread).requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum")
    (expected,) = torch.autograd.grad(loss, logits)
    (gradient,) = torch.autograd.grad(margin(logits).sum(), logits)
    missing = 1 - torch.softmax(logits.detach(), dim=1).amax(dim=1, keepdim=True)
    torch.testing.assert_close(gradient * missing, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("confident", [50.0, 1e4, 1e30])
def test_the_gradient_survives_where_the_confidence_rounds_to_one(confident: float) -> None:
    logits = torch.tensor([[0.0, confident, 1.0, -1.0]], requires_grad=True)
    assert float(1 - torch.softmax(logits.detach(), dim=1).amax()) == 0.0
    (gradient,) = torch.autograd.grad(margin(logits).sum(), logits)
    others = torch.softmax(torch.tensor([0.0, 1.0, -1.0]), dim=0)
    torch.testing.assert_close(
        gradient[0], torch.stack([others[0], torch.tensor(-1.0), others[1], others[2]]), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 4), (3, 0), ()], ids=str)
def test_outputs_that_are_no_logits_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"at least 2 classes; the model returned") as caught:
        margin(torch.zeros(shape))
    assert str(tuple(shape)) in str(caught.value)


@LAW
@given(seeds, st.integers(0, 4), st.integers(1, 6), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_predictions_and_confidence(seed: int, n: int, classes: int, dtype: torch.dtype) -> None:
    logits = logits_of(seed, n, classes, 2.0).to(dtype)
    predictions, confidence = predictions_and_confidence(logits)
    assert predictions.dtype == torch.int64 and confidence.dtype == torch.float32
    for row, predicted, sure in zip(logits.double(), predictions, confidence, strict=True):
        assert row[predicted] == row.max()
        assert abs(float(sure) - float(row.max().exp() / row.exp().sum())) < 1e-6
