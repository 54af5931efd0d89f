"""Whole gradients of one sample by autograd, of all parameters at once: what hooked rows are checked against."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from madcore.errors import ModelError
from madcore.isolation import restored
from madcore.measurements import Measured, logits_of, run

IMAGE_AXES = 3  # (c, h, w), or more of videos


@contextmanager
def contiguous_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, gradients of modules' contiguous images are contiguous: needed where a batch is one sample on a CPU.

    The strides of such a batch are ambiguous, and torch's batch norm in eval mode (2.13) reads a gradient in the order
    of channels last, such as `norm(x).flatten(2).transpose(1, 2)` has, as if it were in the other: it is wrong without
    a word.
    """

    def lay_out(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim > IMAGE_AXES and output.requires_grad and output.is_contiguous():
            output.register_hook(Tensor.contiguous)

    normalizing = [one for one in model.modules() if isinstance(one, _NormBase) or not list(one.children())]
    handles = [module.register_forward_hook(lay_out) for module in normalizing]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def whole_gradients(model: nn.Module, sample: Measured) -> Iterator[None]:
    """Inside, the floating-point parameters have the gradient of a sample's measurement as their `grad`.

    It is None where the forward pass does not depend on one. The model is left as it was.

    Raises:
        ModelError: the measurement depends on no parameter.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    before = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True).grad = None
        # until the backward pass is over, because checkpointed blocks run again in it
        with torch.enable_grad(), restored(model), contiguous_gradients(model):
            measured = sample.measurement(logits_of(run(model, sample.inputs))).sum()
            if not measured.requires_grad:
                complaint = "the model's outputs do not depend on its weights through autograd: does it detach them?"
                raise ModelError(complaint)
            measured.backward()  # into .grad, because reentrant checkpoints refuse torch.autograd.grad
        yield
    finally:
        for parameter, (required, grad) in zip(parameters, before, strict=True):
            parameter.requires_grad_(required).grad = grad
