"""Compressed per-sample gradients in one batched forward and backward pass.

Hooks (`madcore.extraction.recording`) see each layer's input and output gradient. Weights are frozen meanwhile, so
autograd computes output gradients only: the pass costs less than a training step's.

A sample's row needs no other sample, so on a CPU a large batch goes through the model in parts whose activations fit
its caches, and stay below the size from which malloc fetches and returns fresh pages for every tensor. How large
follows from shapes alone: the same batch gives the same bytes whatever came before it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore.curvature.kronecker import SideLayout, SideSums
from madcore.errors import LayerError, ModelError
from madcore.extraction.parameter_copies import ParameterCopies, replaced
from madcore.extraction.preparation import Preparation, prepare
from madcore.extraction.recording import Recorder, rooted_everywhere
from madcore.formulas.matrices import OuterProductFormula
from madcore.measurements import PART_MULTIPLE, Measured, input_shapes, logits_of, run
from madcore.projections import Projection
from madcore.rows import Layer, row_layout

PART_BYTES = 12 << 20


KEPT_BYTES = 31 << 20


@dataclass(frozen=True)
class SampleRows:
    """Rows (n, k), before any rounding, and the model's logits (n, ...), detached."""

    rows: Tensor
    outputs: Tensor

    def room_for(self, samples: int) -> "SampleRows":
        """Room for the rows and logits of so many samples like these."""
        return SampleRows(*(tensor.new_empty(samples, *tensor.shape[1:]) for tensor in (self.rows, self.outputs)))


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


