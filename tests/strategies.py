"""Hypothesis strategies shared by the suites, and how hard laws are tried: few examples, the same ones every time."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from madcore import RowLayout

LAW = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)  # a busy machine breaks no law


seeds = st.integers(0, 2**32 - 1)


layouts = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(
    lambda sizes: RowLayout(tuple(f"layer{i}.weight" for i in range(len(sizes))), tuple(sizes))
)


def normal_rows(seed: int, n: int, k: int) -> Tensor:
    """Gaussian rows (n, k), float32."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, k))).float()


@dataclass(frozen=True)
class ConvCase:
    """One convolution on one input: arguments of the module, and the input's spatial sides."""

    dimensions: int
    groups: int
    channels: tuple[int, int]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: str
    bias: bool
    sides: tuple[int, ...]


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    """Convolutions of one to three dimensions whose kernel fits their padded input."""
    dimensions = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, stride, dilation = each(1, 3), each(1, 2), each(1, 2)
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    padding = each(0, 2)
    sides = tuple(
        d * (k - 1) + 1 + draw(st.integers(0, 2)) + 2 * (mode != "zeros") for k, d in zip(kernel, dilation, strict=True)
    )
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return ConvCase(dimensions, groups, channels, kernel, stride, padding, dilation, mode, draw(st.booleans()), sides)


@dataclass(frozen=True)
class TransposedConvCase:
    """One transposed convolution on one input: arguments of the module, and the input's spatial sides."""

    dimensions: int
    groups: int
    channels: tuple[int, int]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    bias: bool
    sides: tuple[int, ...]


@st.composite
def transposed_conv_cases(draw: st.DrawFn) -> TransposedConvCase:
    """Transposed convolutions of one to three dimensions whose output has at least one entry along each."""
    dimensions = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, stride, dilation, sides = each(1, 3), each(1, 3), each(1, 2), each(1, 3)
    output_padding = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    largest = [((n - 1) * s + d * (k - 1)) // 2 for n, s, d, k in zip(sides, stride, dilation, kernel, strict=True)]
    padding = tuple(draw(st.integers(0, min(2, most))) for most in largest)
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return TransposedConvCase(
        dimensions, groups, channels, kernel, stride, padding, output_padding, dilation, draw(st.booleans()), sides
    )
