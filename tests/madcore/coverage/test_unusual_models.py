"""Models with parameters, buffers or layers of a rare kind: rows equal autograd's, or what is left out is said."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, ModelError, Projection, RowExtractor, check_layers, margin, select_layers
from madcore.coverage.autograd import whole_gradients
from madcore.coverage.expected import project_gradient
from madcore.coverage.forward_check import check_forward_pass
from madcore.coverage.shares import Shares, measure_shares

WHOLE = Projection(rank=10**6)

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


class Looks(nn.Module):
    """Makes ids of numbers, and looks them up."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        """(n, s) to (n, ...)."""
        return self.table((10 * x.abs()).long() % 9)


class Padded(nn.Module):
    """torch's encoder, told that the last positions are padding: without gradients, it takes nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 8) to the same."""
        return self.encoder(x, src_key_padding_mask=(torch.arange(4) > 2).expand(len(x), 4))


class Conjugates(nn.Module):
    """Multiplies by complex numbers, which are kept as the conjugates of others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)
        self.register_buffer("factors", torch.complex(torch.ones(5), torch.arange(5.0)).conj())

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5, 2)."""
        return torch.view_as_real(self.inner(x) * self.factors)


class HoldsFirst(nn.Module):
    """Has a parameter that is not of real numbers before all others."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers, requires_grad=numbers.is_complex())
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        return (self.inner(x) * self.numbers).real


def in_front_of_a_head(body: nn.Module, sample_shape: tuple[int, ...]) -> nn.Module:
    """A classifier, float32."""
    torch.manual_seed(0)
    features = body.eval()(torch.zeros(2, *sample_shape))[0].numel()
    return nn.Sequential(body, nn.Flatten(), nn.Linear(features, 3)).eval()


def together(some: list[Tensor]) -> Measured:
    """A batch of samples."""
    return Measured(torch.cat(some), margin)


Made = tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]

MODELS: dict[str, Made] = {
    "an embedding with sparse gradients": (lambda: Looks(nn.Embedding(9, 6, sparse=True)), (5,), ()),
    "a bag with sparse gradients": (lambda: Looks(nn.EmbeddingBag(9, 6, sparse=True, mode="sum")), (5,), ()),
    "an embedding of bounded vectors": (lambda: Looks(nn.Embedding(9, 6, max_norm=1.0)), (5,), ()),
    "an encoder of padded positions": (Padded, (4, 8), ()),
    "a conjugated buffer": (Conjugates, (6,), ()),
    "complex numbers": (lambda: HoldsFirst(torch.randn(5, dtype=torch.complex64)), (6,), ("0.numbers",)),
    "integers": (lambda: HoldsFirst(torch.arange(5)), (6,), ("0.numbers",)),
}


@pytest.mark.parametrize(("body", "shape", "left_out"), MODELS.values(), ids=MODELS.keys())
def test_rows_in_float32_equal_autograds(
    body: Callable[[], nn.Module], shape: tuple[int, ...], left_out: tuple[str, ...]
) -> None:
    model, generator = in_front_of_a_head(body(), shape), torch.Generator().manual_seed(1)
    samples, batch = (torch.randn(n, *shape, generator=generator) for n in (3, 5))
    check_forward_pass(model, samples.split(1), together)
    coverage = check_layers(model, select_layers(model, parameters="all"), samples.split(1), together, WHOLE)
    assert tuple(coverage.not_covered) == left_out
    assert all("no real numbers" in reason for reason in coverage.not_covered.values())
    rows = RowExtractor(model, coverage.covered, WHOLE)(Measured(batch, margin)).rows
    for row, one in zip(rows, batch.split(1), strict=True):
        model.zero_grad()
        margin(model(one)).sum().backward()  # without the package's own passes
        grads = [(model.get_parameter(layer.name).grad, layer) for layer in coverage.covered]
        dense = [(grad.to_dense(), layer) for grad, layer in grads if grad is not None]
        expected = torch.cat([project_gradient(grad, layer, WHOLE) for grad, layer in dense])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_complex_parameters_have_shares() -> None:
    model = in_front_of_a_head(HoldsFirst(torch.full((5,), 3 + 4j)), (6,))
    found = measure_shares(model, ["*"], [Measured(torch.randn(1, 6), margin)])
    assert found["0.numbers"].numbers == 10 and found["0.numbers"].gradient > 0
    covered = [layer.name for layer in select_layers(model, parameters="all").covered]
    shares = Shares.of(found, covered)
    assert shares.of_parameters < 1 and shares.of_gradient is not None and shares.of_gradient < 1


def test_whole_gradients_are_dense() -> None:
    model = in_front_of_a_head(Looks(nn.Embedding(9, 6, sparse=True)), (5,))
    with whole_gradients(model, Measured(torch.ones(1, 5), margin)):
        grad = model[0].table.weight.grad
        assert grad.layout is torch.strided and grad.count_nonzero() == 6


def test_bounded_vectors_that_other_layers_use_too_are_refused() -> None:
    model = in_front_of_a_head(Looks(nn.Embedding(9, 5, max_norm=1.0)), (3,))
    model[0].tied = nn.Linear(5, 9)
    model[0].tied.weight = model[0].table.weight
    with pytest.raises(ModelError, match=r"changes the parameter 0\.table\.weight in place"):
        check_forward_pass(model, torch.randn(3, 3).split(1), together)
