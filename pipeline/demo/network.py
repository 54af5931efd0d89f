"""The demo's classifier: handwritten digits of 8 x 8 pixels."""

from torch import nn


def digit_cnn(width: int = 16, classes: int = 10) -> nn.Module:
    """Three convolutions and a linear layer; input (n, 3, 8, 8)."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(2 * width * 16, classes),
    )
