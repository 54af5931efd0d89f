"""Whole gradients of one sample by autograd, of all parameters at once: what hooked rows are checked against."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from madcore.errors import ModelError
from madcore.extraction.forward_pass import contiguous_gradients
from madcore.isolation import has_gradient, restored
from madcore.measurements import Measured, logits_of, run


@contextmanager
def whole_gradients(model: nn.Module, sample: Measured) -> Iterator[None]:
    """Inside, parameters of real or complex numbers have the gradient of a sample's measurement as their `grad`, dense.

    It is None where the forward pass does not depend on one. The model is left as it was.

    Raises:
        ModelError: the measurement depends on no parameter.
    """
    parameters = [parameter for parameter in model.parameters() if has_gradient(parameter)]
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
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.layout is not torch.strided:
                parameter.grad = parameter.grad.to_dense()
        yield
    finally:
        for parameter, (required, grad) in zip(parameters, before, strict=True):
            parameter.requires_grad_(required).grad = grad
