"""Rows against a training step: `make bench`.

Both run the same residual network on the same batch, interleaved in one process; the figure is the ratio of samples per second,
median over rounds. Rows include projection of all convolutions and the linear layer at rank 16, not decoding or storage; the
training step is forward and backward of cross-entropy, without an optimizer. The last line is one JSON object.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore import Measured, Projection, RowExtractor, margin, select_layers

ROUNDS = 7
WIDTH = 16


class Block(nn.Module):
    """A pre-activation residual block."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels_in), nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(channels_out), nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        active = F.relu(self.norm1(inputs))
        hidden = self.conv1(active)
        return self.conv2(F.relu(self.norm2(hidden))) + self.shortcut(active)


def network() -> nn.Module:
    """About 0.3 M parameters on 3 x 32 x 32 images."""
    sizes = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
    blocks = [Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2) for i in range(4)]
    head = [nn.BatchNorm2d(sizes[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], 10)]
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), *blocks, *head).eval()


def training_step(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    torch.manual_seed(0)
    figures: dict[str, float] = {}
    for batch in (64, 256):
        inputs, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
        trained, model = network(), network()
        for parameters in ("matrices", "all"):
            extractor = RowExtractor(model, select_layers(model, parameters=parameters).covered, Projection())

            step, rows = partial(training_step, trained, inputs, labels), partial(extractor, Measured(inputs, margin))
            rounds = [(seconds(step), seconds(rows)) for _ in range(ROUNDS + 1)][1:]
            figures[f"resnet/batch{batch}/{parameters}"] = round(statistics.median(plain / own for plain, own in rounds), 3)
            print(f"resnet, batch {batch}, {parameters}: rows at {figures[f'resnet/batch{batch}/{parameters}']:.2f} of a training step's samples per second")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
