"""The twin of torch's attention returns what the original returns, and its projections are recorded one by one."""

from dataclasses import asdict, dataclass, fields

import pytest
import torch
from torch import Tensor, nn

from madcore.extraction.attention import recorded_attention
from madcore.extraction.recording import Member, Recorder
from madcore.formulas.matrices import LinearWeight, Sides
from madcore.formulas.norms import Axes, Bias


@dataclass(frozen=True)
class Settings:
    """Of a module of 6 features and 2 heads."""

    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    batch_first: bool = True


SETTINGS = [
    Settings(),
    Settings(bias=False, batch_first=False),
    Settings(kdim=4),
    Settings(add_bias_kv=True, add_zero_attn=True),
    Settings(add_zero_attn=True, kdim=4, batch_first=False),
]


MASKS: dict[str, tuple[Tensor | None, Tensor | None]] = {
    "none": (None, None),
    "hidden keys": (torch.tensor([[False, False, True, True], [False] * 4]), None),
    "hidden pairs": (None, torch.arange(4) > torch.arange(3).unsqueeze(1)),
    "numbers, for each head": (None, torch.arange(48.0, dtype=torch.float64).reshape(4, 3, 4).sin()),
    "both": (torch.tensor([[False, False, False, True], [False] * 4]), torch.arange(4) > 2),
}


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_module(settings: Settings) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    own = {field.name: getattr(settings, field.name) for field in fields(settings)}
    module = nn.MultiheadAttention(6, 2, **own, vdim=settings.kdim).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def recorder_of(samples: int, k: int) -> Recorder:
    return Recorder(torch.zeros(samples, k, dtype=torch.float64), torch.zeros((), requires_grad=True))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: str(asdict(settings)))
def test_the_twin_returns_what_the_original_returns(settings: Settings, mask: str, need_weights: bool) -> None:
    module, (padding, pairs) = a_module(settings), MASKS[mask]
    pairs = pairs.expand(3, 4) if pairs is not None and pairs.ndim == 1 else pairs
    query, key = normals(2, 3, 6), normals(2, 4, settings.kdim or 6, seed=1)
    if not settings.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    masks = {"key_padding_mask": padding, "attn_mask": pairs, "need_weights": need_weights}
    expected, expected_weights = module(query, key, key, **masks)
    with recorded_attention(recorder_of(2, 0), module, {}):
        output, weights = module(query, key, key, **masks)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    assert (weights is None) == (expected_weights is None) == (not need_weights)
    if need_weights:
        torch.testing.assert_close(weights, expected_weights, rtol=1e-10, atol=1e-12)


def test_weights_of_each_head_and_a_sample_without_a_batch() -> None:
    module, one = a_module(Settings()), normals(3, 6)
    alone = module(one, one, one)[0]
    batch = normals(2, 3, 6)
    by_head = module(batch, batch, batch, average_attn_weights=False)[1]
    with recorded_attention(recorder_of(2, 0), module, {}):
        assert torch.equal(module(one, one, one)[0], alone)
        weights = module(batch, batch, batch, average_attn_weights=False)[1]
    assert weights.shape == (2, 2, 3, 3)
    torch.testing.assert_close(weights, by_head, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cross", [False, True], ids=["self-attention", "cross-attention"])
@pytest.mark.parametrize("projected", [False, True], ids=["whole", "projected"])
def test_the_packed_projection_is_recorded_whole_or_in_thirds(cross: bool, projected: bool) -> None:
    """Rows equal those of a loop over samples with autograd."""
    module, batch = a_module(Settings()), normals(2, 3, 6)
    key = normals(2, 4, 6, seed=1) if cross else batch
    p0, p1 = (normals(2, 18, seed=2), normals(2, 6, seed=3)) if projected else (None, None)
    weight = Member("0.in_proj_weight", LinearWeight((18, 6)), Sides(p0, p1), slice(0, 4 if projected else 108))
    place = slice(weight.place.stop, weight.place.stop + (2 if projected else 18))
    bias = Member("0.in_proj_bias", Bias(Axes((18,), last=True)), Sides(p0, None), place)
    expected = []
    for one, other in zip(batch.split(1), key.split(1) if cross else batch.split(1), strict=True):
        output = module(one, other if cross else one, other if cross else one)[0].sin().sum()
        whole, vector = torch.autograd.grad(output, [module.in_proj_weight, module.in_proj_bias])
        left, right = (whole, vector) if p0 is None else (p0 @ whole @ p1.T, p0 @ vector)
        expected.append(torch.cat([left.flatten(), right]))
    recorder = recorder_of(2, place.stop)
    module.requires_grad_(False)
    with recorded_attention(recorder, module, {"in_proj_weight": weight, "in_proj_bias": bias}):
        module(batch, key, key)[0].sin().sum().backward()
    torch.testing.assert_close(recorder.rows, torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_the_original_is_back_afterwards_also_after_a_failure() -> None:
    module = a_module(Settings())
    with recorded_attention(recorder_of(2, 0), module, {}):
        assert "forward" in vars(module) and module._forward_hooks
    assert "forward" not in vars(module) and not module._forward_hooks
    with pytest.raises(RuntimeError, match="broken"), recorded_attention(recorder_of(2, 0), module, {}):
        raise RuntimeError("broken")
    assert "forward" not in vars(module) and not module._forward_hooks
