"""The second run of a module gives each sample's gradient: autograd's, with and without vmap, in chunks of any size."""

import pytest
import torch
from torch import Tensor, nn

from madcore import Layer, LayerError, RerunCost
from madcore.extraction.module_call import ModuleCall
from madcore.extraction.vjp_fallback import Rerun, WholeGradient
from madcore.formulas.matrices import Sides


class Mixing(nn.Module):
    """A custom module: mixes positions by products of projected ones, and also returns what it mixed by."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(n, s, 3) and a number to (n, s, 3) and (n, s, s)."""
        weights = torch.softmax((x @ self.left * self.right) @ (x @ self.left).transpose(1, 2) * scale, dim=2)
        return weights @ x, weights


P0 = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)


def a_call(samples: int = 4) -> tuple[Mixing, ModuleCall, Tensor]:
    torch.manual_seed(0)
    inputs, scale = torch.randn(samples, 5, 3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    return Mixing().double(), ModuleCall.of((inputs,), {"scale": scale}, torch.float64), inputs


def rerun_of(module: nn.Module, one_by_one: bool) -> Rerun:
    wanted = {
        "left": WholeGradient("mixing.left", (3, 2), Sides(P0, None), slice(0, 2)),
        "right": WholeGradient("mixing.right", (2, 1), Sides(None, None), slice(3, 5)),
    }
    return Rerun(module, wanted, {name: own.detach() for name, own in module.named_parameters()}, one_by_one)


def autograd_rows(module: Mixing, inputs: Tensor, which: int, grads: Tensor) -> Tensor:
    """A loop over samples: the projected gradients, in their places."""
    rows = torch.zeros(len(inputs), 6, dtype=torch.float64)
    for row, own, grad in zip(rows, inputs, grads, strict=True):
        output = module(own.unsqueeze(0), torch.tensor(0.7, dtype=torch.float64))[which].squeeze(0)
        left, right = torch.autograd.grad(output, [module.left, module.right], grad)
        row[0:2], row[3:5] = (P0 @ left).flatten(), right
    return rows


@pytest.mark.parametrize("one_by_one", [False, True], ids=["vmap", "one by one"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("chunk_bytes", [1, 64 << 20], ids=["a sample a chunk", "one chunk"])
def test_rows_equal_a_loop_with_autograd(
    one_by_one: bool, which: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("madcore.extraction.vjp_fallback.CHUNK_BYTES", chunk_bytes)
    module, call, inputs = a_call()
    first = module(inputs, torch.tensor(0.7, dtype=torch.float64))[which].detach()
    grads, rows = torch.randn(first.shape, dtype=torch.float64), torch.ones(4, 6, dtype=torch.float64)
    rerun_of(module, one_by_one).add(rows, call, which, first, grads)
    torch.testing.assert_close(rows - 1, autograd_rows(module, inputs, which, grads), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("one_by_one", [False, True], ids=["vmap", "one by one"])
def test_another_output_than_in_the_first_run_is_refused_by_name(one_by_one: bool) -> None:
    """By more than a twentieth of its norm; less may be rounding, as under autocast."""
    module, call, inputs = a_call()
    first = module(inputs, torch.tensor(0.7, dtype=torch.float64))[0].detach()
    rerun, rows = rerun_of(module, one_by_one), torch.zeros(4, 6, dtype=torch.float64)
    rerun.add(rows, call, 0, 1.04 * first, torch.ones_like(first))
    message = r"mixing\.left: its module's output for each sample alone is not the one for all together"
    with pytest.raises(LayerError, match=message) as found:
        rerun.add(rows, call, 0, 1.06 * first, torch.ones_like(first))
    assert set(found.value.reasons) == {"mixing.left", "mixing.right"}


@pytest.mark.parametrize("one_by_one", [False, True], ids=["vmap", "one by one"])
def test_a_module_that_cannot_run_again_is_refused_with_its_complaint(one_by_one: bool) -> None:
    module, call, inputs = a_call()
    first = module(inputs, torch.tensor(0.7, dtype=torch.float64))[0].detach()

    def complain(x: Tensor, scale: Tensor) -> Tensor:
        raise RuntimeError(f"samples: {len(x)}\nand more")

    module.forward = complain
    with pytest.raises(LayerError, match=r"its module cannot run again, a sample at a time \(samples: 1\)"):
        rerun_of(module, one_by_one).add(torch.zeros(4, 6), call, 0, first, torch.ones_like(first))


def test_an_output_of_another_length_is_refused_with_both_numbers() -> None:
    module, call, _ = a_call()
    with pytest.raises(
        LayerError, match=r"its module's output has \(3,\) entries first, where the batch has 4 samples"
    ):
        rerun_of(module, False).add(torch.zeros(4, 6), call, 0, torch.zeros(3, 5, 3), torch.zeros(3, 5, 3))


def test_no_samples_add_nothing() -> None:
    module, call, _ = a_call(0)
    rerun_of(module, False).add(torch.zeros(0, 6), call, 0, torch.zeros(0, 5, 3), torch.zeros(0, 5, 3))


def test_samples_may_be_on_another_axis_of_an_output() -> None:
    """The last state of an LSTM is (layers, n, hidden)."""
    torch.manual_seed(0)
    module, inputs = nn.LSTM(3, 2, batch_first=True).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    state = module(inputs)[1][0].detach()
    grads, rows = torch.randn(state.shape, dtype=torch.float64), torch.zeros(4, 24, dtype=torch.float64)
    wanted = {"weight_ih_l0": WholeGradient("lstm.weight_ih_l0", (8, 3), Sides(None, None), slice(0, 24))}
    parameters = {name: own.detach() for name, own in module.named_parameters()}
    call = ModuleCall.of((inputs,), {}, torch.float64)
    Rerun(module, wanted, parameters, one_by_one=True).add(rows, call, 1, state, grads)
    for row, own, grad in zip(rows, inputs, grads.unbind(1), strict=True):
        output = module(own.unsqueeze(0))[1][0].squeeze(1)
        (expected,) = torch.autograd.grad(output, module.weight_ih_l0, grad)
        torch.testing.assert_close(row, expected.flatten(), rtol=1e-10, atol=1e-12)


def test_the_cost_is_the_share_of_the_module_that_runs_again() -> None:
    """Of 26 parameters, the inner Linear has 6 and the block around it 18; 4 float32 numbers have 16 bytes."""
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4)), nn.Linear(4, 1), nn.Linear(1, 1, bias=False))
    model.append(nn.Linear(1, 1))
    own = Layer("0.0", "weight", (2, 2), "fallback")
    assert RerunCost.of(model, own) == RerunCost("0.0", 6 / 26, 16, False)
    around = Layer("0.0", "weight", (2, 2), "fallback, one by one", levels=1)
    assert RerunCost.of(model, around) == RerunCost("0", 18 / 26, 16, True)
