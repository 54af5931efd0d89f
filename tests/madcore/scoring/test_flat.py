"""Which rows and traces are flat: nets whose outputs saturate, and healthy ones of any confidence."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, Projection, RowExtractor, RowLayout, gauss_newton_rows, margin, select_layers
from madcore.scoring.flat import flat_rows, flat_traces, margin_sizes, weights_norm

SAMPLES, FEATURES, CLASSES = 24, 12, 5


class Net(nn.Module):
    """Two layers, and a function of their logits."""

    def __init__(self, head: Callable[[Tensor], Tensor]):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layers(inputs))


def found(head: Callable[[Tensor], Tensor], precision: torch.dtype = torch.float32) -> list[bool]:
    """Which of some samples of growing logits are flat."""
    model = Net(head).eval()
    layers = select_layers(model, ["*"]).covered
    scales = torch.logspace(-1, 2.5, SAMPLES).unsqueeze(1)
    inputs = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(1)) * scales
    computed = RowExtractor(model, layers, Projection(8))(Measured(inputs, margin), precision)
    eps, sizes = torch.finfo(computed.outputs.dtype).eps, margin_sizes(computed.outputs.float())
    norms = torch.linalg.vector_norm(computed.rows, dim=1, dtype=torch.float64)
    flat: list[bool] = flat_rows(norms, sizes, weights_norm(model, layers), eps**0.5).tolist()
    return flat


HEALTHY: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "large logits": lambda logits: 100 * logits,
    "small logits": lambda logits: 1e-6 * logits,
    "log-probabilities": lambda logits: logits.log_softmax(dim=1),
    "probabilities of an unsure model": lambda logits: (logits / 200).softmax(dim=1),
    "logits of a large offset": lambda logits: logits + 1e6,
    "a class that is masked out": lambda logits: logits.index_fill(1, torch.tensor([2]), torch.finfo().min),
}


@pytest.mark.parametrize("head", HEALTHY.values(), ids=HEALTHY.keys())
def test_no_row_of_logits_is_flat_however_confident(head: Callable[[Tensor], Tensor]) -> None:
    assert not any(found(head))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_nor_in_half_precision(precision: torch.dtype) -> None:
    assert not any(found(HEALTHY["logits"], precision))


def test_rows_of_certain_probabilities_are_flat_before_they_are_zero() -> None:
    """The last samples have probabilities of 1; what is left of their rows are rounding errors."""
    flat = found(lambda logits: logits.softmax(dim=1))
    assert not any(flat[:8]) and all(flat[-4:])
    assert not any(found(lambda logits: logits.softmax(dim=1).clamp(min=1e-38).log())[:-4])


SATURATED: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda logits: 0 * logits,
    "constant, not zero": lambda logits: 0 * logits + torch.arange(float(CLASSES)),
    "clamped": lambda logits: nn.functional.hardtanh(1e6 * logits),
    "beside a large constant": lambda logits: 1000 * torch.arange(float(CLASSES)) + 1e-6 * logits,
}


@pytest.mark.parametrize("head", SATURATED.values(), ids=SATURATED.keys())
def test_rows_of_outputs_that_do_not_depend_on_the_weights_are_flat(head: Callable[[Tensor], Tensor]) -> None:
    assert all(found(head))


@pytest.mark.parametrize("head", SATURATED.values(), ids=SATURATED.keys())
def test_samples_without_a_gradient_have_no_fisher_information(head: Callable[[Tensor], Tensor]) -> None:
    """So it falsifies no curvature of the loss that they are among those that it is made of."""
    inputs, rows = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(1)), list[Tensor]()
    for one in (head, HEALTHY["logits"]):
        model = Net(one).eval()
        extractor = RowExtractor(model, select_layers(model).covered, Projection(8))
        rows.append(gauss_newton_rows(extractor, inputs, CLASSES))
    assert rows[0].norm() < 1e-5 * rows[1].norm()


def test_a_row_that_is_zero_in_some_layers_is_not_flat() -> None:
    """The first layer's units are all off for a negative input; the last layer's bias is not."""
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).eval()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    layers = select_layers(model, ["*"], "all").covered
    rows = RowExtractor(model, layers, Projection())(Measured(torch.tensor([[-1.0], [2.0]]), margin)).rows
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    assert (rows[0] == 0).any()
    assert flat_rows(norms, torch.ones(2), weights_norm(model, layers), 1e-3).tolist() == [False, False]


def test_layers_whose_weights_are_zero_have_flat_rows_where_these_are_zero() -> None:
    norms = torch.tensor([0.0, 1e-9], dtype=torch.float64)
    assert flat_rows(norms, torch.tensor([5.0, 5.0]), 0.0, 1e-3).tolist() == [True, False]


def test_traces_are_flat_where_they_are_constant_in_every_chain() -> None:
    layout = RowLayout(("chain 0", "chain 1"), (3, 2))
    traces = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [0.5, 0.5 + 6e-8, 0.5, 0.7, 0.7],
            [0.5, 0.5, 0.5, 0.7, 0.71],
            [1e-20, 2e-20, 1e-20, 0.0, 0.0],
        ]
    )
    assert flat_traces(traces, layout).tolist() == [True, True, False, False]
