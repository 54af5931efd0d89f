"""Flat samples: those whose measurement does not depend on the weights, as far as the outputs' precision can tell.

The cosine of a row of zeros with anything is 0, an unremarkable score, and so is that of a row of rounding errors. Such
rows come from outputs that are probabilities of a certain model (softmax at the end), clamped, or constant. They are no
evidence, so they are told from the others here.
"""

import torch
from torch import Tensor, nn

from madcore.rows import Layer, RowLayout

CONSTANT_EPSILONS = 4  # of a trace's largest loss: the rounding of the losses, and of their mean


def weights_norm(model: nn.Module, layers: tuple[Layer, ...]) -> float:
    """Compute |W|, the norm of all numbers of the layers' parameters."""
    named = dict(model.named_parameters(remove_duplicate=False))
    squares = [named[layer.name].detach().double().square().sum().item() for layer in layers if layer.name in named]
    return float(sum(squares) ** 0.5)


def flat_rows(norms_n: Tensor, outputs_n: Tensor, weights: float, resolution: float) -> Tensor:
    """Return which rows are flat, (n,) bool: zero, or explained by the rounding of the outputs.

    A change dW of the weights changes the measurement by at most |g| |dW|, to first order. The rounding of the measured
    output f changes it by eps |f|. The step at which a difference sees a derivative best is sqrt(eps) times the size of
    what is varied (Nocedal & Wright 2006, section 8.1), and at |dW| = sqrt(eps) |W| the rounding hides a row with

        |g| |W|  <=  sqrt(eps) |f|.

    Rows of margins of logits lie far above: |g| |W| was 90 to 230 |f| in six networks, for any confidence and scale of
    the logits (50 to 220 in language models), since a margin's derivative for its own logit is -1. A row at the bound
    comes from a derivative that rounding has left a few digits of: of a softmax, 1 - p = 3e-6 in float32.

    The derivative of a likelihood is 1 - p, small for confident samples and yet known to all digits, until 1 - p, which
    is computed in the precision of the measurement, is itself rounding: at eps instead of sqrt(eps).

    Args:
        norms_n: |g|, the norms of rows before whitening, float64.
        outputs_n: |f|, the absolute measured output: a class's logit, or the sum over a completion's tokens.
        weights: |W| of the rows' layers; where it is 0, only a row of zeros is flat.
        resolution: sqrt(eps) of the outputs, or, of a likelihood, eps of the measurement.
    """
    return (norms_n == 0) | (norms_n * weights < resolution * outputs_n.double()) & (weights > 0)


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
