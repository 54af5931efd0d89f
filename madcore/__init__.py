"""The numerics of mechanistic anomaly detection by functional attribution (arXiv 2604.18970), usable alone.

Torch and numpy only; no files, clock, environment or global state; randomness only from an explicit seed.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from madcore.calibration import p_values, split_order
from madcore.coupling import References, score
from madcore.coverage import check_layers
from madcore.curvature import BlockMoment, DampedInverse, Damping, Whitening
from madcore.errors import CalibrationError, LayerError, MadcoreError, ModelError
from madcore.gradients import RowExtractor
from madcore.measurements import Inputs, Measured, Measurement, margin
from madcore.projections import Projection
from madcore.rows import Layer, RowLayout, row_layout
from madcore.selection import Coverage, select_layers
from madcore.tokens import TokenBatch, completion_confidence, completion_nll, token_margin

__all__ = [
    "BlockMoment",
    "CalibrationError",
    "Coverage",
    "DampedInverse",
    "Damping",
    "Inputs",
    "Layer",
    "LayerError",
    "MadcoreError",
    "Measured",
    "Measurement",
    "ModelError",
    "Projection",
    "References",
    "RowExtractor",
    "RowLayout",
    "TokenBatch",
    "Whitening",
    "check_layers",
    "completion_confidence",
    "completion_nll",
    "margin",
    "p_values",
    "per_sample_rows",
    "row_layout",
    "score",
    "select_layers",
    "split_order",
    "token_margin",
]


def per_sample_rows(
    model: nn.Module,
    batch: Inputs,
    *,
    layers: Sequence[Layer] | Sequence[str] = ("*",),
    projection: Projection | None = None,
    measurement: Measurement = margin,
) -> Tensor:
    """Compressed per-sample gradients of a batch, in one forward and backward pass.

    Args:
        model: in eval mode; left as found.
        batch: its input, shape (n, ...), or its inputs by keyword, samples first in each, such as `tokens.inputs` of a `TokenBatch`.
        layers: layers from `select_layers(...).covered`, or shell patterns over module names, a leading `!` excludes.
        projection: rank and seed; rank 16, seed 0 if not given.
        measurement: logits to n numbers: `margin` of a classifier's (n, C), `token_margin(tokens)` of a language model's (n, s, V).

    Returns:
        Rows (n, k) on the model's device: per layer `vec(P_0 dW P_1^T)`, concatenated in the order of the layers.

    Raises:
        ModelError: the model is in training mode, or its outputs do not fit the measurement.
        LayerError: a pattern matches no layer, or a layer cannot be hooked.
    """
    chosen = [layer for layer in layers if isinstance(layer, Layer)]
    patterns = [pattern for pattern in layers if isinstance(pattern, str)]
    if patterns:
        chosen += select_layers(model, patterns).covered
    return RowExtractor(model, chosen, projection or Projection())(Measured(batch, measurement)).rows
