"""Curvatures of the training loss equal the dense matrices, from autograd's Jacobians and from every label in turn."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from madcore import (
    BlockMoment,
    Layer,
    Measured,
    ModelError,
    Projection,
    RowExtractor,
    SampledCompletions,
    SampledLabels,
    TokenBatch,
    gauss_newton_rows,
    label_uniforms,
    per_sample_rows,
    row_layout,
    select_layers,
)
from madcore.extraction.likelihood import sampled_nlls
from tests.languages import double_norms, gpt2, texts
from tests.madcore.checks import tokens_of

WHOLE, NARROW = Projection(rank=1000), Projection(rank=2, seed=3)


PROJECTIONS = pytest.mark.parametrize("projection", [WHOLE, NARROW], ids=["whole", "projected"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4))
        .double()
        .eval()
    )


def images(samples: int) -> Tensor:
    return 3 * torch.randn(samples, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def compressed_jacobians(model: nn.Module, layer: Layer, inputs: Tensor, projection: Projection) -> Tensor:
    """Of the logits with respect to one layer, its sides projected: (n, C, k)."""
    own = {layer.name: model.get_parameter(layer.name).detach()}
    jacobians = jacrev(lambda parameters: functional_call(model, parameters, (inputs,)))(own)[layer.name].flatten(
        3 if own[layer.name].ndim > 1 else 2
    )
    sides = [projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape)]
    p0, p1 = (
        torch.eye(size, dtype=torch.float64) if matrix is None else matrix
        for matrix, size in zip(sides, layer.shape, strict=True)
    )
    return (p0 @ jacobians.reshape(*jacobians.shape[:2], *layer.shape) @ p1.T).flatten(2)


def dense_gauss_newton(model: nn.Module, layer: Layer, inputs: Tensor, projection: Projection) -> Tensor:
    """The mean over samples of J^T (diag p - p p^T) J, (k_l, k_l)."""
    with torch.no_grad():
        p_nc = model(inputs).softmax(dim=1)
    hessians_ncc = torch.diag_embed(p_nc) - p_nc.unsqueeze(2) * p_nc.unsqueeze(1)
    jacobians_nck = compressed_jacobians(model, layer, inputs, projection)
    return torch.einsum("nck,ncd,ndl->kl", jacobians_nck, hessians_ncc, jacobians_nck).detach() / len(inputs)


@PROJECTIONS
@pytest.mark.parametrize("parameters", ["matrices", "all"])
def test_the_second_moment_of_gauss_newton_rows_is_the_gauss_newton_matrix(
    projection: Projection, parameters: Literal["matrices", "all"]
) -> None:
    model, inputs = network(), images(30)
    layers = select_layers(model, parameters=parameters).covered
    rows = gauss_newton_rows(RowExtractor(model, layers, projection), inputs, 4)
    moment = BlockMoment.zero(row_layout(layers, projection)).update(rows.flatten(0, 1)).finalize()
    for layer, block in zip(layers, moment, strict=True):
        torch.testing.assert_close(
            block.dense, dense_gauss_newton(model, layer, inputs, projection), rtol=1e-9, atol=1e-12
        )


@PROJECTIONS
def test_the_fishers_mean_over_labels_is_the_gauss_newton_matrix(projection: Projection) -> None:
    """Uniforms on a fine grid sample every label as often as it is likely, up to 1 in 5,000."""
    model, inputs, grid = network(), images(3), (torch.arange(5_000, dtype=torch.float64) + 0.5) / 5_000
    layers = select_layers(model).covered
    repeated, uniforms = inputs.repeat_interleave(len(grid), dim=0), grid.repeat(len(inputs))
    rows = per_sample_rows(model, repeated, layers=layers, projection=projection, measurement=SampledLabels(uniforms))
    moment = BlockMoment.zero(row_layout(layers, projection)).update(rows).finalize()
    for layer, block in zip(layers, moment, strict=True):
        dense = dense_gauss_newton(model, layer, inputs, projection)
        assert float((block.dense - dense).norm() / dense.norm()) < 2e-3


def test_a_label_is_the_class_in_whose_share_of_the_unit_interval_the_uniform_falls() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().repeat(5, 1)
    nlls = sampled_nlls(logits, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.999_999_999]))
    torch.testing.assert_close(nlls, -torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3]).log())
    assert torch.isfinite(sampled_nlls(torch.tensor([[0.0, -1e4]]), torch.tensor([1 - 2.0**-53]))).all()


def test_a_samples_labels_depend_on_its_name_and_the_seed_alone() -> None:
    one = label_uniforms(0, ["a", "b", "c"], 4)
    assert one.shape == (3, 4) and ((one >= 0) & (one < 1)).all()
    assert torch.equal(label_uniforms(0, ["c", "a"], 6)[:, :4], one[[2, 0]])
    assert not torch.equal(label_uniforms(1, ["a", "b", "c"], 4), one)
    assert label_uniforms(0, []).shape == (0, 1)
    many = label_uniforms(0, [str(number) for number in range(4_000)])
    assert (
        float((many.sort(dim=0).values.squeeze() - torch.linspace(0, 1, 4_000)).abs().max()) < 0.03
    )  # Kolmogorov-Smirnov, p = 0.001


def test_rows_of_a_batch_in_parts_are_those_of_the_whole() -> None:
    model, inputs = network(), images(20)
    extractor, uniforms = (
        RowExtractor(model, select_layers(model).covered, NARROW),
        label_uniforms(0, [str(n) for n in range(20)]).squeeze(1),
    )
    whole, parts = Measured(inputs, SampledLabels(uniforms)), Measured(inputs, SampledLabels(uniforms)).parts(8)
    assert [part.samples for _, part in parts] == [8, 8, 4]
    torch.testing.assert_close(torch.cat([extractor(part).rows for _, part in parts]), extractor(whole).rows)


def test_sampled_completions_replace_the_tokens_that_count_and_not_those_that_are_read() -> None:
    model, samples = double_norms(gpt2()), texts((9, 6, 12))
    tokens = tokens_of(samples, 14)
    uniforms = label_uniforms(5, ["x", "y", "z"], 14)
    layers = select_layers(model, parameters="all").covered
    rows = per_sample_rows(
        model, tokens.inputs, layers=layers, projection=NARROW, measurement=SampledCompletions(tokens, uniforms)
    )
    for number, (ids, start) in enumerate(samples):
        logits = model(ids.unsqueeze(0)).logits[0]
        loss = logits.new_zeros(())
        for t in range(start, len(ids)):
            p = logits[t - 1].softmax(dim=0)
            label = next(c for c in range(len(p)) if float(p[: c + 1].detach().sum()) > float(uniforms[number, t - 1]))
            loss = loss - p[label].log()
        model.zero_grad()
        loss.backward()
        for layer, numbers in zip(layers, row_layout(layers, NARROW).blocks(rows), strict=True):
            grad = model.get_parameter(layer.name).grad
            assert grad is not None
            p0, p1 = (NARROW.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
            dense = grad.reshape(layer.shape) if p0 is None else p0 @ grad.reshape(layer.shape)
            torch.testing.assert_close(
                numbers[number], (dense if p1 is None else dense @ p1.T).flatten(), rtol=1e-9, atol=1e-11
            )


def test_some_of_the_texts_have_their_own_labels() -> None:
    tokens, uniforms = TokenBatch.of([torch.arange(5), torch.arange(7)], [2, 3]), label_uniforms(0, ["a", "b"], 7)
    measured = SampledCompletions(tokens, uniforms)
    logits = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(measured.some(slice(1, 2))(logits[1:]), measured(logits)[1:])


def test_outputs_without_classes_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 1)).eval()
    extractor = RowExtractor(model, select_layers(model).covered, NARROW)
    with pytest.raises(ModelError, match="at least 2 classes"):
        gauss_newton_rows(extractor, torch.zeros(2, 3), 1)
    with pytest.raises(ModelError, match="at least 2 classes"):
        extractor(Measured(torch.zeros(2, 3), SampledLabels(torch.zeros(2))))
