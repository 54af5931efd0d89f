"""What a model keeps of a pass is undone after it, and what it changes in a pass are copies."""

from collections import deque
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, Projection, RowExtractor, check_layers, margin, select_layers
from madcore.isolation import in_float64
from madcore.measurements import run
from tests.reference import autograd_rows

PROJECTION = Projection(rank=4, seed=1)


class CachedBiases(nn.Module):
    """Attention over positions whose learned biases are gathered once in eval mode, as timm's LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.biases = nn.Linear(4, 4), nn.Parameter(torch.randn(5))
        self.register_buffer("places", (torch.arange(5)[:, None] - torch.arange(5)).abs(), persistent=False)
        self.cache = dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5, 4) to the same."""
        key = str(x.device)
        if key not in self.cache:
            self.cache[key] = self.biases[self.places]
        return x + self.cache[key].softmax(1) @ self.values(x)


def cached() -> nn.Module:
    """Two of them, and a classifier, float64."""
    torch.manual_seed(0)
    return nn.Sequential(CachedBiases(), nn.Tanh(), CachedBiases(), nn.Flatten(), nn.Linear(20, 3)).double().eval()


def test_tensors_that_are_cached_in_eval_mode_have_their_gradients_in_every_pass() -> None:
    model, batch = cached(), torch.randn(5, 5, 4, dtype=torch.float64)
    selected = select_layers(model, parameters="all")
    coverage = check_layers(
        model, selected, batch.split(1), lambda some: Measured(torch.cat(list(some)), margin), PROJECTION
    )
    assert not coverage.not_covered
    assert coverage.fallback == ("0.biases", "2.biases")
    expected = torch.cat([autograd_rows(cached(), coverage.covered, one, PROJECTION) for one in batch.split(1)])
    rows_of = RowExtractor(model, coverage.covered, PROJECTION)
    for _ in range(2):
        torch.testing.assert_close(rows_of(Measured(batch, margin)).rows, expected, rtol=1e-9, atol=1e-9)
    assert model[0].cache == model[2].cache == {}


class Keeps(nn.Module):
    """Keeps what it is told to of its input."""

    def __init__(self, keep: Callable[["Keeps", Tensor], None]) -> None:
        super().__init__()
        self.layer, self.keep = nn.Linear(4, 3), keep
        self.calls, self.seen, self.last, self.queue = 0, list[Tensor](), None, deque[Tensor](maxlen=2)
        self.nested = {"texts": [torch.zeros(4)]}
        self.register_buffer("mean", torch.zeros(4))
        self.first_half = self.mean[:2]
        self.pair = (torch.zeros(4), ([torch.zeros(4)], "texts"))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, 3)."""
        self.keep(self, x)
        return self.layer(x + self.mean + self.calls + self.nested["texts"][-1] + self.pair[0] + self.pair[1][0][-1])


def keeps_mean(model: Keeps, x: Tensor) -> None:
    """A running mean, in place."""
    model.mean.mul_(0.9).add_(0.1 * x.mean(0))
    assert torch.equal(model.first_half, model.mean[:2])


def keeps_new_mean(model: Keeps, x: Tensor) -> None:
    """A running mean, as a new tensor."""
    model.mean = 0.9 * model.mean + 0.1 * x.mean(0)


def keeps_all(model: Keeps, x: Tensor) -> None:
    """Inputs, in all kinds of containers."""
    model.seen.append(x)
    model.queue.append(x)
    model.nested["texts"].append(x[0])
    model.nested["new"] = [x]
    model.last, model.fresh = x, x


def keeps_in_tuples(model: Keeps, x: Tensor) -> None:
    """A sum and the last input, of which tuples have the places."""
    model.pair[0].add_(x.mean(0))
    model.pair[1][0].append(x[0])


def keeps_count(model: Keeps, x: Tensor) -> None:
    """How often it was called."""
    model.calls += 1


def changes_inputs(model: Keeps, x: Tensor) -> None:
    """Scales its inputs in place."""
    x.sub_(0.5).clamp_(min=0)


KEEPING = [keeps_mean, keeps_new_mean, keeps_all, keeps_in_tuples, keeps_count, changes_inputs]


@pytest.mark.parametrize("keep", KEEPING)
def test_every_pass_begins_with_the_model_and_the_inputs_as_they_were(keep: Callable[[Keeps, Tensor], None]) -> None:
    model, batch = Keeps(keep).eval(), torch.randn(3, 4)
    mean, given = model.mean, batch.clone()
    first = run(model, batch)
    assert isinstance(first, Tensor)
    assert torch.equal(first, run(model, {"x": batch})) and torch.equal(batch, given)
    assert model.mean is mean and not mean.any()
    assert (model.calls, model.seen, model.last, list(model.queue)) == (0, [], None, [])
    assert not model.pair[0].any() and len(model.pair[1][0]) == 1
    assert list(model.nested) == ["texts"] and len(model.nested["texts"]) == 1 and not hasattr(model, "fresh")


def test_what_a_pass_raises_is_undone_too() -> None:
    model = Keeps(keeps_count)
    with pytest.raises(RuntimeError, match="must match"):
        run(model, torch.zeros(3, 5))
    assert model.calls == 0


def test_a_model_in_float64_is_the_same_float32_model_afterwards() -> None:
    model = Keeps(keeps_count)
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in model.state_dict(keep_vars=True).items()}
    model.layer.weight.grad = grad = torch.ones(3, 4)
    with in_float64(model):
        assert model.layer.weight.dtype is model.mean.dtype is model.pair[0].dtype is torch.float64
        assert model.nested["texts"][0].dtype is torch.float64
        outputs = run(model, torch.zeros(2, 4, dtype=torch.float64))
        assert isinstance(outputs, Tensor) and outputs.dtype is torch.float64
    after = model.state_dict(keep_vars=True)
    assert {name: (tensor, tensor.data_ptr()) for name, tensor in after.items()} == before
    assert model.layer.weight.grad is grad


class Named(list[int]):
    """A list that is made otherwise than of its values."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_containers_of_ones_own_are_restored() -> None:
    model = Keeps(lambda model, x: model.seen.append(x))
    model.seen = named = Named("lengths")  # type: ignore[assignment]
    run(model, torch.zeros(3, 4))
    assert model.seen is named and list(named) == [] and named.name == "lengths"
