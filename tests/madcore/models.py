"""Small float64 models: one per layer kind and setting, and modules that are used in unusual ways."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.madcore.kinds import (
    CentredLayerNorm,
    HouseLayerNorm,
    HouseRMSNorm,
    Looks,
    OnePlusRMSNorm,
    ScaledEmbedding,
    SharedPositions,
)

CLASSES = 3


def with_head(body: nn.Module, sample_shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """The body with a classifier of 3 classes after it, float64, in eval mode, all parameters and statistics random."""
    generator = torch.Generator().manual_seed(seed)
    features = body.eval()(torch.zeros(1, *sample_shape)).numel()
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(features, CLASSES)).double().eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                    + (0.5 if tensor.ndim == 1 else -0.5)
                )
    return model


def batch_of(n: int, sample_shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """n Gaussian inputs, float64."""
    return torch.randn(n, *sample_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class LayerCase:
    """A body under test and the shape of one of its inputs."""

    body: Callable[[], nn.Module]
    sample_shape: tuple[int, ...]


def conv(dimensions: int, *args: int, **kwargs: object) -> Callable[[], nn.Module]:
    """A convolution after a pointwise one and an activation, so that its input is not the model's."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return lambda: nn.Sequential(kind(2, args[0], 1), nn.Tanh(), kind(*args, **kwargs), nn.Tanh())


def transposed(dimensions: int, *args: int, **kwargs: object) -> Callable[[], nn.Module]:
    """A transposed convolution after a pointwise one and an activation."""
    pointwise = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
    return lambda: nn.Sequential(pointwise(2, args[0], 1), nn.Tanh(), kind(*args, **kwargs), nn.Tanh())


