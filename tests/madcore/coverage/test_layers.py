"""The self-check finds every layer whose hooked rows are not autograd's, says why, and keeps the others."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, ModelError, Projection, RowExtractor, check_layers, margin, select_layers
from madcore.extraction.selection import Coverage
from tests.madcore.extraction.test_extractor import MergesBatch
from tests.madcore.models import IN_PLACE_CASES, LAYER_CASES, LayerCase, batch_of, with_head
from tests.madcore.zoo import Attends, Tied
from tests.reference import autograd_rows

PROJECTION = Projection(rank=4, seed=1)


class TiedByHand(Tied):
    """One of the two calls no module."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 6)."""
        return torch.tanh(self.own(torch.tanh(self.first(x)))) @ self.second.weight.T


class Unused(nn.Module):
    """Holds a layer that its forward pass does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        return self.used(x)


class Mapped(nn.Module):
    """Adds a linear map of a learned vector, which has no samples at all."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.vector, self.of_vector, self.of_input = nn.Parameter(torch.ones(*shape)), nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        return self.of_input(x) + self.of_vector(self.vector).reshape(-1, 5).sum(dim=0)


class SamplesSecond(nn.Module):
    """Runs a Linear with positions first, as sequence models with `batch_first=False` do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class SharesOfAll(nn.Module):
    """Multiplies by the sum of a router's shares, one whatever the router's weight, of which copies do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = nn.Linear(64, 64), nn.Parameter(torch.arange(192.0).cos().reshape(3, 64))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 64) to the same."""
        shares = nn.functional.linear(x, self.weight).sigmoid()
        return self.inner(x) * (shares / shares.sum(dim=1, keepdim=True)).sum(dim=1, keepdim=True)


class ShapeError(Exception):
    """What a library raises that checks shapes, and that no model in use meets."""


class ChecksShapes(nn.Module):
    """Adds a learned table (4, 6), having checked its shape, with an error of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.inner = nn.Parameter(torch.arange(24.0).reshape(4, 6)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 6) to (n, 4, 5)."""
        if self.rows.ndim != 2:
            raise ShapeError(f"expected a table, got shape {tuple(self.rows.shape)}")
        return self.inner(x + self.rows)


class Doubled(nn.Linear):
    """A Linear by type whose forward pass is another."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        return super().forward(2 * x)


class Flattening(nn.Linear):
    """A Linear whose output has samples and positions in one dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n * s, 5)."""
        return super().forward(x).flatten(0, 1)


class MergesOutput(nn.Module):
    """Splits what its layer has merged."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Flattening(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        return self.inner(x).unflatten(0, x.shape[:2])


class Chosen(nn.Module):
    """Maps those samples linearly whose first number is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to the same."""
        (chosen,) = torch.where(x[:, 0] > 0)
        return x.index_add(0, chosen, self.inner(x[chosen])) if len(chosen) else x


class Gated(nn.Module):
    """A part that not every sample reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Chosen()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to the same."""
        return torch.tanh(self.gate(x))


class Frozen(nn.Module):
    """Features without gradient, then a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.layer = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 4)."""
        with torch.no_grad():
            features = self.features(x)
        return self.layer(features)


class MixesSamples(nn.Module):
    """Subtracts the batch's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        x = self.inner(x)
        return x - x.mean(dim=0, keepdim=True)


@dataclass(frozen=True)
class Gap:
    """A body, its input, the parameter below it that rows do not cover, and the reason."""

    body: Callable[[], nn.Module]
    sample_shape: tuple[int, ...]
    missing: tuple[str, ...]
    reason: str


GAPS = {
    "tied to one that is used otherwise": Gap(
        TiedByHand, (6,), ("0.first.weight",), r"autograd's by [\d.]+ of its norm; it is tied to 0\.second\.weight$"
    ),
    "unused": Gap(Unused, (6,), ("0.unused.weight",), "takes no part in the forward pass"),
    "mapped without a module": Gap(
        lambda: Mapped(1, 6),
        (6,),
        ("0.vector",),
        r"a table and no weight matrix, because it has shape \(1, 6\); with parameters `all` it can be covered",
    ),
    "no gradient": Gap(Frozen, (6,), ("0.features.weight",), "runs it with gradients switched off"),
}


