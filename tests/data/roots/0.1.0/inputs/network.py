"""The network of the roots of released versions. Its bytes are part of the model's digest: never change them."""

from torch import nn


def build() -> nn.Module:
    """A classifier of digits, 3 x 8 x 8."""
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 10))