LAYER_CASES = {
    "linear (n, d)": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh()), (6,)),
    "linear (n, s, d)": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (3, 6)),
    "linear (n, s, t, d)": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (2, 3, 6)),
    "linear without bias": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh()), (6,)),
    "conv1d": LayerCase(conv(1, 3, 4, 3), (2, 7)),
    "conv1d strided, padded": LayerCase(conv(1, 3, 4, 3, stride=2, padding=2), (2, 7)),
    "conv1d same, dilated": LayerCase(conv(1, 3, 4, 3, padding="same", dilation=2), (2, 7)),
    "conv1d groups": LayerCase(conv(1, 4, 6, 3, groups=2), (2, 6)),
    "conv2d": LayerCase(conv(2, 3, 4, 3), (2, 5, 4)),
    "conv2d without bias": LayerCase(conv(2, 3, 4, 3, bias=False), (2, 5, 4)),
    "conv2d rectangular": LayerCase(conv(2, 3, 4, (3, 1), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 5, 4)),
    "conv2d valid": LayerCase(conv(2, 3, 4, 3, padding="valid"), (2, 5, 4)),
    "conv2d same": LayerCase(conv(2, 3, 4, 3, padding="same"), (2, 5, 4)),
    "conv2d groups": LayerCase(conv(2, 4, 6, 3, groups=2, padding=1), (2, 4, 4)),
    "conv2d depthwise": LayerCase(conv(2, 4, 4, 3, groups=4), (2, 4, 4)),
    "conv2d depthwise, two filters a channel": LayerCase(conv(2, 3, 6, 3, groups=3, stride=2), (2, 5, 5)),
    "conv2d reflect": LayerCase(conv(2, 3, 4, 3, padding=(1, 2), padding_mode="reflect"), (2, 5, 4)),
    "conv2d replicate": LayerCase(conv(2, 3, 4, 3, padding=2, padding_mode="replicate", stride=2), (2, 5, 4)),
    "conv2d circular": LayerCase(conv(2, 3, 4, 3, padding=(1, 2), padding_mode="circular", groups=1), (2, 5, 4)),
    "conv2d circular, same": LayerCase(
        conv(2, 3, 4, 3, padding="same", padding_mode="circular", dilation=(1, 2)), (2, 5, 6)
    ),
    "conv2d reflect, groups": LayerCase(conv(2, 4, 4, 3, padding=1, padding_mode="reflect", groups=2), (2, 4, 4)),
    "conv3d": LayerCase(conv(3, 3, 4, 2), (2, 3, 3, 3)),
    "conv3d strided, padded, groups": LayerCase(
        conv(3, 4, 4, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), groups=2), (2, 2, 4, 3)
    ),
    "conv3d replicate": LayerCase(conv(3, 3, 4, 3, padding=1, padding_mode="replicate"), (2, 3, 3, 3)),
    "batchnorm1d (n, c)": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()), (6,)),
    "batchnorm1d (n, c, s)": LayerCase(lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.Tanh()), (2, 6)),
    "batchnorm2d": LayerCase(
        lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Tanh()), (2, 4, 5)
    ),
    "batchnorm3d": LayerCase(lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.Tanh()), (2, 3, 3, 3)),
    "conv1d reflect": LayerCase(conv(1, 3, 4, 3, padding=2, padding_mode="reflect", dilation=2), (2, 7)),
    "conv3d circular, same": LayerCase(conv(3, 3, 4, (1, 3, 3), padding="same", padding_mode="circular"), (2, 2, 3, 4)),
    "conv3d reflect": LayerCase(conv(3, 3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 3, 3)),
    "conv1d same, reflect": LayerCase(conv(1, 3, 4, 3, padding="same", padding_mode="reflect"), (2, 7)),
    "conv2d same, replicate, groups": LayerCase(
        conv(2, 4, 4, 3, padding="same", padding_mode="replicate", groups=2), (2, 5, 4)
    ),
    "transposed conv1d": LayerCase(transposed(1, 3, 4, 3), (2, 5)),
    "transposed conv1d strided, padded, dilated": LayerCase(
        transposed(1, 3, 4, 3, stride=2, padding=1, output_padding=1, dilation=2), (2, 5)
    ),
    "transposed conv1d output padding beyond the stride": LayerCase(
        transposed(1, 3, 4, 2, stride=1, output_padding=2, dilation=3), (2, 4)
    ),
    "transposed conv2d": LayerCase(transposed(2, 3, 4, 3), (2, 3, 4)),
    "transposed conv2d without bias": LayerCase(transposed(2, 3, 4, 2, stride=2, bias=False), (2, 3, 4)),
    "transposed conv2d rectangular": LayerCase(
        transposed(2, 3, 4, (3, 1), stride=(2, 1), padding=(1, 0), output_padding=(1, 0)), (2, 3, 4)
    ),
    "transposed conv2d groups": LayerCase(transposed(2, 4, 6, 3, groups=2, stride=2, output_padding=1), (2, 2, 3)),
    "transposed conv2d depthwise": LayerCase(transposed(2, 4, 4, 3, groups=4), (2, 2, 3)),
    "transposed conv3d": LayerCase(transposed(3, 3, 2, 2, stride=(1, 2, 1), padding=(0, 1, 0)), (2, 2, 2, 3)),
    "layernorm": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh()), (6,)),
    "layernorm (n, s, d)": LayerCase(
        lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5), nn.LayerNorm(5, eps=0.1), nn.Tanh()), (3, 6)
    ),
    "layernorm over two axes": LayerCase(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm((3, 5)), nn.Tanh()), (2, 3, 6)
    ),
    "layernorm without bias": LayerCase(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5, bias=False), nn.Tanh()), (3, 6)
    ),
    "rmsnorm": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.RMSNorm(5), nn.Tanh()), (3, 6)),
    "rmsnorm with an epsilon": LayerCase(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.RMSNorm(5, eps=0.1), nn.Tanh()), (3, 6)
    ),
    "rmsnorm as Llama spells it": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), HouseRMSNorm(5), nn.Tanh()), (3, 6)),
    "rmsnorm as Gemma spells it": LayerCase(
        lambda: nn.Sequential(nn.Linear(6, 5), OnePlusRMSNorm(5), nn.Tanh()), (3, 6)
    ),
    "rmsnorm as T5 spells it": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), HouseLayerNorm(5), nn.Tanh()), (3, 6)),
    "layernorm of one's own": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), CentredLayerNorm(5), nn.Tanh()), (3, 6)),
    "groupnorm (n, c)": LayerCase(lambda: nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.Tanh()), (5,)),
    "groupnorm": LayerCase(lambda: nn.Sequential(nn.Conv2d(2, 6, 2), nn.GroupNorm(3, 6), nn.Tanh()), (2, 4, 5)),
    "instancenorm1d": LayerCase(
        lambda: nn.Sequential(nn.Conv1d(2, 4, 2, bias=False), nn.InstanceNorm1d(4, affine=True), nn.Tanh()), (2, 5)
    ),
    "instancenorm2d with statistics": LayerCase(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Tanh()
        ),
        (2, 4, 5),
    ),
    "instancenorm3d": LayerCase(
        lambda: nn.Sequential(nn.Conv3d(2, 3, 2, bias=False), nn.InstanceNorm3d(3, affine=True), nn.Tanh()),
        (2, 3, 3, 3),
    ),
    "embedding": LayerCase(lambda: nn.Sequential(Looks(nn.Embedding(7, 5)), nn.Tanh()), (4,)),
    "embedding (n, s, t)": LayerCase(lambda: nn.Sequential(Looks(nn.Embedding(7, 5)), nn.Tanh()), (4, 3)),
    "embedding with padding": LayerCase(
        lambda: nn.Sequential(Looks(nn.Embedding(4, 5, padding_idx=1)), nn.Tanh()), (9,)
    ),
    "embedding that scales": LayerCase(lambda: nn.Sequential(Looks(ScaledEmbedding(7, 5)), nn.Tanh()), (4,)),
    "embedding of positions for all": LayerCase(
        lambda: nn.Sequential(nn.Linear(6, 5), SharedPositions(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4, 6)
    ),
    "layer on the model's input": LayerCase(lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 4, 4)),
}