def checked(model: nn.Module, batch: Tensor) -> Coverage:
    """What remains of the model's matrices."""
    return check(model, select_layers(model), batch)


def check(model: nn.Module, selected: Coverage, batch: Tensor) -> Coverage:
    """The self-check of the margin on the samples of a batch."""
    return check_layers(
        model, selected, batch.split(1), lambda samples: Measured(torch.cat(list(samples)), margin), PROJECTION
    )


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS.keys())
def test_what_differs_is_not_covered_and_the_rest_is(gap: Gap) -> None:
    model = with_head(gap.body(), gap.sample_shape).float()
    selected = select_layers(model)
    coverage = checked(model, batch_of(3, gap.sample_shape).float())
    assert tuple(coverage.not_covered) == gap.missing
    assert [layer.name for layer in coverage.covered] == [
        layer.name for layer in selected.covered if layer.name not in gap.missing
    ]
    for reason in coverage.not_covered.values():
        assert re.search(gap.reason, reason)


SOUND = {**LAYER_CASES, **IN_PLACE_CASES}


@pytest.mark.parametrize("case", SOUND.values(), ids=SOUND.keys())
def test_a_sound_model_is_covered_whole_in_float32(case: LayerCase) -> None:
    model = with_head(case.body(), case.sample_shape).float()
    selected = select_layers(model, parameters="all")
    coverage = check(model, selected, batch_of(2, case.sample_shape).float())
    assert coverage == selected


def test_another_forward_pass_than_its_kinds_is_covered_by_the_fallback() -> None:
    model = with_head(Doubled(6, 5), (6,))
    assert checked(model, batch_of(3, (6,))).fallback == ("0.weight",)


@pytest.mark.parametrize("shape", [(6,), (2, 6)], ids=["a vector", "some vectors"])
def test_a_linear_map_of_what_has_no_samples_is_covered_by_the_module_around_it(shape: tuple[int, ...]) -> None:
    model = with_head(Mapped(*shape), (6,))
    layer = next(layer for layer in checked(model, batch_of(3, (6,))).covered if layer.name == "0.of_vector.weight")
    assert (layer.way, layer.levels, layer.rerun) == ("fallback", 1, "0")


