"""Whole models: the self-check covers every parameter in the expected way, and rows equal autograd's in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from madcore import LayerError, Measured, RowExtractor, check_layers, margin, select_layers
from tests.madcore.checks import ABOVE, BELOW, covered
from tests.madcore.models import LayerCase, batch_of, with_head
from tests.madcore.zoo import BY_FALLBACK, ZOO, Checkpointed, Recurrent, VisionTransformer, recurrent
from tests.reference import autograd_rows

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:None of the inputs have requires_grad"
    ),  # of reentrant checkpoints, before the pass is tried another way
    pytest.mark.filterwarnings(
        "ignore:There is a performance drop"
    ),  # of modules that vmap has no rule for, before they go one by one
]


CASES = {**ZOO, **{name: case for name, (case, _) in BY_FALLBACK.items()}}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_parameter_is_covered_and_rows_equal_autograd(case: LayerCase) -> None:
    model = with_head(case.body(), case.sample_shape)
    coverage = covered(model, case)
    assert not coverage.not_covered
    assert [layer.name for layer in coverage.covered] == [name for name, _ in model.named_parameters()]
    for projection in (BELOW, ABOVE):
        extractor = RowExtractor(model, coverage.covered, projection)
        for n in (1, 5):
            batch = batch_of(n, case.sample_shape)
            expected = autograd_rows(model, coverage.covered, batch, projection)
            torch.testing.assert_close(extractor(Measured(batch, margin)).rows, expected, rtol=1e-10, atol=1e-10)
        assert extractor(Measured(batch_of(0, case.sample_shape), margin)).rows.shape == (0, extractor.layout.k)


@pytest.mark.parametrize(("case", "names"), BY_FALLBACK.values(), ids=BY_FALLBACK.keys())
def test_the_fallback_takes_what_has_no_cheaper_way(case: LayerCase, names: tuple[str, ...]) -> None:
    assert covered(with_head(case.body(), case.sample_shape), case).fallback == names


@pytest.mark.parametrize("case", ZOO.values(), ids=ZOO.keys())
def test_nothing_else_needs_the_fallback(case: LayerCase) -> None:
    assert covered(with_head(case.body(), case.sample_shape), case).fallback == ()


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["by saved tensors", "reentrant"])
def test_checkpointed_blocks_alone_are_not_counted_twice(use_reentrant: bool) -> None:
    model, batch = with_head(Checkpointed(use_reentrant), (3, 6)), batch_of(3, (3, 6))
    layers = select_layers(model, ["0.blocks.*"], "all").covered
    rows = RowExtractor(model, layers, BELOW)(Measured(batch, margin)).rows
    torch.testing.assert_close(rows, autograd_rows(model, layers, batch, BELOW), rtol=1e-10, atol=1e-10)


def test_matrices_of_a_vision_transformer_are_its_linear_maps() -> None:
    model = with_head(VisionTransformer(), (2, 4, 4))
    matrices = {
        name
        for name in dict(model.named_parameters())
        if name.endswith(("weight", "in_proj_weight")) and "norm" not in name
    }
    coverage = select_layers(model)
    assert {layer.name for layer in coverage.covered} == matrices
    assert set(coverage.not_covered) == {"0.token", "0.positions"}
    assert "with parameters `all` it can be covered" in coverage.not_covered["0.token"]


class HoldsMatrix(nn.Module):
    """Multiplies by a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., 6) to (n, ..., 5)."""
        return torch.tanh(x @ self.w)


class Cells(nn.Module):
    """A recurrent cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, 4)."""
        state = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


WITHOUT_FORMULA = {
    "held directly": (LayerCase(HoldsMatrix, (6,)), ("0.w",)),
    "held directly, with positions": (LayerCase(HoldsMatrix, (4, 6)), ("0.w",)),
    "parametrised": (LayerCase(lambda: weight_norm(nn.Linear(6, 5)), (6,)), ("0.parametrizations.weight.original1",)),
    "a cell": (LayerCase(Cells, (3, 6)), ("0.cell.weight_ih", "0.cell.weight_hh")),
    "an LSTM": (LayerCase(lambda: Recurrent(nn.LSTM), (4, 6)), recurrent("weight_ih", "weight_hh")),
}


@pytest.mark.parametrize(("case", "names"), WITHOUT_FORMULA.values(), ids=WITHOUT_FORMULA.keys())
def test_matrices_without_a_formula_are_covered_by_default(case: LayerCase, names: tuple[str, ...]) -> None:
    model = with_head(case.body(), case.sample_shape)
    selected, samples = select_layers(model), batch_of(3, case.sample_shape, seed=5).split(1)
    layers = check_layers(model, selected, samples, lambda few: Measured(torch.cat(list(few)), margin), BELOW).covered
    assert [layer.name for layer in layers] == [*names, "2.weight"]
    batch = batch_of(5, case.sample_shape)
    rows = RowExtractor(model, layers, BELOW)(Measured(batch, margin)).rows
    torch.testing.assert_close(rows, autograd_rows(model, layers, batch, BELOW), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_model_is_left_as_found(case: LayerCase) -> None:
    model = with_head(case.body(), case.sample_shape)
    parameters, attributes = (
        [(id(p), p.requires_grad, p.grad) for p in model.parameters()],
        [set(vars(module)) for module in model.modules()],
    )
    covered(model, case)
    assert [(id(p), p.requires_grad, p.grad) for p in model.parameters()] == parameters
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class UsesTable(nn.Module):
    """A custom module, with an argument that has positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 5))

    def forward(self, x: Tensor, mixing: Tensor) -> Tensor:
        """(n, s, 6) and (s, s) to (n, s, 5)."""
        return torch.einsum("ts,nsd,do->nto", mixing, x, self.weight)


