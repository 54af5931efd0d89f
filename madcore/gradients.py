"""Compressed per-sample gradients in one batched forward and backward pass.

Forward hooks project each layer's input; tensor hooks on its output join that with the output gradient. Tensor hooks, not module
backward hooks, because those refuse an in-place activation after them. Weights are frozen meanwhile, so autograd computes output
gradients only: the pass costs less than a training step's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore.errors import LayerError, ModelError
from madcore.layers import Formula, Sides, formula_of
from madcore.measurements import Measured, logits_of, run
from madcore.projections import Projection, Sketch
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


@dataclass(frozen=True)
class _Projected:
    """A layer with what its hooks need: its formula, its projections on the model's device, its place in a row."""

    layer: Layer
    formula: Formula
    sides: Sides
    sketch: Sketch | None
    place: slice

    def row(self, saved: Tensor, grads: Tensor) -> Tensor:
        """Its numbers (n, k_l) of rows."""
        numbers_nk = self.formula.row(saved, grads, self.sides).flatten(1)
        return numbers_nk if self.sketch is None else self.sketch.apply(numbers_nk)


class _Root(torch.autograd.Function):
    """Makes a tensor require grad without copying it and without making it a leaf, which in-place activations refuse."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, output: Tensor, anchor: Tensor) -> Tensor:
        """`output` itself, now a function of `anchor`."""
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[None, Tensor]:
        """No gradient flows further."""
        return None, grads[0].new_zeros(())


def row_layout(layers: Sequence[Layer], projection: Projection) -> RowLayout:
    """The layout of rows of these layers under this projection."""
    return RowLayout(tuple(layer.name for layer in layers), tuple(projection.numbers(layer.shape) for layer in layers))


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
        self._channels_last = next(model.parameters()).device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._modules: dict[str, list[_Projected]] = {}
        for layer, place in zip(layers, self.layout.slices, strict=True):
            self._modules.setdefault(layer.module, []).append(_projected(model, layer, projection, place))

    def __call__(self, batch: Measured, precision: torch.dtype = torch.float32) -> SampleRows:
        """Rows of a batch.

        Args:
            batch: the model's inputs, n samples, on its device, and what is measured of its logits.
            precision: bfloat16 or float16 run the forward pass under autocast; rows stay in the model's own precision.

        Raises:
            ModelError: the model returns no logits, or ones that do not fit the measurement.
            LayerError: a module's input or output does not have the samples as its first dimension, or it runs without gradients.
        """
        if self._channels_last:
            with suppress(RuntimeError):  # as from `view`, in a model that counts on the other order in memory
                return self._rows(batch.channels_last(), precision)
        computed = self._rows(batch, precision)
        self._channels_last = False
        return computed

    def _rows(self, batch: Measured, precision: torch.dtype) -> SampleRows:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(frozen(self._model))
            some = next(self._model.parameters())
            anchor = torch.zeros((), device=some.device, requires_grad=True)
            rows = torch.zeros(batch.samples, self.layout.k, device=some.device, dtype=some.dtype)
            for name, members in self._modules.items():
                handle = self._model.get_submodule(name).register_forward_hook(_forward_hook(members, rows, anchor), with_kwargs=True)
                stack.callback(handle.remove)
            if precision is torch.float32:
                stack.enter_context(exact_float32(some.device))
            with torch.autocast(some.device.type, dtype=precision, enabled=precision is not torch.float32):
                logits = logits_of(run(self._model, batch.inputs))
            values = batch.measurement(logits.to(some.dtype)).sum()
            if values.requires_grad:
                values.backward(inputs=[anchor])
        return SampleRows(rows, logits.detach())


def _projected(model: nn.Module, layer: Layer, projection: Projection, place: slice) -> _Projected:
    module = model.get_submodule(layer.module)
    formula = formula_of(module, layer.parameter)
    if formula is None:
        raise LayerError(layer.name, f"no per-sample formula for the parameter {layer.parameter!r} of a {type(module).__name__}")
    p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(formula.shape))
    like, sketch = next(model.parameters()), projection.sketch_of(layer.name, formula.shape)
    sides = Sides(None if p0 is None else p0.to(like), None if p1 is None else p1.to(like))
    return _Projected(layer, formula, sides, None if sketch is None else sketch.like(like), place)


Hook = Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor]


def _forward_hook(members: Sequence[_Projected], rows: Tensor, anchor: Tensor) -> Hook:
    def project(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            inputs = (args[0] if args else next(iter(kwargs.values()))).detach().to(rows.dtype)
            if inputs.ndim < 2 or inputs.shape[0] != rows.shape[0]:
                raise LayerError(members[0].layer.name, f"its input has {inputs.shape[0]} entries first, where the batch has {rows.shape[0]} samples")
            saved = [member.formula.save(inputs, member.sides) for member in members]
        if not output.requires_grad:
            output = _Root.apply(output, anchor)  # type: ignore[no-untyped-call]
        if not output.requires_grad:
            raise LayerError(members[0].layer.name, "the model runs it with gradients switched off")
        output.register_hook(lambda grads: _add_rows(members, saved, grads, rows))
        return output

    return project


def _add_rows(members: Sequence[_Projected], saved: Sequence[Tensor], grads: Tensor, rows: Tensor) -> None:
    """Adds one use of a module to the rows; a module used twice accumulates."""
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        for member, inputs in zip(members, saved, strict=True):
            if grads.shape[0] != rows.shape[0]:
                raise LayerError(member.layer.name, f"its output has {grads.shape[0]} entries first, where the batch has {rows.shape[0]} samples")
            rows[:, member.place] += member.row(inputs, grads.to(rows.dtype))
