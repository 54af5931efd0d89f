"""A model's forward pass with everything prepared for the backward passes that fill in rows.

Weights are frozen meanwhile, so autograd computes output gradients only: the pass costs less than a training step's.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from madcore.curvature.kronecker import SideSums
from madcore.extraction.parameter_copies import ParameterCopies, replaced
from madcore.extraction.preparation import Preparation
from madcore.extraction.recording import Recorder, autocast_device, rooted_everywhere
from madcore.isolation import restored
from madcore.measurements import Measured, logits_of, real_parameter, run

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
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter requires grad; those that did before do so again afterwards."""
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
    """Switch TF32 off inside, with which convolutions on a GPU otherwise round float32 inputs to 10 bits."""
    if device.type != "cuda":
        yield
        return
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


@dataclass(frozen=True)
class ForwardPass:
    """A completed forward pass, ready to be differentiated.

    `logits` are in the model's precision, `outputs` as the model returned them. `copied` and `copies`: the parameters
    replaced by a copy for each sample, and those copies.
    """

    recorder: Recorder
    anchor: Tensor
    copied: Sequence[ParameterCopies]
    copies: Sequence[Tensor]
    logits: Tensor
    outputs: Tensor

    def differentiate(self, value: Tensor, again: bool = False) -> bool:
        """Add the gradient of a number to the recorder's rows, and return whether it reached all layers.

        `again`: another backward pass follows.
        """
        if value.requires_grad:
            # without `inputs`, which reentrant checkpoints refuse: all other leaves are frozen
            value.backward(retain_graph=again)
        for copied, copies in zip(self.copied, self.copies, strict=True):
            copied.add(self.recorder.rows, copies)
        reached = all(copies.grad is not None for copies in self.copies) and not self.recorder.silent
        for leaf in (self.anchor, *self.copies):
            leaf.grad = None
        return reached


@dataclass(frozen=True)
class PassSettings:
    """How to run a model: what its layers were prepared with, for rows of k numbers, rooted everywhere or not."""

    preparation: Preparation
    k: int
    rooted: bool


@contextmanager
def forward_pass(
    model: nn.Module, settings: PassSettings, batch: Measured, precision: torch.dtype, sides: SideSums | None = None
) -> Iterator[ForwardPass]:
    """Run the model on a batch; inside the context, it stays prepared for backward passes.

    Args:
        model: in eval mode.
        settings: of the model's layers.
        batch: the model's inputs, n samples, on its device.
        precision: bfloat16 or float16 run the forward pass under autocast.
        sides: side numbers to sum as well.

    Raises:
        ModelError: the model returns no logits.
    """
    with ExitStack() as stack:
        stack.enter_context(restored(model))  # a checkpointed block runs again in the backward pass
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen(model))
        some = real_parameter(model)
        if batch.samples == 1:
            stack.enter_context(contiguous_gradients(model))
        anchor = torch.zeros((), device=some.device, requires_grad=True)
        rows = torch.zeros(batch.samples, settings.k, device=some.device, dtype=some.dtype)
        recorder, copied = Recorder(rows, anchor, sides), settings.preparation.copied
        stack.enter_context(settings.preparation.recorded(recorder))
        if settings.rooted:
            stack.enter_context(rooted_everywhere(recorder, model))
        if some.is_cuda and any(isinstance(module, nn.RNNBase) for module in model.modules()):
            # cuDNN's recurrent layers have a backward pass in training mode only
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if precision is torch.float32:
            stack.enter_context(exact_float32(some.device))
        copies = stack.enter_context(replaced(copied, batch.samples))
        with torch.autocast(autocast_device(some), dtype=precision, enabled=precision is not torch.float32):
            outputs = logits_of(run(model, batch.inputs))
        yield ForwardPass(recorder, anchor, copied, copies, outputs.to(some.dtype), outputs.detach())
