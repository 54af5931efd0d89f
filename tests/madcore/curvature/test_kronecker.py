"""Kronecker factors: against sums written out over positions, and exact where the theory says so."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from madcore import (
    BlockMoment,
    DampedInverse,
    Damping,
    EigenvalueMoment,
    KroneckerMoment,
    Layer,
    Measured,
    Measurement,
    Projection,
    RowExtractor,
    RowLayout,
    SideLayout,
    Spectrum,
    Whitening,
    margin,
    select_layers,
    token_margin,
)
from tests.languages import double_norms, gpt2, texts
from tests.madcore.checks import tokens_of
from tests.strategies import LAW, normal_rows, seeds

WHOLE, NARROW = Projection(rank=1000), Projection(rank=2, seed=3)


PROJECTIONS = pytest.mark.parametrize("projection", [WHOLE, NARROW], ids=["whole", "projected"])


DAMPINGS = st.builds(Damping, st.sampled_from(["relative_mean", "absolute"]), st.floats(0.01, 10))


def extractor_of(model: nn.Module, projection: Projection, layers: Sequence[Layer] | None = None) -> RowExtractor:
    return RowExtractor(model, select_layers(model).covered if layers is None else layers, projection)


def factored(extractor: RowExtractor, inputs: Tensor, measurement: Measurement = margin) -> tuple[Spectrum, ...]:
    numbers = extractor.side_numbers(Measured(inputs, measurement))
    return KroneckerMoment.zero(extractor.side_layout).update(numbers).finalize()


def corrected(extractor: RowExtractor, inputs: Tensor, measurement: Measurement = margin) -> tuple[Spectrum, ...]:
    moment = EigenvalueMoment.zero(extractor.layout, factored(extractor, inputs, measurement))
    return moment.update(extractor(Measured(inputs, measurement)).rows).finalize()


def seeded(*modules: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in modules:
        for child in module.modules():
            if hasattr(child, "reset_parameters"):
                child.reset_parameters()
    return nn.Sequential(*modules).double().eval()


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def perceptron() -> nn.Module:
    return seeded(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


def convolutions() -> nn.Module:
    return seeded(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 2, 2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


@PROJECTIONS
@pytest.mark.parametrize("ekfac", [False, True], ids=["kfac", "ekfac"])
def test_of_one_sample_with_one_position_it_is_exact(projection: Projection, ekfac: bool) -> None:
    extractor, inputs = extractor_of(perceptron(), projection), normals(1, 5)
    found = (corrected if ekfac else factored)(extractor, inputs)
    rows = extractor(Measured(inputs, margin)).rows
    for spectrum, block in zip(found, extractor.layout.blocks(rows), strict=True):
        torch.testing.assert_close(spectrum.dense, block.T @ block, rtol=1e-9, atol=1e-12)


def projected_jacobian(model: nn.Module, layer: Layer, inputs: Tensor, projection: Projection) -> Tensor:
    """Of the outputs with respect to one weight matrix, both sides projected: (n, C, k)."""
    own = {layer.name: model.get_parameter(layer.name).detach()}
    jacobians = jacrev(lambda parameters: functional_call(model, parameters, (inputs,)))(own)[layer.name]
    p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
    jacobians = jacobians if p0 is None else torch.einsum("po,ncoi->ncpi", p0, jacobians)
    return (jacobians if p1 is None else jacobians @ p1.T).flatten(2)


@PROJECTIONS
@pytest.mark.parametrize("ekfac", [False, True], ids=["kfac", "ekfac"])
def test_of_a_deep_linear_network_under_squared_loss_it_is_the_gauss_newton_matrix(
    projection: Projection, ekfac: bool
) -> None:
    """The Fisher's labels are outputs plus noise of unit covariance, which sqrt(C) e_c, each c once, has exactly."""
    model, inputs, classes = (
        seeded(nn.Linear(5, 6, bias=False), nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False)),
        normals(7, 5),
        3,
    )
    layers = select_layers(model).covered
    noise = classes**0.5 * torch.eye(classes, dtype=torch.float64).repeat(len(inputs), 1)
    each = inputs.repeat_interleave(classes, dim=0)
    found = (corrected if ekfac else factored)(
        extractor_of(model, projection), each, lambda outputs: -(outputs * noise).sum(dim=1)
    )
    for layer, spectrum in zip(layers, found, strict=True):
        jacobians_nck = projected_jacobian(model, layer, inputs, projection)
        dense = torch.einsum("nck,ncl->kl", jacobians_nck, jacobians_nck) / len(inputs)
        if ekfac:  # the same eigenvectors, and moments along them that are the eigenvalues
            torch.testing.assert_close(
                spectrum.eigenvalues.sort().values, torch.linalg.eigvalsh(dense).clamp(min=0), rtol=1e-8, atol=1e-9
            )
        torch.testing.assert_close(spectrum.dense, dense, rtol=1e-8, atol=1e-9)