class PassesTable(nn.Module):
    """Mixes positions by a table of (s, s)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = UsesTable()

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        return self.inner(x, torch.arange(16.0, dtype=x.dtype).reshape(4, 4))


def test_the_fallback_refuses_to_take_positions_for_samples() -> None:
    case = LayerCase(PassesTable, (4, 6))
    model = with_head(case.body(), case.sample_shape)
    coverage = covered(model, case)
    assert coverage.fallback == ("0.inner.weight",)
    extractor = RowExtractor(model, coverage.covered, BELOW)
    assert extractor(Measured(batch_of(5, (4, 6)), margin)).rows.shape[0] == 5
    with pytest.raises(
        LayerError, match=r"0\.inner\.weight: its module's output for each sample alone is not the one for all together"
    ):
        extractor(Measured(batch_of(4, (4, 6)), margin))


@pytest.mark.parametrize("name", ["vision transformer", "checkpointed", "torch's transformer", "mixture"])
def test_a_lower_precision_gives_nearly_the_same_rows(name: str) -> None:
    case = CASES[name]
    model, batch = with_head(case.body(), case.sample_shape), batch_of(4, case.sample_shape)
    layers = covered(model, case).covered
    extractor, measured = RowExtractor(model.float(), layers, BELOW), Measured(batch.float(), margin)
    low, full = extractor(measured, torch.bfloat16).rows, extractor(measured).rows
    assert low.dtype == torch.float32 and not torch.equal(low, full)
    assert torch.cosine_similarity(low, full, dim=1).min() > 0.98


class SharedBias(nn.Module):
    """Makes one matrix of a learned table for all samples, as attention's relative positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(7, 2))

    def forward(self) -> Tensor:
        """(1, 4, 4, 2)."""
        places = torch.arange(4)
        return torch.tanh(self.table[places.unsqueeze(1) - places + 3]).unsqueeze(0)


class AddsShared(nn.Module):
    """Mixes positions by a matrix that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.bias = nn.Linear(6, 2), SharedBias()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 6) to (n, 4, 2)."""
        return torch.tanh(torch.einsum("ntso,nso->nto", self.bias().expand(len(x), -1, -1, -1), self.inner(x)))


def test_what_all_samples_share_is_covered() -> None:
    case = LayerCase(AddsShared, (4, 6))
    model, batch = with_head(case.body(), case.sample_shape), batch_of(5, case.sample_shape)
    coverage = covered(model, case)
    assert (coverage.fallback, coverage.not_covered) == (("0.bias.table",), {})
    rows = RowExtractor(model, coverage.covered, BELOW)(Measured(batch, margin)).rows
    torch.testing.assert_close(rows, autograd_rows(model, coverage.covered, batch, BELOW), rtol=1e-10, atol=1e-10)
