"""What a classifier's outputs are: logits, or probabilities, whose logarithms are logits up to a constant.

The margin of logarithms of probabilities is `log sum over c != y of p_c, minus log p_y = log(1 - p_y) - log p_y`, and
their softmax is the probabilities themselves, so that everything after the model is the same for both. The margin of
the probabilities as they are would be worthless: softmax at the end of a certain model has no gradient.
"""

import torch
from torch import Tensor, nn

from madcore.measurements import logits_of
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.errors import SourceError

ROUNDING = 1e-3  # of sums of probabilities, also of those that a model rounds to float16

SHOWN = 4


def take_logarithms(module: nn.Module) -> None:
    """Make a model of probabilities (n, C) return their logarithms.

    A probability below the smallest normal number counts as that, and has no gradient. The names of the model's modules
    and parameters stay.
    """
    module.register_forward_hook(_logarithms)


def _logarithms(module: nn.Module, inputs: tuple[object, ...], outputs: object) -> Tensor:
    probabilities = logits_of(outputs)
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def check_outputs(model: ModelConfig, outputs_nc: Tensor) -> str:
    """Check that a classifier's outputs (n, C) on some trusted samples are what the config takes them for.

    Returns:
        A warning about outputs that are perhaps no logits, "" where there is nothing to say.

    Raises:
        SourceError: they are probabilities and nothing says so, or they are none although the config says so.
    """
    meant = model.outputs == PROBABILITIES
    values_nc = outputs_nc.double().exp() if meant else outputs_nc.double()
    values_nc = values_nc[values_nc.isfinite().all(dim=1)]
    if not len(values_nc):
        return ""
    inside = bool(((values_nc >= 0) & (values_nc <= 1 + ROUNDING)).all())
    whole = inside and bool(((values_nc.sum(dim=1) - 1).abs() <= ROUNDING).all())
    samples = f"{len(values_nc)} trusted samples"
    described = f"{model.described}: the outputs on {samples} (the first: {_shown(values_nc[0])})"
    if meant and not whole:
        raise SourceError(
            f"{described} are no probabilities, which lie in [0, 1] and sum to 1, although the model's entry says "
            "outputs: probabilities; leave that out for logits"
        )
    if whole and model.outputs is None and values_nc.shape[1] > 1:
        raise SourceError(
            f"{described} are probabilities: they lie in [0, 1] and sum to 1. The margin is one of logits, and that of "
            "probabilities has no gradient where the model is certain. Return the logits, without the softmax at the "
            "end; or set outputs: probabilities in the model's entry, which measures log(1 - p) - log p; or, if these "
            "are logits, outputs: logits"
        )
    varied = bool(((values_nc > 0) & (values_nc < 1)).any())
    if inside and varied and not whole and model.outputs is None:
        return (
            f"all outputs on {samples} lie in [0, 1], as a sigmoid's do, and are taken for "
            "logits; if they are no logits, confidences and margins are wrong: return the logits instead, or set "
            "outputs: logits to say that they are"
        )
    return ""


def _shown(values_c: Tensor) -> str:
    shown = ", ".join(f"{value:.3g}" for value in values_c[:SHOWN].tolist())
    return shown if len(values_c) <= SHOWN else f"{shown}, ..."