def slow_factors(model: nn.Module, inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """A and S of each Linear and plain convolution, by unfolding, with whole sides; their product is the curvature."""
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            a = args[0]
            if isinstance(module, nn.Conv2d):
                a = nn.functional.unfold(
                    a, module.kernel_size, module.dilation, module.padding, module.stride
                ).transpose(1, 2)  # type: ignore[arg-type]
            output.register_hook(
                lambda d: seen[name].append(d.flatten(2).transpose(1, 2) if d.ndim > 2 else d.unsqueeze(1))
            )
            seen[name] = [a if a.ndim > 2 else a.unsqueeze(1)]

        module.register_forward_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and getattr(module, "groups", 1) == 1:
            watch(name, module)
    margin(model(inputs)).sum().backward()
    found = {}
    for name, (a, d) in seen.items():
        positions = a.shape[0] * a.shape[1]
        factor_a = sum(torch.outer(a[n, s], a[n, s]) for n in range(a.shape[0]) for s in range(a.shape[1])) / positions
        factor_s = sum(torch.outer(d[n, s], d[n, s]) for n in range(d.shape[0]) for s in range(d.shape[1])) / len(d)
        found[f"{name}.weight"] = (torch.as_tensor(factor_s), torch.as_tensor(factor_a))
    return found


@pytest.mark.parametrize("make", [perceptron, convolutions])
def test_factors_are_means_over_samples_and_positions(make: type[nn.Module]) -> None:
    model, inputs = make(), normals(6, 3, 9, 9) if make is convolutions else normals(6, 5)
    extractor = extractor_of(model, WHOLE)
    spectra = dict(zip(extractor.layout.names, factored(extractor, inputs), strict=True))
    expected = slow_factors(make(), inputs)
    assert len(expected) >= 2
    for name, (factor_s, factor_a) in expected.items():
        torch.testing.assert_close(spectra[name].dense, torch.kron(factor_s, factor_a), rtol=1e-8, atol=1e-12)


@PROJECTIONS
def test_projected_factors_are_the_projected_whole_ones(projection: Projection) -> None:
    model, inputs = perceptron(), normals(6, 5)
    extractor = extractor_of(model, projection)
    for (name, (factor_s, factor_a)), spectrum in zip(
        slow_factors(perceptron(), inputs).items(), factored(extractor, inputs), strict=True
    ):
        p0, p1 = (projection.matrix(name, side, size) for side, size in enumerate(model.get_parameter(name).shape))
        small_s, small_a = (
            factor_s if p0 is None else p0 @ factor_s @ p0.T,
            factor_a if p1 is None else p1 @ factor_a @ p1.T,
        )
        torch.testing.assert_close(spectrum.dense, torch.kron(small_s, small_a), rtol=1e-8, atol=1e-12)


@PROJECTIONS
def test_both_sides_by_position_sum_to_the_row(projection: Projection) -> None:
    """For every formula with sides, so that eigenvalues of rows belong to eigenvectors of sides.

    The products of both sides agree with those of the row where there is one position.
    """
    model, inputs = convolutions(), normals(2, 3, 9, 9)
    extractor = extractor_of(model, projection)
    assert None not in extractor.side_layout.kept
    numbers, rows = extractor.side_numbers(Measured(inputs, margin)), extractor(Measured(inputs, margin)).rows
    last = extractor.layout.blocks(rows)[-1]
    first, second, positions = extractor.side_layout.stored.blocks(numbers)[-3:]
    assert torch.equal(positions, torch.ones(2, 1, dtype=torch.float64))
    size = extractor.side_layout.factors[extractor.layout.names[-1]]
    products = torch.stack(
        [torch.kron(a.reshape(size[0], -1), b.reshape(size[1], -1)) for a, b in zip(first, second, strict=True)]
    )
    torch.testing.assert_close(products, last.unsqueeze(2) * last.unsqueeze(1), rtol=1e-9, atol=1e-12)


def test_padding_does_not_count() -> None:
    model, samples = double_norms(gpt2()), texts((9, 6, 12))
    extractor = RowExtractor(model, select_layers(model, parameters="all").covered, NARROW)
    together = tokens_of(samples, 20)
    counted = torch.arange(20) < together.lengths.unsqueeze(1)
    numbers = extractor.side_numbers(Measured(together.inputs, token_margin(together)), counted)
    for number, sample in enumerate(samples):
        alone = tokens_of([sample], len(sample[0]))
        expected = extractor.side_numbers(Measured(alone.inputs, token_margin(alone)))
        torch.testing.assert_close(numbers[number : number + 1], expected, rtol=1e-8, atol=1e-10)


def test_layers_without_sides_keep_their_block() -> None:
    """Biases and norms; and all, where what projections leave is hashed."""
    model, inputs = (
        seeded(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)),
        normals(9, 3, 5, 5),
    )
    layers = select_layers(model, parameters="all").covered
    with_sides = {NARROW: [0, 4], Projection(rank=3, sketch=4): []}
    for projection, places in with_sides.items():
        extractor = extractor_of(model, projection, layers)
        assert [place for place, kept in enumerate(extractor.side_layout.kept) if kept] == places
        rows = extractor(Measured(inputs, margin)).rows
        blocks = BlockMoment.zero(extractor.layout).update(rows).finalize()
        for kept, spectrum, block in zip(extractor.side_layout.kept, factored(extractor, inputs), blocks, strict=True):
            assert (kept is None) or not torch.allclose(spectrum.dense, block.dense)
            if kept is None:
                torch.testing.assert_close(spectrum.dense, block.dense, rtol=1e-9, atol=1e-12)


