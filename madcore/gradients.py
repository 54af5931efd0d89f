"""Compressed per-sample gradients in one batched forward and backward pass.

Hooks (`madcore.recording`) see each layer's input and output gradient. Weights are frozen meanwhile, so autograd computes output
gradients only: the pass costs less than a training step's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore.attention import recorded_attention, replaceable
from madcore.errors import LayerError, ModelError
from madcore.kinds import formula_of
from madcore.layers import Sides
from madcore.measurements import Measured, logits_of, run
from madcore.projections import Projection
from madcore.recording import Member, Recorder, formula_hook
from madcore.rows import RowLayout


@dataclass(frozen=True)
class Layer:
    """One covered parameter: its module's name, its own name in it, and the two sides of its gradient."""

    module: str
    parameter: str
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The parameter's full name, `blocks.0.conv1.weight`."""
        return f"{self.module}.{self.parameter}" if self.module else self.parameter


@dataclass(frozen=True)
class SampleRows:
    """Rows (n, k), before any rounding, and the model's logits (n, ...), detached."""

    rows: Tensor
    outputs: Tensor


def row_layout(layers: Sequence[Layer], projection: Projection) -> RowLayout:
    """The layout of rows of these layers under this projection."""
    kept = [projection.kept(layer.shape[0]) * projection.kept(layer.shape[1]) for layer in layers]
    return RowLayout(tuple(layer.name for layer in layers), tuple(kept))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires grad inside; what required it before does so again afterwards."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """No TF32 inside on a GPU, where convolutions otherwise round float32 inputs to 10 bits."""
    if device.type != "cuda":
        yield
        return
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


class RowExtractor:
    """Computes rows of one model, batch after batch. The model is left as found after each call."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], projection: Projection):
        """Projections are made once, here, on the model's device and in its precision.

        Raises:
            ModelError: the model is in training mode, or no layer is given.
            LayerError: a layer is of a kind without a formula.
        """
        if any(module.training for module in model.modules()):
            raise ModelError("the model, or a part of it, is in training mode, where samples of a batch mix: call model.eval() first")
        if not layers:
            raise ModelError("no layer to take gradients of: select at least one")
        self.layout = row_layout(layers, projection)
        self._model = model
        self._modules = _members(model, layers, self.layout, projection)
        for attention in model.modules():
            if replaceable(attention) and attention.out_proj in self._modules:
                self._modules.setdefault(attention, {})

    def __call__(self, batch: Measured, precision: torch.dtype = torch.float32) -> SampleRows:
        """Rows of a batch.

        Args:
            batch: the model's inputs, n samples, on its device, and what is measured of its logits.
            precision: bfloat16 or float16 run the forward pass under autocast; rows stay in the model's own precision.

        Raises:
            ModelError: the model returns no logits, or ones that do not fit the measurement.
            LayerError: a module's input or output does not have the samples as its first dimension, or it runs without gradients.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(frozen(self._model))
            some = next(self._model.parameters())
            anchor = torch.zeros((), device=some.device, requires_grad=True)
            recorder = Recorder(torch.zeros(batch.samples, self.layout.k, device=some.device, dtype=some.dtype), anchor)
            for module, members in self._modules.items():
                stack.enter_context(_recorded(recorder, module, members))
            if precision is torch.float32:
                stack.enter_context(exact_float32(some.device))
            with torch.autocast(some.device.type, dtype=precision, enabled=precision is not torch.float32):
                logits = logits_of(run(self._model, batch.inputs))
            values = batch.measurement(logits.to(some.dtype)).sum()
            if values.requires_grad:
                values.backward(inputs=[anchor])
        for name in recorder.silent:
            raise LayerError(name, "the model runs it with gradients switched off")
        return SampleRows(recorder.rows, logits.detach())


def holders(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """By parameter, the modules that hold it, and what each calls it; more than one where it is tied."""
    found = dict[nn.Parameter, list[tuple[nn.Module, str]]]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append((module, name))
    return found


def _members(model: nn.Module, layers: Sequence[Layer], layout: RowLayout, projection: Projection) -> dict[nn.Module, dict[str, Member]]:
    """By module and its own name of a parameter, what its hooks record. Of a tied parameter, each module adds to the same numbers."""
    like, held, found = next(model.parameters()), holders(model), dict[nn.Module, dict[str, Member]]()
    for layer, place in zip(layers, layout.slices, strict=True):
        p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
        sides = Sides(None if p0 is None else p0.to(like), None if p1 is None else p1.to(like))
        for module, name in held[model.get_parameter(layer.name)]:
            formula = formula_of(module, name)
            if formula is None:
                raise LayerError(layer.name, f"no per-sample formula for the parameter {name!r} of a {type(module).__name__}")
            found.setdefault(module, {})[name] = Member(layer.name, formula, sides, place)
    return found


@contextmanager
def _recorded(recorder: Recorder, module: nn.Module, members: Mapping[str, Member]) -> Iterator[None]:
    """A module's uses are recorded inside."""
    with ExitStack() as stack:
        if replaceable(module):
            stack.enter_context(recorded_attention(recorder, module, members))
        else:
            stack.callback(module.register_forward_hook(formula_hook(recorder, list(members.values())), with_kwargs=True).remove)
        yield
