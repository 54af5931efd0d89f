"""What a model's outputs are: what its task reads, made of what the model returns; and whether they look like that."""

from collections.abc import Callable

from torch import Tensor, nn

from madcore.measurements import logits_of
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.errors import SourceError
from pipeline.models.chosen_output import choose_output
from pipeline.tasks.registry import VECTOR_TASKS

ROUNDING = 1e-3  # of sums of probabilities, also of those that a model rounds to float16

SHOWN = 4


def adapt_outputs(module: nn.Module, model: ModelConfig) -> None:
    """Make a model return the outputs that its task reads; the names of its modules and parameters stay."""
    choose_output(module, model)
    task = VECTOR_TASKS.get(model.task)
    adapt = task.adapt(model) if task is not None else None
    if adapt is not None:
        module.register_forward_hook(_returns(adapt))


def _returns(adapt: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[object, ...], object], Tensor]:
    return lambda module, inputs, outputs: adapt(logits_of(outputs))


def check_outputs(model: ModelConfig, outputs_nc: Tensor) -> str:
    """Check that a model's outputs (n, C) on some trusted samples are what the config takes them for.

    Returns:
        A warning about outputs that are perhaps no logits, "" where there is nothing to say.

    Raises:
        SourceError: they are probabilities and nothing says so, or they are none although the config says so.
    """
    check = {"classification": _check_classes, "binary": _check_decisions, "multi_label": _check_decisions}
    return check[model.task](model, outputs_nc.double()) if model.task in check else ""


def _check_classes(model: ModelConfig, outputs_nc: Tensor) -> str:
    """One of several classes: probabilities lie in [0, 1] and sum to 1."""
    meant = model.outputs == PROBABILITIES
    values_nc = outputs_nc.exp() if meant else outputs_nc
    values_nc = values_nc[values_nc.isfinite().all(dim=1)]
    if not len(values_nc):
        return ""
    inside = _inside(values_nc)
    whole = inside and bool(((values_nc.sum(dim=1) - 1).abs() <= ROUNDING).all())
    described = _described(model, values_nc)
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
            f"all outputs on {len(values_nc)} trusted samples lie in [0, 1], as a sigmoid's do, and are taken for "
            "logits; if they are no logits, confidences and margins are wrong: return the logits instead, or set "
            "outputs: logits to say that they are"
        )
    return ""


def _check_decisions(model: ModelConfig, outputs_nc: Tensor) -> str:
    """A decision for each output: probabilities lie in [0, 1]. Those of binary models have been made two logits."""
    logits_nc = outputs_nc[:, 1:] - outputs_nc[:, :1] if model.task == "binary" else outputs_nc
    values_nc = logits_nc[logits_nc.isfinite().all(dim=1)]
    if len(values_nc) and model.outputs is None and _inside(values_nc):
        raise SourceError(
            f"{_described(model, values_nc)} all lie in [0, 1], as probabilities do. The margin is one of logits, and "
            "that of probabilities has no gradient where the model is certain. Set outputs: probabilities in the "
            "model's entry, which measures log(1 - p) - log p; or, if these are logits, outputs: logits"
        )
    if len(values_nc) < len(logits_nc) and model.outputs == PROBABILITIES:
        raise SourceError(
            f"{model.described}: the outputs on {len(logits_nc) - len(values_nc)} of {len(logits_nc)} trusted samples "
            "are no probabilities, which lie in [0, 1], although the model's entry says outputs: probabilities; leave "
            "that out for logits"
        )
    return ""


def _inside(values_nc: Tensor) -> bool:
    return bool(((values_nc >= 0) & (values_nc <= 1 + ROUNDING)).all())


def _described(model: ModelConfig, values_nc: Tensor) -> str:
    samples = f"{len(values_nc)} trusted samples"
    return f"{model.described}: the outputs on {samples} (the first: {_shown(values_nc[0])})"


def _shown(values_c: Tensor) -> str:
    shown = ", ".join(f"{value:.3g}" for value in values_c[:SHOWN].tolist())
    return shown if len(values_c) <= SHOWN else f"{shown}, ..."
