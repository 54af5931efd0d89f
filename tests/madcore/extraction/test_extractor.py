"""The extractor leaves the model as it was, whatever happens, and rejects what makes no sense."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madcore import (
    Layer,
    LayerError,
    Measured,
    ModelError,
    Projection,
    margin,
    per_sample_rows,
    row_layout,
    select_layers,
)
from madcore.extraction.extractor import RowExtractor
from tests.madcore.models import LAYER_CASES, batch_of, with_head
from tests.reference import autograd_rows


class MergesBatch(nn.Module):
    """Folds positions into the batch around a Linear, so that its input does not have the samples first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        return self.inner(x.reshape(-1, 6)).reshape(*x.shape[:2], 5)


def a_model() -> nn.Module:
    """A convolutional model of which one parameter is frozen and one has a gradient of its own."""
    case = LAYER_CASES["batchnorm2d"]
    model = with_head(case.body(), case.sample_shape)
    first, second, *_ = model.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    return model


def state(model: nn.Module) -> list[tuple[bool, bool, bool, int]]:
    """What a pass could leave behind: per parameter requires_grad and gradient, per module its mode and hooks."""
    parameters = [
        (p.requires_grad, p.grad is None, p.grad is None or bool((p.grad == 1).all()), 0) for p in model.parameters()
    ]
    modules = [
        (m.training, False, False, len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks))
        for m in model.modules()
    ]
    return parameters + modules


def test_the_model_is_left_as_found() -> None:
    model, batch = a_model(), batch_of(3, LAYER_CASES["batchnorm2d"].sample_shape)
    before, weights, inputs = state(model), {name: t.clone() for name, t in model.state_dict().items()}, batch.clone()
    assert per_sample_rows(model, batch).abs().sum() > 0
    assert state(model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(batch, inputs)


def broken_measurement(logits: Tensor) -> Tensor:
    """A measurement that fails."""
    raise ArithmeticError("no number")


FAILURES = {
    "measurement": (a_model, LAYER_CASES["batchnorm2d"].sample_shape, broken_measurement, ArithmeticError),
    "inputs": (a_model, (3, 4, 5), margin, RuntimeError),
    "merged batch": (lambda: with_head(MergesBatch(), (4, 6)), (4, 6), margin, LayerError),
}


@pytest.mark.parametrize(("build", "shape", "measurement", "error"), FAILURES.values(), ids=FAILURES.keys())
def test_the_model_is_left_as_found_after_a_failure(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    measurement: Callable[[Tensor], Tensor],
    error: type[Exception],
) -> None:
    model = build()
    before = state(model)
    with pytest.raises(error):
        per_sample_rows(model, batch_of(3, shape), measurement=measurement)
    assert state(model) == before


def test_an_input_without_the_samples_first_is_refused_with_both_numbers() -> None:
    model = with_head(MergesBatch(), (4, 6))
    with pytest.raises(
        LayerError, match=r"0\.inner\.weight: its input has 12 entries first, where the batch has 3 samples"
    ) as caught:
        per_sample_rows(model, batch_of(3, (4, 6)), layers=["0.inner"])
    assert list(caught.value.reasons) == ["0.inner.weight"]


def test_training_mode_is_refused() -> None:
    with pytest.raises(ModelError, match=r"training mode.*model\.eval\(\)"):
        per_sample_rows(with_head(nn.Linear(6, 5), (6,)).train(), batch_of(2, (6,)))


def test_no_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer"):
        RowExtractor(with_head(nn.Linear(6, 5), (6,)), [], Projection())


def test_a_parameter_without_a_formula_is_refused_by_name() -> None:
    model = with_head(nn.Sequential(nn.PReLU(6)), (6,))
    with pytest.raises(LayerError, match=r"0\.0\.weight: no per-sample formula for the parameter 'weight' of a PReLU"):
        RowExtractor(model, [Layer("0.0", "weight", (6, 1))], Projection())


def test_rows_follow_the_order_of_the_layers_given() -> None:
    case = LAYER_CASES["conv2d"]
    model, batch, projection = (
        with_head(case.body(), case.sample_shape),
        batch_of(2, case.sample_shape),
        Projection(rank=3),
    )
    layers = select_layers(model, parameters="all").covered[::-1]
    rows = RowExtractor(model, layers, projection)(Measured(batch, margin)).rows
    torch.testing.assert_close(rows, autograd_rows(model, layers, batch, projection), rtol=1e-10, atol=1e-10)


def test_the_layout_names_layers_and_counts_their_numbers() -> None:
    layout = row_layout(
        [Layer("a", "weight", (4, 30)), Layer("a", "bias", (4, 1)), Layer("", "weight", (50, 3))], Projection(rank=16)
    )
    assert layout.names == ("a.weight", "a.bias", "weight")
    assert layout.sizes == (4 * 16, 4, 16 * 3)


def test_per_sample_rows_takes_patterns_or_layers() -> None:
    case = LAYER_CASES["conv2d"]
    model, batch = with_head(case.body(), case.sample_shape), batch_of(2, case.sample_shape)
    chosen = select_layers(model, ["0.*", "!0.0"]).covered
    assert [layer.name for layer in chosen] == ["0.2.weight"]
    by_pattern = per_sample_rows(model, batch, layers=["0.*", "!0.0"])
    assert torch.equal(by_pattern, per_sample_rows(model, batch, layers=chosen))
    torch.testing.assert_close(
        by_pattern, autograd_rows(model, chosen, batch, Projection(rank=16, seed=0)), rtol=1e-10, atol=1e-10
    )


def test_a_submodule_in_training_mode_is_refused() -> None:
    model = with_head(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (6,))
    model[0][1].train()
    with pytest.raises(ModelError, match="training mode"):
        per_sample_rows(model, batch_of(4, (6,)))
