"""Rows equal a loop over single samples with autograd, in float64, for every layer kind, setting and use."""

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, Projection, check_layers, margin, select_layers
from madcore.extraction.extractor import RowExtractor
from tests.madcore.checks import ABOVE, BELOW, RANKS, assert_equals_autograd, hooked_rows
from tests.madcore.models import IN_PLACE_CASES, LAYER_CASES, LayerCase, ReusesInput, Twice, batch_of, with_head
from tests.reference import autograd_rows

OTHERS = {
    "gaussian": Projection(rank=2, seed=3, kind="gaussian"),
    "hashed": Projection(rank=3, seed=3, sketch=4),
    "hashed to one number": Projection(rank=100, seed=3, sketch=1),
}


@RANKS
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("case", LAYER_CASES.values(), ids=LAYER_CASES.keys())
def test_rows_equal_autograd(case: LayerCase, n: int, projection: Projection) -> None:
    assert_equals_autograd(with_head(case.body(), case.sample_shape), batch_of(n, case.sample_shape), projection)


@pytest.mark.parametrize("projection", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("case", ["linear (n, s, d)", "conv2d groups", "batchnorm2d"])
def test_rows_of_other_projections_equal_autograd(case: str, projection: Projection) -> None:
    assert_equals_autograd(
        with_head(LAYER_CASES[case].body(), LAYER_CASES[case].sample_shape),
        batch_of(3, LAYER_CASES[case].sample_shape),
        projection,
    )


TAKE_EMPTY_BATCHES = {
    name: case for name, case in LAYER_CASES.items() if not name.startswith("instancenorm")
}  # torch's own refuses them


@RANKS
@pytest.mark.parametrize("case", TAKE_EMPTY_BATCHES.values(), ids=TAKE_EMPTY_BATCHES.keys())
def test_an_empty_batch_has_no_rows(case: LayerCase, projection: Projection) -> None:
    model = with_head(case.body(), case.sample_shape)
    k = hooked_rows(model, batch_of(1, case.sample_shape), projection).shape[1]
    assert hooked_rows(model, batch_of(0, case.sample_shape), projection).shape == (0, k)


@RANKS
@pytest.mark.parametrize("case", IN_PLACE_CASES.values(), ids=IN_PLACE_CASES.keys())
def test_in_place_activations(case: LayerCase, projection: Projection) -> None:
    assert_equals_autograd(with_head(case.body(), case.sample_shape), batch_of(3, case.sample_shape), projection)


@RANKS
def test_an_input_changed_in_place_later_is_the_input_that_was_seen(projection: Projection) -> None:
    model = with_head(ReusesInput(torch.Tensor.mul_), (6,))
    twin = with_head(ReusesInput(torch.mul), (6,))
    twin.load_state_dict(model.state_dict())
    assert_equals_autograd(model, batch_of(3, (6,)), projection, twin)


class CountsOnItsOrder(nn.Module):
    """Views a convolution's output as vectors, which memory laid out channels last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) to (n, 4 (h - 2) (w - 2))."""
        hidden = torch.tanh(self.conv(x))
        return hidden.view(hidden.shape[0], -1)


class ChecksItsOrder(CountsOnItsOrder):
    """Says itself that it relies on the order, as code around a kernel of its own does."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) to (n, 4 (h - 2) (w - 2))."""
        assert x.is_contiguous(), "a view size is not compatible"
        return super().forward(x)


@RANKS
@pytest.mark.parametrize("body", [CountsOnItsOrder, ChecksItsOrder])
def test_a_model_that_counts_on_the_order_of_its_memory(body: type[CountsOnItsOrder], projection: Projection) -> None:
    model, batch = with_head(body(), (2, 5, 4)), batch_of(3, (2, 5, 4))
    with pytest.raises((RuntimeError, AssertionError), match="view size is not compatible"):
        model(batch.contiguous(memory_format=torch.channels_last))
    assert_equals_autograd(model, batch, projection)
    extractor = RowExtractor(model, select_layers(model).covered, projection)
    assert torch.equal(extractor(Measured(batch, margin)).rows, extractor(Measured(batch, margin)).rows)


@RANKS
def test_a_module_used_twice_accumulates(projection: Projection) -> None:
    assert_equals_autograd(with_head(Twice(), (2, 5)), batch_of(3, (2, 5)), projection)


@pytest.mark.parametrize("case", LAYER_CASES.values(), ids=LAYER_CASES.keys())
def test_a_row_does_not_depend_on_its_neighbours(case: LayerCase) -> None:
    model = with_head(case.body(), case.sample_shape)
    batch, strangers = batch_of(3, case.sample_shape), 1000 * batch_of(2, case.sample_shape, seed=9)
    alone = torch.cat([hooked_rows(model, sample, BELOW) for sample in batch.split(1)])
    torch.testing.assert_close(
        hooked_rows(model, torch.cat([strangers, batch.flip(0)]), BELOW)[2:].flip(0), alone, rtol=1e-12, atol=1e-12
    )


def test_an_input_that_requires_grad_has_the_same_rows() -> None:
    model, batch = with_head(nn.Linear(6, 5), (6,)), batch_of(3, (6,))
    torch.testing.assert_close(
        hooked_rows(model, batch.clone().requires_grad_(), ABOVE), hooked_rows(model, batch, ABOVE), rtol=0, atol=0
    )


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.enable_grad], ids=["no_grad", "enable_grad"])
def test_gradient_mode_outside_does_not_matter(surrounding: type[torch.no_grad]) -> None:
    model, batch = with_head(nn.Linear(6, 5), (6,)), batch_of(3, (6,))
    with surrounding():
        rows = hooked_rows(model, batch, ABOVE)
    torch.testing.assert_close(
        rows, autograd_rows(model, select_layers(model, parameters="all").covered, batch, ABOVE), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
def test_a_lower_precision_gives_nearly_the_same_rows(precision: torch.dtype) -> None:
    case = LAYER_CASES["conv2d same"]
    model, batch = with_head(case.body(), case.sample_shape).float(), batch_of(4, case.sample_shape).float()
    extractor = RowExtractor(model, select_layers(model).covered, BELOW)
    measured = Measured(batch, margin)
    low, full = extractor(measured, precision).rows, extractor(measured).rows
    assert low.dtype == torch.float32
    assert not torch.equal(low, full)
    assert torch.cosine_similarity(low, full, dim=1).min() > 0.99


def test_outputs_are_the_models_own() -> None:
    """Up to the order in which a convolution sums."""
    case = LAYER_CASES["batchnorm2d"]
    model, batch = with_head(case.body(), case.sample_shape), batch_of(4, case.sample_shape)
    outputs = RowExtractor(model, select_layers(model).covered, BELOW)(Measured(batch, margin)).outputs
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, model(batch).detach(), rtol=1e-12, atol=1e-12)


class NormedPatches(nn.Module):
    """Normalizes images and takes their places for tokens, as models do that begin with convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm, self.inner = nn.Linear(2, 2), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, h, w) to (n, 5)."""
        return self.inner(self.norm(self.before(x)).flatten(2).transpose(1, 2)).tanh().mean(1)


def test_a_sample_alone_has_the_rows_that_it_has_in_company_where_torch_misreads_the_gradient_of_a_norm() -> None:
    model, batch = with_head(NormedPatches(), (4, 2, 2)), batch_of(3, (4, 2, 2))
    together = hooked_rows(model, batch, ABOVE)
    for place in range(3):
        torch.testing.assert_close(
            hooked_rows(model, batch[place : place + 1], ABOVE), together[place : place + 1], rtol=1e-10, atol=1e-10
        )
    selected = select_layers(model, parameters="all")
    checked = check_layers(model, selected, batch.split(1), lambda some: Measured(torch.cat(list(some)), margin), ABOVE)
    assert not checked.not_covered
    assert len(checked.covered) == 8
