"""Small float64 models: one per layer kind and setting, and modules that are used in unusual ways."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CLASSES = 3


def with_head(body: nn.Module, sample_shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """The body with a classifier of 3 classes behind it, float64, in eval mode, all parameters and statistics random."""
    generator = torch.Generator().manual_seed(seed)
    features = body.eval()(torch.zeros(1, *sample_shape)).numel()
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(features, CLASSES)).double().eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + (0.5 if tensor.ndim == 1 else -0.5))
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


class HouseRMSNorm(nn.Module):
    """RMSNorm of one's own, as Hugging Face's models have it."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(size)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size), scaled to unit mean square."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class HouseLayerNorm(HouseRMSNorm):
    """The same under T5's name for it."""


class OnePlusRMSNorm(nn.Module):
    """RMSNorm whose weight is a difference from one."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size), scaled to unit mean square."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class CentredLayerNorm(nn.Module):
    """LayerNorm of one's own."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size), centred and scaled to unit variance."""
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


class Looks(nn.Module):
    """Makes ids of numbers, and looks them up."""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, ..., d)."""
        return self.table((10 * x).long() % self.table.num_embeddings)


class ScaledEmbedding(nn.Embedding):
    """Multiplies its vectors, as Gemma's does."""

    embed_scale = 3.0

    def forward(self, ids: Tensor) -> Tensor:
        """(n, ...) to (n, ..., d)."""
        return super().forward(ids) * self.embed_scale