def _keep_freed_memory() -> None:
    """Has glibc keep what a pass frees for the next one, instead of returning its pages and fetching them again one fault at a time.

    Its malloc takes a freed block of up to 32 MiB for the usual size, and from then on keeps up to twice as much free
    memory at the top of its heap (mallopt(3), `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`). The block is never written
    to. Other allocators do nothing of the kind.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


class RowExtractor:
    """Computes rows of one model, batch after batch. The model is left as found after each call."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], projection: Projection):
        """Projections are made once, here, on the model's device and in its precision.

        Raises:
            ModelError: the model is in training mode, or no layer is given.
            LayerError: a layer is of a kind without a formula.
        """
        if any(module.training for module in model.modules()):
            raise ModelError(
                "the model, or a part of it, is in training mode, where samples of a batch mix: call model.eval() first"
            )
        if not layers:
            raise ModelError("no layer to take gradients of: select at least one")
        self.layout = row_layout(layers, projection)
        self._model = model
        _keep_freed_memory()
        self._channels_last = next(model.parameters()).device.type == "cpu" and any(
            isinstance(module, nn.Conv2d) for module in model.modules()
        )
        self._prepared = prepare(model, layers, self.layout, projection)
        self.side_layout = _side_layout(self._prepared, layers, projection)
        self._rooted = False
        self._at_once = dict[tuple[torch.Size, ...], int]()

    def __call__(self, batch: Measured, precision: torch.dtype = torch.float32) -> SampleRows:
        """Rows of a batch.

        Args:
            batch: the model's inputs, n samples, on its device, and what is measured of its logits.
            precision: bfloat16 or float16 run the forward pass under autocast; rows stay in the model's own precision.

        Raises:
            ModelError: the model returns no logits, or ones that do not fit the measurement.
            LayerError: a module's input or output does not have the samples as its first dimension, or it runs without
                gradients.
        """
        if self._channels_last:
            with suppress(RuntimeError):  # as from `view`, in a model that counts on the other order in memory
                return self._in_parts(batch.channels_last(), precision)
        computed = self._in_parts(batch, precision)
        self._channels_last = False
        return computed

    def at_once(self, batch: Measured) -> int:
        """How many samples like a batch's go through the model together: on a CPU, as many as let a layer's input have `PART_BYTES`.

        A forward pass on one sample tells, once for each shape of inputs.
        """
        tensors = [batch.inputs] if isinstance(batch.inputs, Tensor) else list(batch.inputs.values())
        if tensors[0].device.type != "cpu" or not batch.samples:
            return max(1, batch.samples)
        shapes = tuple(tensor.shape[1:] for tensor in tensors)
        if shapes not in self._at_once:
            calls = input_shapes(self._model, batch.some(slice(0, 1)).inputs).values()
            largest = max((shape.numel() for of_module in calls for shape in of_module), default=1)
            self._at_once[shapes] = max(1, PART_BYTES // (4 * largest * PART_MULTIPLE)) * PART_MULTIPLE
        return self._at_once[shapes]

    def _in_parts(self, batch: Measured, precision: torch.dtype) -> SampleRows:
        most = self.at_once(batch) if batch.separable and batch.samples > PART_MULTIPLE else PART_MULTIPLE
        if not batch.separable or batch.samples <= most:
            return self._rows(batch, precision)
        whole: SampleRows | None = None
        for place, part in batch.parts(most):
            computed = self._rows(part, precision)
            whole = whole or computed.room_for(batch.samples)
            whole.rows[place], whole.outputs[place] = computed.rows, computed.outputs
        assert whole is not None
        return whole

    def _rows(self, batch: Measured, precision: torch.dtype) -> SampleRows:
        with self._forward(batch, precision) as forward:
            reached = forward.differentiate(batch.measurement(forward.logits).sum())
        if self._to_try_again(reached, forward.recorder):
            return self._rows(batch, precision)
        return SampleRows(forward.recorder.rows, forward.outputs)

    def side_numbers(self, batch: Measured, counted: Tensor | None = None) -> Tensor:
        """What Kronecker factors are sums of (see `madcore.curvature.kronecker`).

        Args:
            batch: as for rows.
            counted: (n, s) bool, of texts the positions that are not padding; None counts all.

        Returns:
            Side numbers (n, stored), in the model's precision, without autocast.

        Raises:
            ModelError, LayerError: as for rows.
        """
        like = next(self._model.parameters()).detach()
        whole = SideSums(self.side_layout, batch.samples, like).numbers
        for place, part in batch.parts(self.at_once(batch)):
            sums = SideSums(self.side_layout, part.samples, like, None if counted is None else counted[place])
            with self._forward(part, torch.float32, sums) as forward:
                reached = forward.differentiate(part.measurement(forward.logits).sum())
            if self._to_try_again(reached, forward.recorder):
                return self.side_numbers(batch, counted)
            whole[place] = sums.with_blocks(forward.recorder.rows)
        return whole

    def per_term(self, batch: Measured, terms: Sequence[int]) -> Tensor:
        """Rows of several numbers of each sample, in one forward pass and one backward pass per term.

        Args:
            batch: the model's inputs, n samples, on its device, and what is measured: s terms of each, (n, s), such as
                one per token.
            terms: those to take gradients of; rows of the others are zero.

        Returns:
            Rows (n, s, k): each the gradient of its own term; their sum over terms is the gradient of the terms' sum.

        Raises:
            ModelError: what is measured is not (n, s).
            LayerError: as for the rows of samples.
        """
        with self._forward(batch, torch.float32) as forward:
            terms_ns = batch.measurement(forward.logits)
            if terms_ns.ndim != 2 or terms_ns.shape[0] != batch.samples:
                raise ModelError(
                    f"expected a measurement (samples, terms) of {batch.samples} samples, got shape {tuple(terms_ns.shape)}"
                )
            rows = forward.recorder.rows.new_zeros(*terms_ns.shape, self.layout.k)
            reached = True
            for term in terms:
                forward.recorder.rows.zero_()
                reached = forward.differentiate(terms_ns[:, term].sum(), again=True) and reached
                rows[:, term] = forward.recorder.rows
        return self.per_term(batch, terms) if self._to_try_again(reached, forward.recorder) else rows

    def _to_try_again(self, reached: bool, recorder: Recorder) -> bool:
        """Whether a pass that did not reach all layers may with all modules rooted.

        A reentrant checkpoint gives no gradient to a block whose input requires none. A model stays rooted once it had
        to be.

        Raises:
            LayerError: layers could not be recorded, or the model was rooted already.
        """
        if recorder.refused:
            raise LayerError(recorder.refused)
        if reached:
            return False
        if self._rooted:
            if recorder.silent:
                raise LayerError(dict.fromkeys(recorder.silent, "the model runs it with gradients switched off"))
            return False
        self._rooted = True
        return True

    @contextmanager
    def _forward(self, batch: Measured, precision: torch.dtype, sides: SideSums | None = None) -> Iterator["_Forward"]:
        """The forward pass; inside, the model is prepared for backward passes."""
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(frozen(self._model))
            some = next(self._model.parameters())
            anchor = torch.zeros((), device=some.device, requires_grad=True)
            recorder = Recorder(
                torch.zeros(batch.samples, self.layout.k, device=some.device, dtype=some.dtype), anchor, sides
            )
            stack.enter_context(self._prepared.recorded(recorder))
            if self._rooted:
                stack.enter_context(rooted_everywhere(recorder, self._model))
            if some.is_cuda and any(isinstance(module, nn.RNNBase) for module in self._model.modules()):
                stack.enter_context(
                    torch.backends.cudnn.flags(enabled=False)
                )  # its recurrent layers have a backward pass in training only
            if precision is torch.float32:
                stack.enter_context(exact_float32(some.device))
            copies = stack.enter_context(replaced(self._prepared.copied, batch.samples))
            with torch.autocast(some.device.type, dtype=precision, enabled=precision is not torch.float32):
                outputs = logits_of(run(self._model, batch.inputs))
            yield _Forward(recorder, anchor, self._prepared.copied, copies, outputs.to(some.dtype), outputs.detach())


def _side_layout(prepared: Preparation, layers: Sequence[Layer], projection: Projection) -> SideLayout:
    """Layers have Kronecker factors whose gradient is a sum of outer products over positions, wherever they are used, and is not hashed."""
    members = [member for own in prepared.members.values() for member in own.values()]
    others = {
        member.name
        for member in members
        if not isinstance(member.formula, OuterProductFormula) or member.sides.sketch is not None
    }
    with_factors = {member.name for member in members} - others
    kept = [
        (projection.kept(layer.shape[0]), projection.kept(layer.shape[1])) if layer.name in with_factors else None
        for layer in layers
    ]
    return SideLayout(row_layout(layers, projection), tuple(kept))


@dataclass(frozen=True)
class _Forward:
    """A forward pass: its logits in the model's precision, its outputs as they were, and what its backward passes add to rows."""

    recorder: Recorder
    anchor: Tensor
    copied: Sequence[ParameterCopies]
    copies: Sequence[Tensor]
    logits: Tensor
    outputs: Tensor

    def differentiate(self, value: Tensor, again: bool = False) -> bool:
        """Adds the gradient of a number to the recorder's rows; `again` where another follows. Whether it reached all there is."""
        if value.requires_grad:
            value.backward(
                retain_graph=again
            )  # without `inputs`, which reentrant checkpoints refuse: all other leaves are frozen
        for copied, copies in zip(self.copied, self.copies, strict=True):
            copied.add(self.recorder.rows, copies)
        reached = all(copies.grad is not None for copies in self.copies) and not self.recorder.silent
        for leaf in (self.anchor, *self.copies):
            leaf.grad = None
        return reached
