"""A pass computes what the model computes, leaves it as it was, and differentiates its outputs a sample at a time."""

import pytest
import torch
from torch import Tensor, nn

from madcore import Layer, Measured, ModelError, Projection
from madcore.extraction.forward_pass import PassSettings, exact_float32, forward_pass, frozen
from madcore.extraction.preparation import prepare
from madcore.rows import row_layout
from tests.madcore.models import batch_of, with_head

LAYERS = [Layer("0.0", "weight", (5, 6)), Layer("0.0", "bias", (5, 1)), Layer("0.1", "scale", (5, 1), "copies")]


class Scale(nn.Module):
    """Multiplies by a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) to the same."""
        return self.scale * x


def a_model() -> nn.Module:
    return with_head(nn.Sequential(nn.Linear(6, 5), Scale(), nn.Tanh()), (6,))


def settings_of(model: nn.Module, rooted: bool = False) -> PassSettings:
    projection = Projection(rank=100)
    layout = row_layout(LAYERS, projection)
    return PassSettings(prepare(model, LAYERS, layout, projection), layout.k, rooted)


def gradients(model: nn.Module, value: Tensor) -> Tensor:
    """Of one sample's number, the gradients of the layers joined: a row (k,)."""
    grads = torch.autograd.grad(value, [model.get_parameter(layer.name) for layer in LAYERS], retain_graph=True)
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("rooted", [False, True])
def test_a_pass_is_differentiated_a_sample_and_a_number_at_a_time(rooted: bool) -> None:
    model, inputs = a_model(), batch_of(4, (6,))
    expected = [torch.stack([gradients(model, logits[number]) for logits in model(inputs)]) for number in (0, 2)]
    batch = Measured(inputs, lambda logits: logits[:, 0])
    with forward_pass(model, settings_of(model, rooted), batch, torch.float32) as forward:
        torch.testing.assert_close(forward.outputs, model(inputs), rtol=1e-12, atol=1e-12)
        assert not forward.outputs.requires_grad and not forward.recorder.rows.any()
        assert forward.differentiate(forward.logits[:, 0].sum(), again=True)
        torch.testing.assert_close(forward.recorder.rows, expected[0], rtol=1e-10, atol=1e-12)
        assert forward.differentiate(forward.logits[:, 2].sum())
    torch.testing.assert_close(forward.recorder.rows, expected[0] + expected[1], rtol=1e-10, atol=1e-12)


def test_a_layer_that_is_not_reached_is_told() -> None:
    """Of a constant: nothing flows back, so the copies have no gradient."""
    model = a_model()
    batch = Measured(batch_of(2, (6,)), lambda logits: logits[:, 0])
    with forward_pass(model, settings_of(model), batch, torch.float32) as forward:
        assert not forward.differentiate(torch.zeros(()))
        assert not forward.recorder.rows.any()


def test_autocast_lowers_outputs_and_not_logits() -> None:
    model = a_model().float()
    batch = Measured(batch_of(2, (6,)).float(), lambda logits: logits[:, 0])
    with forward_pass(model, settings_of(model), batch, torch.bfloat16) as forward:
        assert (forward.outputs.dtype, forward.logits.dtype) == (torch.bfloat16, torch.float32)


def test_a_model_without_logits_is_refused_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 5), Scale()), nn.Identity()).double().eval()
    model[1].forward = lambda x: [x]
    parameter = model[0][1].scale
    settings, batch = settings_of(model), Measured(batch_of(2, (6,)), lambda logits: logits[:, 0])
    with (
        pytest.raises(ModelError, match="returned an object of type list"),
        forward_pass(model, settings, batch, torch.float32),
    ):
        pass
    assert model[0][1].scale is parameter and all(own.requires_grad for own in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_require_grad_again_afterwards_if_they_did() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with frozen(model):
        assert not model.weight.requires_grad
    assert model.weight.requires_grad and not model.bias.requires_grad
    with pytest.raises(RuntimeError, match="broken"), frozen(model):
        raise RuntimeError("broken")
    assert model.weight.requires_grad and not model.bias.requires_grad


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_off_inside_on_a_gpu_only(allowed: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        with exact_float32(torch.device("cuda")):
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
        with exact_float32(torch.device("cpu")):
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
