"""The numerics of mechanistic anomaly detection by functional attribution (arXiv 2604.18970), usable alone.

Torch and numpy only; no files, clock, environment or global state; randomness only from an explicit seed.

A model and a batch give rows (`extraction`, `formulas`), rows of a reference part give a curvature and its damped
inverse (`curvature`), and whitened rows give anomaly scores and calibrated p-values (`scoring`). `sampling` is the
paper's own estimator.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from madcore.coverage.layers import check_layers
from madcore.curvature.kronecker import EigenvalueMoment, KroneckerMoment, SideLayout
from madcore.curvature.moments import BlockMoment
from madcore.curvature.whitening import DampedInverse, Damping, Spectrum, Whitening
from madcore.errors import CalibrationError, LayerError, MadcoreError, ModelError
from madcore.extraction.extractor import RowExtractor
from madcore.extraction.likelihood import SampledCompletions, SampledLabels, gauss_newton_rows, label_uniforms
from madcore.extraction.selection import Coverage, select_layers
from madcore.extraction.vjp_fallback import RerunCost
from madcore.measurements import CrossEntropy, Inputs, Measured, Measurement, margin
from madcore.projections import Projection
from madcore.rows import Layer, RowLayout, row_layout
from madcore.scoring.calibration import p_values, split_order
from madcore.scoring.coupling import References, score
from madcore.scoring.screening import Screened, screen
from madcore.tokens import (
    TokenBatch,
    completion_confidence,
    completion_logits,
    completion_loss,
    completion_nll,
    token_margin,
    token_margins,
)

__all__ = [
    "BlockMoment",
    "CalibrationError",
    "Coverage",
    "CrossEntropy",
    "DampedInverse",
    "Damping",
    "EigenvalueMoment",
    "Inputs",
    "KroneckerMoment",
    "Layer",
    "LayerError",
    "MadcoreError",
    "Measured",
    "Measurement",
    "ModelError",
    "Projection",
    "References",
    "RerunCost",
    "RowExtractor",
    "RowLayout",
    "SampledCompletions",
    "SampledLabels",
    "Screened",
    "SideLayout",
    "Spectrum",
    "TokenBatch",
    "Whitening",
    "check_layers",
    "completion_confidence",
    "completion_logits",
    "completion_loss",
    "completion_nll",
    "gauss_newton_rows",
    "label_uniforms",
    "margin",
    "p_values",
    "per_sample_rows",
    "per_token_rows",
    "row_layout",
    "score",
    "screen",
    "select_layers",
    "split_order",
    "token_margin",
    "token_margins",
]


def per_sample_rows(
    model: nn.Module,
    batch: Inputs,
    *,
    layers: Sequence[Layer] | Sequence[str] = ("*",),
    projection: Projection | None = None,
    measurement: Measurement = margin,
) -> Tensor:
    """Compute the compressed per-sample gradients of a batch, in one forward and backward pass.

    Args:
        model: in eval mode; left unchanged.
        batch: its input, shape (n, ...), or its inputs by keyword, each with the samples first, such as `tokens.inputs`
            of a `TokenBatch`.
        layers: layers from `select_layers(...).covered`, or shell patterns over module names; a leading `!` excludes.
        projection: rank and seed; rank 16, seed 0 by default.
        measurement: maps logits to n numbers: `margin` for a classifier's (n, C), `token_margin(tokens)` for a language
            model's (n, s, V).

    Returns:
        Rows (n, k) on the model's device: per layer `vec(P_0 dW P_1^T)`, concatenated in the order of the layers.

    Raises:
        ModelError: the model is in training mode, or its outputs do not fit the measurement.
        LayerError: a pattern matches no layer, or a layer cannot be hooked.
    """
    return _extractor(model, layers, projection)(Measured(batch, measurement)).rows


def per_token_rows(
    model: nn.Module,
    tokens: TokenBatch,
    *,
    layers: Sequence[Layer] | Sequence[str] = ("*",),
    projection: Projection | None = None,
    measurement: Callable[[TokenBatch], Measurement] = token_margins,
) -> Tensor:
    """Compute a row for every completion token of a language model's texts.

    A text's row is the gradient of a sum over its completion's tokens; the row of a token is the gradient of its own
    term, so the rows of a text's tokens sum to the text's row. Other tokens contribute to each of them through
    attention. The cost is one forward pass, a backward pass of the whole batch for each position that is in any
    completion, and s times the memory of rows.

    Args:
        model: in eval mode, on the tokens' device; left unchanged.
        tokens: n texts of s positions.
        layers: as for `per_sample_rows`.
        projection: rank and seed; rank 16, seed 0 by default.
        measurement: takes the tokens and returns a function that maps logits (n, s, V) to a term per token (n, s).

    Returns:
        Rows (n, s, k) on the model's device; zero at prompt tokens and at padding.

    Raises:
        ModelError: the model is in training mode, or its outputs do not fit the measurement.
        LayerError: a pattern matches no layer, or a layer cannot be hooked.
    """
    positions: list[int] = (torch.nonzero(tokens.predicted.any(dim=0)).flatten() + 1).tolist()
    return _extractor(model, layers, projection).per_term(Measured(tokens.inputs, measurement(tokens)), positions)


def _extractor(
    model: nn.Module, layers: Sequence[Layer] | Sequence[str], projection: Projection | None
) -> RowExtractor:
    chosen = [layer for layer in layers if isinstance(layer, Layer)]
    patterns = [pattern for pattern in layers if isinstance(pattern, str)]
    if patterns:
        chosen += select_layers(model, patterns).covered
    return RowExtractor(model, chosen, projection or Projection())