def test_a_layer_that_some_samples_do_not_reach_has_rows_of_zeros_there() -> None:
    model, batch = with_head(Gated(), (6,)), batch_of(4, (6,))
    batch[:, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    coverage = checked(model, batch)
    assert coverage.fallback == ("0.gate.inner.weight",)
    rows = RowExtractor(model, coverage.covered[:1], PROJECTION)(Measured(batch, margin)).rows
    assert rows.any(dim=1).tolist() == [True, False, True, False]


class MappedPositions(nn.Module):
    """Maps a table of positions linearly before it is added, for all samples at once."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.of_input = nn.Embedding(9, 6), nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        return torch.tanh(self.of_input(x) + self.inner(self.table(torch.arange(x.shape[1]))))


class PositionsBeforeAttention(nn.Module):
    """Adds positions that it gave an axis for samples itself; what follows refuses another axis, by an assertion."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(9, 6), nn.TransformerEncoderLayer(6, 2, 5, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to the same."""
        return self.layer(x + self.table(torch.arange(x.shape[1])).unsqueeze(0))


@pytest.mark.parametrize("body", [MappedPositions, PositionsBeforeAttention])
def test_ways_that_work_alone_also_work_together(body: Callable[[], nn.Module]) -> None:
    model, batch = with_head(body(), (4, 6)), batch_of(5, (4, 6))
    coverage = check(model, select_layers(model, parameters="all"), batch)
    assert len(coverage.covered) > 4
    assert not {layer.name for layer in coverage.covered} & coverage.not_covered.keys()
    rows = RowExtractor(model, coverage.covered, PROJECTION)(Measured(batch, margin)).rows
    torch.testing.assert_close(rows, autograd_rows(model, coverage.covered, batch, PROJECTION), rtol=1e-10, atol=1e-10)


def test_a_linear_map_of_positions_first_is_covered() -> None:
    model = with_head(SamplesSecond(), (4, 6))
    coverage = checked(model, batch_of(3, (4, 6)))
    assert [(layer.name, layer.way) for layer in coverage.covered] == [
        ("0.inner.weight", "formula, samples second"),
        ("2.weight", "formula"),
    ]


@pytest.mark.parametrize("body", [MergesBatch, MergesOutput], ids=["input and output", "output alone"])
def test_samples_and_positions_on_one_axis_are_told_apart(body: Callable[[], nn.Module]) -> None:
    model, batch = with_head(body(), (4, 6)), batch_of(5, (4, 6))
    coverage = check(model, select_layers(model, parameters="all"), batch)
    if body is MergesBatch:
        assert [layer.way for layer in coverage.covered][:2] == ["formula, samples merged"] * 2
    assert not coverage.not_covered
    for n in (1, 5):
        rows = RowExtractor(model, coverage.covered, PROJECTION)(Measured(batch[:n], margin)).rows
        torch.testing.assert_close(
            rows, autograd_rows(model, coverage.covered, batch[:n], PROJECTION), rtol=1e-10, atol=1e-10
        )


class ConvolvesParts(nn.Module):
    """Convolves the two halves of images as images of their own."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 4, 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) to (n, 8, h - 1, w / 2 - 1)."""
        halves = torch.stack(x.chunk(2, dim=3), dim=1)
        return torch.tanh(self.inner(halves.flatten(0, 1))).unflatten(0, (len(x), 2)).flatten(1, 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_of_the_parts_of_images_is_covered(groups: int) -> None:
    model, batch = with_head(ConvolvesParts(groups), (2, 3, 6)), batch_of(5, (2, 3, 6))
    coverage = checked(model, batch[:3])
    assert [layer.way for layer in coverage.covered] == ["formula, samples merged", "formula"]
    assert not coverage.not_covered
    for n in (1, 5):
        rows = RowExtractor(model, coverage.covered, PROJECTION)(Measured(batch[:n], margin)).rows
        torch.testing.assert_close(
            rows, autograd_rows(model, coverage.covered, batch[:n], PROJECTION), rtol=1e-10, atol=1e-10
        )


def test_a_gradient_that_is_zero_but_for_rounding_is_not_covered() -> None:
    model = with_head(nn.Sequential(nn.Conv1d(2, 4, 2), nn.InstanceNorm1d(4, affine=True), nn.Tanh()), (2, 5)).float()
    coverage = check(model, select_layers(model, parameters="all"), batch_of(3, (2, 5)).float())
    assert coverage.not_covered == {"0.0.bias": "its gradient is zero but for rounding"}


def test_a_gradient_that_is_zero_is_reported_as_such_where_the_first_way_fails_for_another_reason() -> None:
    model = with_head(SharesOfAll(), (64,)).float()
    coverage = check(model, select_layers(model), batch_of(3, (64,)).float())
    assert coverage.not_covered == {"0.weight": "its gradient is zero but for rounding"}


def test_a_way_that_fails_with_an_error_of_a_librarys_own_is_followed_by_the_next() -> None:
    coverage = checked(with_head(ChecksShapes(), (4, 6)), batch_of(3, (4, 6)))
    assert {layer.name: layer.way for layer in coverage.covered}["0.rows"] == "fallback"


def test_a_model_that_mixes_samples_has_no_rows_at_all() -> None:
    with pytest.raises(
        ModelError, match=r"no layer of the model can be covered \(0\.inner\.weight: its hooked gradient differs"
    ):
        checked(with_head(MixesSamples(), (6,)), batch_of(3, (6,)))


def test_a_sample_whose_gradient_is_not_finite_is_passed_over_and_all_of_them_are_found() -> None:
    model = with_head(nn.Linear(6, 5), (6,))
    batch = batch_of(2, (6,))
    batch[0, 0] = float("inf")
    assert not checked(model, batch).not_covered
    batch[1, 0] = float("inf")
    with pytest.raises(ModelError, match="not finite on a trusted sample"):
        checked(model, batch)


def test_reasons_known_before_are_kept() -> None:
    model = with_head(nn.Linear(6, 5), (6,))
    selected = select_layers(model)
    known = Coverage(selected.covered, {"elsewhere.weight": "a reason"})
    assert check(model, known, batch_of(2, (6,))) == known


def test_the_check_leaves_the_model_as_found() -> None:
    model = with_head(Attends(), (4, 6))
    model[2].weight.requires_grad_(False)
    before = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    checked(model, batch_of(3, (4, 6)))
    assert [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()] == before
    assert not any(module._forward_hooks for module in model.modules())


class Averages(nn.Module):
    """A linear map of each of 4 positions, averaged; a sample alone has them in another order, so rounds otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 6) to (n, 5)."""
        return self.inner(x if len(x) > 1 else x[:, [0, 2, 1, 3]]).mean(1)


def test_rows_that_differ_by_rounding_alone_are_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is the small sum of large numbers, which float32 adds up in one order or another."""
    model, batch = with_head(Averages(), (4, 6)).float(), batch_of(3, (4, 6)).float()
    batch[:, :2] = 3e4 * batch[:, :2]
    batch[:, 2:] -= batch[:, :2]
    assert not checked(model, batch).not_covered
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    monkeypatch.setattr("madcore.coverage.trial.fits_float64", lambda _: False)
    assert "differs from autograd's" in checked(model, batch).not_covered["0.inner.weight"]


class AveragesInFloat32(Averages):
    """The same by way of the largest number of its precision, which float32 does not hold where that is float64's."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 6) to (n, 5)."""
        return super().forward(x) + 0 * torch.tensor(torch.finfo(x.dtype).max).float().to(x.dtype)


def test_a_model_that_is_finite_in_its_own_precision_alone_is_judged_in_that() -> None:
    model, batch = with_head(AveragesInFloat32(), (4, 6)).float(), batch_of(3, (4, 6)).float()
    assert not checked(model, batch).not_covered
    batch[:, :2] = 3e4 * batch[:, :2]
    batch[:, 2:] -= batch[:, :2]
    assert "differs from autograd's" in checked(model, batch).not_covered["0.inner.weight"]


def test_a_sample_without_a_gradient_for_a_layer_leaves_it_covered() -> None:
    """Its row is zero but for rounding, by hooks and by autograd, and the other samples' are right."""
    model, batch = with_head(Averages(), (4, 6)).float(), batch_of(3, (4, 6)).float()
    batch[1, 2:] = -batch[1, :2]
    assert not checked(model, batch).not_covered


def test_autograd_and_hooks_see_images_in_the_same_order_in_memory() -> None:
    """Other kernels round differently, which flips ReLUs."""
    model, channels_last = with_head(nn.Conv2d(3, 4, 1), (3, 4, 4)).float(), set[bool]()

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            channels_last.add(args[0].is_contiguous(memory_format=torch.channels_last))

    model[0].register_forward_pre_hook(note)
    checked(model, batch_of(3, (3, 4, 4)).float())
    assert channels_last == {True}


class Recurrent(nn.Module):
    """Reads a sequence, in float32 by a kernel that takes no bias for each sample, and in float64 by one that does."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, 3)."""
        return self.head(self.cells(x)[1][0][-1])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_is_right_in_float64_alone_is_not_covered_that_way() -> None:
    torch.manual_seed(0)
    model, samples = Recurrent().eval(), list(torch.randn(3, 4, 6).split(1))
    selected = select_layers(model, parameters="all")
    coverage = check_layers(
        model, selected, samples, lambda some: Measured(torch.cat(list(some)), margin), Projection(4)
    )
    ways = {layer.name: layer.way for layer in coverage.covered}
    assert ways["cells.bias_ih_l0"].startswith("fallback") and ways["cells.bias_hh_l0"].startswith("fallback")
