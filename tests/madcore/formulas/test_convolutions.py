"""Rows of any convolution equal autograd's, and of single pieces the sums written out."""

import pytest
import torch
from hypothesis import given
from torch import nn

from madcore.formulas.convolutions import channels_by_group, projected_outer
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


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("projected", [False, True], ids=["whole", "projected"])
def test_channels_by_group_equal_a_loop_over_groups(groups: int, projected: bool) -> None:
    generator = torch.Generator().manual_seed(groups)
    tensor, p0 = torch.randn(2, 6, 4, generator=generator), torch.randn(5, 6, generator=generator)
    size, matrix = 6 // groups, p0 if projected else torch.eye(6)
    own = [slice(group * size, (group + 1) * size) for group in range(groups)]
    expected = torch.cat([matrix[:, place] @ tensor[:, place] for place in own], dim=2)
    torch.testing.assert_close(channels_by_group(tensor, p0 if projected else None, groups), expected)


@pytest.mark.parametrize("positions", [2, 6, 9])
def test_a_projected_outer_product_is_the_same_in_either_order(positions: int) -> None:
    """With 6 channels: fewer positions, as many, and more."""
    generator = torch.Generator().manual_seed(positions)
    shapes = (3, 6, positions), (3, 4, positions), (2, 6)
    grads, patches, p0 = (torch.randn(*shape, generator=generator) for shape in shapes)
    whole = torch.stack(
        [sum(torch.outer(d[:, s], a[:, s]) for s in range(positions)) for d, a in zip(grads, patches, strict=True)]
    )
    torch.testing.assert_close(projected_outer(grads, patches, None), whole)
    torch.testing.assert_close(projected_outer(grads, patches, p0), p0 @ whole)