class SharedPositions(nn.Module):
    """Adds a learned vector per position, looked up once for all samples."""

    def __init__(self, positions: int, size: int):
        super().__init__()
        self.table = nn.Embedding(positions, size)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, d) to the same."""
        return x + self.table(torch.arange(x.shape[1]).unsqueeze(0))


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
    "conv2d circular, same": LayerCase(conv(2, 3, 4, 3, padding="same", padding_mode="circular", dilation=(1, 2)), (2, 5, 6)),
    "conv2d reflect, groups": LayerCase(conv(2, 4, 4, 3, padding=1, padding_mode="reflect", groups=2), (2, 4, 4)),
    "conv3d": LayerCase(conv(3, 3, 4, 2), (2, 3, 3, 3)),
    "conv3d strided, padded, groups": LayerCase(conv(3, 4, 4, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), groups=2), (2, 2, 4, 3)),
    "conv3d replicate": LayerCase(conv(3, 3, 4, 3, padding=1, padding_mode="replicate"), (2, 3, 3, 3)),
    "batchnorm1d (n, c)": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()), (6,)),
    "batchnorm1d (n, c, s)": LayerCase(lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.Tanh()), (2, 6)),
    "batchnorm2d": LayerCase(lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Tanh()), (2, 4, 5)),
    "batchnorm3d": LayerCase(lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.Tanh()), (2, 3, 3, 3)),
    "conv1d reflect": LayerCase(conv(1, 3, 4, 3, padding=2, padding_mode="reflect", dilation=2), (2, 7)),
    "conv3d circular, same": LayerCase(conv(3, 3, 4, (1, 3, 3), padding="same", padding_mode="circular"), (2, 2, 3, 4)),
    "conv3d reflect": LayerCase(conv(3, 3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 3, 3)),
    "conv1d same, reflect": LayerCase(conv(1, 3, 4, 3, padding="same", padding_mode="reflect"), (2, 7)),
    "conv2d same, replicate, groups": LayerCase(conv(2, 4, 4, 3, padding="same", padding_mode="replicate", groups=2), (2, 5, 4)),
    "transposed conv1d": LayerCase(transposed(1, 3, 4, 3), (2, 5)),
    "transposed conv1d strided, padded, dilated": LayerCase(transposed(1, 3, 4, 3, stride=2, padding=1, output_padding=1, dilation=2), (2, 5)),
    "transposed conv1d output padding beyond the stride": LayerCase(transposed(1, 3, 4, 2, stride=1, output_padding=2, dilation=3), (2, 4)),
    "transposed conv2d": LayerCase(transposed(2, 3, 4, 3), (2, 3, 4)),
    "transposed conv2d without bias": LayerCase(transposed(2, 3, 4, 2, stride=2, bias=False), (2, 3, 4)),
    "transposed conv2d rectangular": LayerCase(transposed(2, 3, 4, (3, 1), stride=(2, 1), padding=(1, 0), output_padding=(1, 0)), (2, 3, 4)),
    "transposed conv2d groups": LayerCase(transposed(2, 4, 6, 3, groups=2, stride=2, output_padding=1), (2, 2, 3)),
    "transposed conv2d depthwise": LayerCase(transposed(2, 4, 4, 3, groups=4), (2, 2, 3)),
    "transposed conv3d": LayerCase(transposed(3, 3, 2, 2, stride=(1, 2, 1), padding=(0, 1, 0)), (2, 2, 2, 3)),
    "layernorm": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh()), (6,)),
    "layernorm (n, s, d)": LayerCase(lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5), nn.LayerNorm(5, eps=0.1), nn.Tanh()), (3, 6)),
    "layernorm over two axes": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm((3, 5)), nn.Tanh()), (2, 3, 6)),
    "layernorm without bias": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5, bias=False), nn.Tanh()), (3, 6)),
    "rmsnorm": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.RMSNorm(5), nn.Tanh()), (3, 6)),
    "rmsnorm with an epsilon": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.RMSNorm(5, eps=0.1), nn.Tanh()), (3, 6)),
    "rmsnorm as Llama spells it": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), HouseRMSNorm(5), nn.Tanh()), (3, 6)),
    "rmsnorm as Gemma spells it": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), OnePlusRMSNorm(5), nn.Tanh()), (3, 6)),
    "rmsnorm as T5 spells it": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), HouseLayerNorm(5), nn.Tanh()), (3, 6)),
    "layernorm of one's own": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), CentredLayerNorm(5), nn.Tanh()), (3, 6)),
    "groupnorm (n, c)": LayerCase(lambda: nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.Tanh()), (5,)),
    "groupnorm": LayerCase(lambda: nn.Sequential(nn.Conv2d(2, 6, 2), nn.GroupNorm(3, 6), nn.Tanh()), (2, 4, 5)),
    "instancenorm1d": LayerCase(lambda: nn.Sequential(nn.Conv1d(2, 4, 2, bias=False), nn.InstanceNorm1d(4, affine=True), nn.Tanh()), (2, 5)),
    "instancenorm2d with statistics": LayerCase(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Tanh()), (2, 4, 5)
    ),
    "instancenorm3d": LayerCase(lambda: nn.Sequential(nn.Conv3d(2, 3, 2, bias=False), nn.InstanceNorm3d(3, affine=True), nn.Tanh()), (2, 3, 3, 3)),
    "embedding": LayerCase(lambda: nn.Sequential(Looks(nn.Embedding(7, 5)), nn.Tanh()), (4,)),
    "embedding (n, s, t)": LayerCase(lambda: nn.Sequential(Looks(nn.Embedding(7, 5)), nn.Tanh()), (4, 3)),
    "embedding with padding": LayerCase(lambda: nn.Sequential(Looks(nn.Embedding(4, 5, padding_idx=1)), nn.Tanh()), (9,)),
    "embedding that scales": LayerCase(lambda: nn.Sequential(Looks(ScaledEmbedding(7, 5)), nn.Tanh()), (4,)),
    "embedding of positions for all": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), SharedPositions(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4, 6)),
    "layer on the model's input": LayerCase(lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 4, 4)),
}


class Residual(nn.Module):
    """A pre-activation block that adds its shortcut in place."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.first, self.second = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)

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
    "after a groupnorm": LayerCase(before_in_place(lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4))), (2, 4, 5)),
    "after an instancenorm": LayerCase(before_in_place(lambda: nn.Sequential(nn.Conv2d(2, 4, 2, bias=False), nn.InstanceNorm2d(4, affine=True))), (2, 4, 5)),
    "after a transposed conv2d": LayerCase(before_in_place(lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 3, 2))), (2, 3, 4)),
    "after an embedding": LayerCase(before_in_place(lambda: nn.Sequential(nn.Identity(), Looks(nn.Embedding(7, 5)))), (4,)),
    "after positions for all": LayerCase(before_in_place(lambda: nn.Sequential(nn.Linear(6, 5), SharedPositions(4, 5))), (4, 6)),
    "after the first layer": LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True)), (6,)),
    "after every linear (n, s, d)": LayerCase(
        lambda: nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 4, bias=False), nn.ELU(inplace=True)
        ),
        (3, 6),
    ),
    "after the first conv1d": LayerCase(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(inplace=True)), (2, 5)),
    "after the first conv2d": LayerCase(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)), (2, 5, 4)),
    "after every conv2d": LayerCase(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 2), nn.Hardtanh(inplace=True), nn.Conv2d(3, 3, 1)), (2, 5, 4)
    ),
    "after a batchnorm": LayerCase(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), (2, 5, 4)),
    "shortcut added in place": LayerCase(lambda: nn.Sequential(nn.Conv2d(2, 3, 1), Residual(3), Residual(3)), (2, 4, 4)),
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


