"""The ways that the benchmarks compare on one model and one batch: a training step, the ceiling, and rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from madcore import Projection, RowExtractor
from madcore.extraction.forward_pass import frozen
from tests.benchmarks.models import Case

RANK = 16
WAYS = ("step", "ceiling", "matrices", "all")


def prepare(way: str, case: Case, model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """Return a call that does the work once."""
    if way == "step":
        return lambda: training_step(case, model, inputs)
    if way == "ceiling":
        return lambda: activation_gradients(case, model, inputs)
    extractor, measured = RowExtractor(model, case.covered(model, way).covered, Projection(RANK)), case.measured(inputs)
    return lambda: extractor(measured)


def training_step(case: Case, model: nn.Module, inputs: Tensor) -> None:
    """Forward and backward of the loss, with all weights' gradients."""
    model.zero_grad()
    case.forward(model, inputs).backward()


def activation_gradients(case: Case, model: nn.Module, inputs: Tensor) -> None:
    """Forward and backward of the loss, without any weight's gradient."""
    with down_to_first_output(model):
        case.forward(model, inputs).backward()


@contextmanager
def down_to_first_output(model: nn.Module) -> Iterator[None]:
    """Inside, gradients go down to the first layer's output, and to no weight."""
    leaves = (module for module in model.modules() if not list(module.children()))
    first = next(module for module in leaves if list(module.parameters(recurse=False)))
    handle = first.register_forward_hook(lambda module, args, output: output.requires_grad_())
    try:
        with frozen(model), torch.enable_grad():
            yield
    finally:
        handle.remove()