class Residual(nn.Module):
    """A pre-activation block that adds its shortcut in place."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.first, self.second = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x plus two convolutions of it."""
        out = self.second(self.relu(self.first(self.relu(self.norm(x)))))
        out += x
        return out


def before_in_place(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A layer and an activation that overwrites its output."""
    return lambda: nn.Sequential(build(), nn.Hardtanh(-2, 2, inplace=True))


IN_PLACE_CASES = {
    "after a layernorm": LayerCase(before_in_place(lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))), (3, 6)),
    "after an rmsnorm": LayerCase(before_in_place(lambda: nn.Sequential(nn.Linear(6, 5), nn.RMSNorm(5))), (3, 6)),
    "after a groupnorm": LayerCase(
        before_in_place(lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4))), (2, 4, 5)
    ),
    "after an instancenorm": LayerCase(
        before_in_place(lambda: nn.Sequential(nn.Conv2d(2, 4, 2, bias=False), nn.InstanceNorm2d(4, affine=True))),
        (2, 4, 5),
    ),
    "after a transposed conv2d": LayerCase(
        before_in_place(lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 3, 2))), (2, 3, 4)
    ),
    "after an embedding": LayerCase(
        before_in_place(lambda: nn.Sequential(nn.Identity(), Looks(nn.Embedding(7, 5)))), (4,)
    ),
    "after positions for all": LayerCase(
        before_in_place(lambda: nn.Sequential(nn.Linear(6, 5), SharedPositions(4, 5))), (4, 6)
    ),
    "after the first layer": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True)), (6,)),
    "after every linear (n, s, d)": LayerCase(
        lambda: nn.Sequential(
            nn.Linear(6, 5),
            nn.ReLU(inplace=True),
            nn.Linear(5, 4),
            nn.ReLU(inplace=True),
            nn.Linear(4, 4, bias=False),
            nn.ELU(inplace=True),
        ),
        (3, 6),
    ),
    "after the first conv1d": LayerCase(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(inplace=True)), (2, 5)),
    "after the first conv2d": LayerCase(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)), (2, 5, 4)),
    "after every conv2d": LayerCase(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 2), nn.Hardtanh(inplace=True), nn.Conv2d(3, 3, 1)
        ),
        (2, 5, 4),
    ),
    "after a batchnorm": LayerCase(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), (2, 5, 4)
    ),
    "shortcut added in place": LayerCase(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 1), Residual(3), Residual(3)), (2, 4, 4)
    ),
}


class Twice(nn.Module):
    """One Linear and one Conv1d, each called twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, 5) to (n, 2, 5)."""
        x = torch.tanh(self.conv(torch.tanh(self.conv(x))))
        return self.linear(torch.tanh(self.linear(x)))


class ReusesInput(nn.Module):
    """Feeds a layer with a tensor that is then scaled: in place, or out of place where autograd needs the original."""

    def __init__(self, scale: Callable[[Tensor, float], Tensor]):
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(6, 5), nn.Linear(5, 5), scale

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        hidden = self.first(x)
        out = self.second(hidden)
        return torch.tanh(out) + self.scale(hidden, 3.0)