def test_corrected_eigenvalues_are_the_closest_on_these_eigenvectors() -> None:
    """They are the diagonal of the block in the eigenbasis, which minimises the Frobenius distance.

    So EK-FAC is nearer than K-FAC.
    """
    extractor, inputs = extractor_of(convolutions(), NARROW), normals(12, 3, 9, 9)
    rows = extractor(Measured(inputs, margin)).rows
    blocks = BlockMoment.zero(extractor.layout).update(rows).finalize()
    for plain, better, block in zip(factored(extractor, inputs), corrected(extractor, inputs), blocks, strict=True):
        along = better.basis.rotate(torch.eye(better.size, dtype=torch.float64))
        torch.testing.assert_close(
            better.eigenvalues, (along.T @ block.dense @ along).diagonal(), rtol=1e-8, atol=1e-12
        )
        assert (better.dense - block.dense).norm() <= (plain.dense - block.dense).norm() + 1e-12
        assert better.mean_eigenvalue == pytest.approx(block.mean_eigenvalue)


@LAW
@given(seeds, st.integers(1, 4), st.integers(1, 4), DAMPINGS)
def test_the_damped_inverse_of_a_product_equals_the_dense_one(seed: int, o: int, i: int, damping: Damping) -> None:
    one, other = normal_rows(seed, o + 1, o).double(), normal_rows(seed + 1, i + 1, i).double()
    product = Spectrum.of_product(one.T @ one, other.T @ other)
    full = Spectrum.of(torch.kron(one.T @ one, other.T @ other))
    torch.testing.assert_close(product.dense, full.dense, rtol=1e-9, atol=1e-9)
    rows, left, right = (
        normal_rows(seed + 2, 3, o * i).double(),
        DampedInverse.of(product, damping),
        DampedInverse.of(full, damping),
    )
    for made in ("apply", "quadratic", "whiten"):
        torch.testing.assert_close(getattr(left, made)(rows), getattr(right, made)(rows), rtol=1e-7, atol=1e-7)
    layout = RowLayout(("a",), (o * i,))
    torch.testing.assert_close(
        Whitening.fit(layout, [product], damping)(rows),
        Whitening.fit(layout, [full], damping)(rows),
        rtol=1e-4,
        atol=1e-4,
    )


@LAW
@given(seeds, st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_regrouping_changes_nothing(seed: int, parts: list[int]) -> None:
    layout = SideLayout(RowLayout(("a", "b", "c"), (6, 3, 4)), ((2, 3), None, (1, 4)))
    assert layout.stored.sizes == (4, 9, 1, 1, 16, 1, 3) and layout.summed == 32
    numbers, rows = (
        normal_rows(seed, sum(parts) + 1, layout.stored.k).double(),
        normal_rows(seed, sum(parts) + 1, 13).double(),
    )
    for place in (0, 3, 4, 8, 12, 13, 14, 15, 20, 25, 30, 31):
        numbers[:, place] = numbers[:, place].abs() + 20
    split = [1, *parts]
    whole = KroneckerMoment.zero(layout).update(numbers)
    merged = KroneckerMoment.zero(layout)
    for part in numbers.split(split)[::-1]:
        merged = KroneckerMoment.zero(layout).update(part).merge(merged)
    for a, b in zip(whole.finalize(), merged.finalize(), strict=True):
        torch.testing.assert_close(a.dense, b.dense, rtol=1e-9, atol=1e-9)
    spectra = whole.finalize()
    once, regrouped = (
        EigenvalueMoment.zero(layout.rows, spectra).update(rows),
        EigenvalueMoment.zero(layout.rows, spectra),
    )
    for part in rows.split(split)[::-1]:
        regrouped = EigenvalueMoment.zero(layout.rows, spectra).update(part).merge(regrouped)
    for left, right in zip(once.finalize(), regrouped.finalize(), strict=True):
        torch.testing.assert_close(left.eigenvalues, right.eigenvalues, rtol=1e-9, atol=1e-9)


def test_no_samples_have_no_factors() -> None:
    layout = SideLayout(RowLayout(("a",), (6,)), ((2, 3),))
    with pytest.raises(ValueError, match="at least one row"):
        KroneckerMoment.zero(layout).finalize()
    with pytest.raises(ValueError, match="at least one row"):
        EigenvalueMoment.zero(layout.rows, (Spectrum.of(torch.eye(6)),)).finalize()