class Attends(nn.Module):
    """Self-attention, whose output projection is used without calling its module."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.attention, self.outputs = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        x = self.inputs(x)
        return self.outputs(self.attention(x, x, x, need_weights=False)[0])


class Tied(nn.Module):
    """Two modules that share one weight, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.own = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 6)."""
        return self.second(torch.tanh(self.own(torch.tanh(self.first(x)))))


class LayerScale(nn.Module):
    """Multiplies channels by a learned vector, in place or not, as vision transformers do."""

    def __init__(self, size: int, inplace: bool = False):
        super().__init__()
        self.gamma, self.inplace = nn.Parameter(torch.ones(size)), inplace

    def forward(self, x: Tensor) -> Tensor:
        """(n, ..., size) to the same."""
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class Block(nn.Module):
    """A transformer's block with layer scales."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.norm1, self.attention, self.scale1 = nn.LayerNorm(size), nn.MultiheadAttention(size, heads, batch_first=True), LayerScale(size)
        self.norm2, self.scale2 = nn.LayerNorm(size), LayerScale(size, inplace=True)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(inplace=True), nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, size) to the same."""
        normed = self.norm1(x)
        x = x + self.scale1(self.attention(normed, normed, normed, need_weights=False)[0])
        return x + self.scale2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Patches of 2 x 2, a class token, position embeddings, two blocks, and the class token's features."""

    def __init__(self, repeats_token: bool = False):
        super().__init__()
        self.patches, self.repeats_token = nn.Conv2d(2, 6, 2, stride=2), repeats_token
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.zeros(1, 5, 6))
        self.blocks, self.norm = nn.Sequential(Block(6, 2), Block(6, 3)), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, 4, 4) to (n, 6)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.repeat(len(x), 1, 1) if self.repeats_token else self.token.expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([token, x], dim=1) + self.positions))[:, 0]


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self, use_reentrant: bool):
        super().__init__()
        self.first, self.use_reentrant = nn.Linear(6, 6), use_reentrant
        self.blocks = nn.ModuleList([Block(6, 2), nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.LayerNorm(5))])

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return x


class Mixture(nn.Module):
    """Experts whose weights are one parameter, and a gate that is another: a kind of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.gate, self.temperature = nn.Parameter(torch.zeros(3, 6, 5)), nn.Linear(6, 3), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s, 5)."""
        weights = torch.softmax(self.gate(x) * self.temperature, dim=-1)
        return torch.einsum("nse,nsd,edo->nso", weights, x, self.experts)


class ReturnsTwo(nn.Module):
    """Returns its results in a mapping, one of them twice used, from keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.shift = nn.Parameter(torch.zeros(6, 5)), nn.Parameter(torch.zeros(5))

    def forward(self, *, x: Tensor, twice: bool) -> dict[str, Tensor]:
        """(n, 6) to two of (n, 5)."""
        out = x @ self.table + self.shift
        return {"plain": out, "squared": out.square() if twice else out}


class AddsTwo(nn.Module):
    """Uses what another returns in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = ReturnsTwo(), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        both = self.inner(x=x, twice=True)
        return self.outer(both["plain"]) + both["squared"]


class ClassVector(nn.Module):
    """Appends a learned vector without axes for samples and positions, as CLIP does, and scales by a learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.scale, self.inner = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(())), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s + 1, 5)."""
        x = self.inner(x)
        return torch.tanh(torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)) * self.scale.exp()


class Encoder(nn.Module):
    """Self-attention, then attention to it: torch's own layers, with samples first or second."""

    def __init__(self, batch_first: bool):
        super().__init__()
        self.batch_first = batch_first
        settings = {"dim_feedforward": 5, "dropout": 0.0, "batch_first": batch_first}
        self.encoder, self.decoder = nn.TransformerEncoderLayer(6, 2, **settings), nn.TransformerDecoderLayer(6, 3, **settings)

    def forward(self, x: Tensor) -> Tensor:
        """(n, s, 6) to (n, s - 1, 6)."""
        x = x if self.batch_first else x.transpose(0, 1)
        memory = self.encoder(x)
        out = self.decoder(x[:, 1:] if self.batch_first else x[1:], memory)
        return out if self.batch_first else out.transpose(0, 1)


@dataclass(frozen=True)
class Attention:
    """Settings of `nn.MultiheadAttention`, and of its call."""

    batch_first: bool = True
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    cross: bool = False
    need_weights: bool = False
    average: bool = True
    mask: str = "none"
    padding: str = "none"


