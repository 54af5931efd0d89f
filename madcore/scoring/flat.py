"""Flat samples: those whose measurement does not depend on the weights, as far as the outputs' precision can tell.

The cosine of a row of zeros with anything is 0, an unremarkable score, and so is that of a row of rounding errors. Such
rows come from outputs that are probabilities of a certain model (softmax at the end), clamped, or constant. They are no
evidence, so they are told from the others here.
"""

import torch
from torch import Tensor, nn

from madcore.measurements import margin
from madcore.rows import Layer, RowLayout

CONSTANT_EPSILONS = 4  # of a trace's largest loss: the rounding of the losses, and of their mean


def weights_norm(model: nn.Module, layers: tuple[Layer, ...]) -> float:
    """Compute |W|, the norm of all numbers of the layers' parameters."""
    named = dict(model.named_parameters(remove_duplicate=False))
    squares = [named[layer.name].detach().double().square().sum().item() for layer in layers if layer.name in named]
    return float(sum(squares) ** 0.5)


def margin_sizes(logits_nc: Tensor) -> Tensor:
    """Return |m|, (n,), of the margins of logits (n, C), C at least 2, or the absolute predicted logit where smaller.

    So neither a number added to all logits counts, which changes no margin, nor the log(C - 1) of logits near 0.
    """
    return torch.minimum(margin(logits_nc).abs(), logits_nc.amax(dim=1).abs())


def flat_rows(norms_n: Tensor, sizes_n: Tensor, weights: float, resolution: float) -> Tensor:
    """Return which rows are flat, (n,) bool: zero, or explained by the rounding of the outputs.

    A change dW of the weights changes the measurement m by at most |g| |dW|, to first order; rounding changes it by
    eps |m|. The step at which a difference sees a derivative best is sqrt(eps) times the size of what is varied
    (Nocedal & Wright 2006, section 8.1), and at |dW| = sqrt(eps) |W| rounding hides a row with

        |g| |W|  <  sqrt(eps) |m|.

    Rows of margins of logits lie far above, for any confidence and scale of the logits, since a margin's derivative for
    its own logit is -1: |g| |W| was at least 100 |m| in six networks, 40 in language models. A row at the bound comes
    from a derivative that rounding has left a few digits of: of a softmax, 1 - p = 3e-6 in float32.

    The derivative of a likelihood is 1 - p, small for confident samples and yet known to all digits, until 1 - p, which
    is computed in the precision of the measurement, is itself rounding: at eps instead of sqrt(eps).

    Args:
        norms_n: |g|, the norms of rows before whitening, float64.
        sizes_n: |m|: `margin_sizes`, or the sum of absolute logits over a completion's tokens.
        weights: |W| of the rows' layers; where it is 0, only a row of zeros is flat.
        resolution: sqrt(eps) of the outputs, or, of a likelihood, eps of the measurement.
    """
    return (norms_n == 0) | (norms_n * weights < resolution * sizes_n.double()) & (weights > 0)


def flat_traces(traces_nk: Tensor, layout: RowLayout) -> Tensor:
    """Return which traces are flat, (n,) bool: constant in each chain but for the rounding of float32.

    The row of a loss trace is its deviation from its chain's mean. A loss that is 0 at every draw is constant too: the
    loss of a sample with a margin above 36 nats is 0 in float64, in which losses are computed.

    Args:
        traces_nk: losses at k draws, float32.
        layout: a block for each chain.
    """
    blocks = layout.blocks(traces_nk)
    ranges = torch.stack([block.amax(dim=1) - block.amin(dim=1) for block in blocks], dim=1)
    largest_n = traces_nk.abs().amax(dim=1, keepdim=True)
    eps = CONSTANT_EPSILONS * torch.finfo(torch.float32).eps
    return (ranges <= eps * largest_n).all(dim=1)
