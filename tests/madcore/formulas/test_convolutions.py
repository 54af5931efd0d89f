"""Rows of any convolution equal autograd's, and of single pieces the sums written out."""

import pytest
from hypothesis import given
from torch import nn

from tests.madcore.checks import ABOVE, BELOW, assert_equals_autograd
from tests.madcore.models import batch_of, with_head
from tests.strategies import LAW, ConvCase, TransposedConvCase, conv_cases, seeds, transposed_conv_cases


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@LAW
@given(conv_cases(), seeds)
def test_any_convolution(case: ConvCase, seed: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[case.dimensions - 1]
    settings = {
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
        "padding_mode": case.padding_mode,
    }
    body = nn.Sequential(
        kind(2, case.channels[0], 1),
        nn.Tanh(),
        kind(*case.channels, case.kernel, groups=case.groups, bias=case.bias, **settings),
        nn.Tanh(),
    )
    shape = (2, *case.sides)
    model, batch = with_head(body, shape, seed), batch_of(2, shape, seed)
    for projection in (BELOW, ABOVE):
        assert_equals_autograd(model, batch, projection)


@LAW
@given(transposed_conv_cases(), seeds)
def test_any_transposed_convolution(case: TransposedConvCase, seed: int) -> None:
    pointwise = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[case.dimensions - 1]
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[case.dimensions - 1]
    settings = {
        "stride": case.stride,
        "padding": case.padding,
        "output_padding": case.output_padding,
        "dilation": case.dilation,
        "bias": case.bias,
    }
    body = nn.Sequential(
        pointwise(2, case.channels[0], 1),
        nn.Tanh(),
        kind(*case.channels, case.kernel, groups=case.groups, **settings),
        nn.Tanh(),
    )
    shape = (2, *case.sides)
    model, batch = with_head(body, shape, seed), batch_of(2, shape, seed)
    for projection in (BELOW, ABOVE):
        assert_equals_autograd(model, batch, projection)