class Attentive(nn.Module):
    """Attention of 3 positions to themselves, or to 4 others, in any setting; its weights take part in what it returns."""

    def __init__(self, settings: Attention):
        super().__init__()
        self.settings, s = settings, settings
        self.queries = nn.Linear(6, 6)
        self.keys = nn.Linear(6, s.kdim or 6) if s.cross or s.kdim else None
        self.attention = nn.MultiheadAttention(
            6, 2, bias=s.bias, add_bias_kv=s.add_bias_kv, add_zero_attn=s.add_zero_attn, kdim=s.kdim, vdim=s.kdim, batch_first=s.batch_first
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, 7, 6) to (n, 3, ...)."""
        s = self.settings
        query = self.queries(x[:, :3])
        key = query if self.keys is None else torch.tanh(self.keys(x[:, 3:]))
        mask, padding = self._mask(query, key), self._padding(key)
        if not s.batch_first:
            query, key = (query.transpose(0, 1), key.transpose(0, 1)) if key is not query else [query.transpose(0, 1)] * 2
        out, weights = self.attention(query, key, key, key_padding_mask=padding, attn_mask=mask, need_weights=s.need_weights, average_attn_weights=s.average)
        out = out if s.batch_first else out.transpose(0, 1)
        return torch.tanh(out) if weights is None else torch.cat([out.flatten(1), weights.flatten(1)], dim=1)

    def _mask(self, query: Tensor, key: Tensor) -> Tensor | None:
        causal = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1)
        if self.settings.mask == "per head":
            return causal.expand(2 * len(query), -1, -1)
        return {"none": None, "bool": causal, "float": 0.5 * causal.to(query.dtype)}[self.settings.mask]

    def _padding(self, key: Tensor) -> Tensor | None:
        last = torch.zeros(key.shape[:2], dtype=torch.bool)
        last[:, -1] = True
        return {"none": None, "bool": last, "float": -0.5 * last.to(key.dtype)}[self.settings.padding]


ATTENTIONS = {
    "itself": Attention(),
    "itself, samples second": Attention(batch_first=False),
    "itself, with weights": Attention(need_weights=True),
    "itself, with each head's weights": Attention(need_weights=True, average=False),
    "without biases": Attention(bias=False),
    "another": Attention(cross=True),
    "another, samples second, with weights": Attention(cross=True, batch_first=False, need_weights=True),
    "keys of another size": Attention(kdim=4),
    "keys of another size, samples second": Attention(kdim=4, batch_first=False, bias=False),
    "learned keys and a zero": Attention(add_bias_kv=True, add_zero_attn=True, padding="bool", mask="bool"),
    "learned keys, with weights": Attention(cross=True, add_bias_kv=True, need_weights=True),
    "masked": Attention(mask="bool"),
    "masked by numbers": Attention(mask="float", padding="float", need_weights=True),
    "masked per head": Attention(mask="per head", padding="bool"),
}


def zoo_of_attention() -> dict[str, LayerCase]:
    """One body per setting."""
    return {f"attention: {name}": LayerCase(lambda settings=settings: Attentive(settings), (7, 6)) for name, settings in ATTENTIONS.items()}


def decoder() -> nn.Module:
    """From a vector to an image, by transposed convolutions."""
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Unflatten(1, (4, 2, 1)),
        nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        nn.GroupNorm(3, 3),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(3, 2, 2, groups=1, bias=False),
        nn.BatchNorm2d(2),
        nn.Tanh(),
    )


ZOO = {
    "vision transformer": LayerCase(VisionTransformer, (2, 4, 4)),
    "decoder": LayerCase(decoder, (6,)),
    "checkpointed": LayerCase(lambda: Checkpointed(use_reentrant=False), (3, 6)),
    "checkpointed, reentrant": LayerCase(lambda: Checkpointed(use_reentrant=True), (3, 6)),
    "tied": LayerCase(Tied, (6,)),
    "attention and linear maps": LayerCase(Attends, (4, 6)),
    "torch's transformer": LayerCase(lambda: Encoder(batch_first=True), (4, 6)),
    "torch's transformer, samples second": LayerCase(lambda: Encoder(batch_first=False), (4, 6)),
    "class vector": LayerCase(ClassVector, (4, 6)),
    **zoo_of_attention(),
}
BY_FALLBACK = {
    "mixture": (LayerCase(Mixture, (4, 6)), ("0.experts",)),
    "a repeated token": (LayerCase(lambda: VisionTransformer(repeats_token=True), (2, 4, 4)), ("0.token",)),
    "a slope": (LayerCase(lambda: nn.Sequential(nn.Linear(6, 5), nn.PReLU()), (6,)), ("0.1.weight",)),
    "outputs in a mapping": (LayerCase(AddsTwo, (6,)), ("0.inner.table",)),
}
