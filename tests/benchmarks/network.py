"""The residual image network of the benchmarks, in a file of its own, as an audit's architecture should be."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, SIDE, CLASSES = 16, 32, 10


class Block(nn.Module):
    """A pre-activation residual block (He et al. 2016), with a convolution in its shortcut where shapes differ."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = (
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        )
        self.norm2, self.conv2 = (
            nn.BatchNorm2d(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
        )
        self.shortcut = (
            nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if channels_in != channels_out else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        active = F.relu(self.norm1(inputs))
        skip = inputs if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.norm2(self.conv1(active)))) + skip


def network() -> nn.Module:
    """Four blocks: 12 convolutions, 1 linear layer, about 0.3 M parameters, on 3 x 32 x 32 images."""
    sizes = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
    blocks = [Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2) for i in range(4)]
    head = [nn.BatchNorm2d(sizes[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], CLASSES)]
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), *blocks, *head).eval()
