"""Compressed per-sample gradients in one batched forward and backward pass.

Hooks (`madcore.extraction.recording`) see each layer's input and output gradient.

A sample's row depends on no other sample, so on a CPU a large batch goes through the model in parts whose activations
fit its caches and stay below the size from which malloc fetches and returns fresh pages for every tensor. The size of a
part follows from shapes alone: the same batch gives the same bytes, whatever batches came before it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore.curvature.kronecker import SideLayout, SideSums
from madcore.errors import FAILURES, LayerError, ModelError
from madcore.extraction.forward_pass import ForwardPass, PassSettings, forward_pass
from madcore.extraction.preparation import Preparation, prepare
from madcore.extraction.recording import Recorder
from madcore.formulas.matrices import OuterProductFormula
from madcore.measurements import PART_MULTIPLE, Measured, input_shapes, real_parameter
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
        """Allocate the rows and logits of this many samples."""
        return SampleRows(*(tensor.new_empty(samples, *tensor.shape[1:]) for tensor in (self.rows, self.outputs)))


def _keep_freed_memory() -> None:
    """Make glibc keep the memory that a pass frees for the next one, instead of faulting every page in again.

    When a block of up to 32 MiB is freed, glibc's malloc takes its size as typical, and from then on keeps up to twice
    as much free memory at the top of its heap (mallopt(3), `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`). The block is
    never written to. Other allocators ignore it.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


class RowExtractor:
    """Computes rows of one model, batch after batch. Each call leaves the model as it was."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], projection: Projection):
        """Make all projections, once, on the model's device and in its precision.

        Raises:
            ModelError: the model is in training mode, or no layer is given.
            LayerError: a layer is of a kind without a formula.
        """
        if any(module.training for module in model.modules()):
            complaint = "the model, or a part of it, is in training mode, where samples of a batch mix"
            raise ModelError(f"{complaint}: call model.eval() first")
        if not layers:
            raise ModelError("no layer to take gradients of: select at least one")
        self.layout = row_layout(layers, projection)
        self._model = model
        _keep_freed_memory()
        self._channels_last = real_parameter(model).device.type == "cpu" and any(
            isinstance(module, nn.Conv2d) for module in model.modules()
        )
        self._preparation = prepare(model, layers, self.layout, projection)
        self.side_layout = _side_layout(self._preparation, layers, projection)
        self._rooted = False
        self._at_once = dict[tuple[torch.Size, ...], int]()

    def __call__(self, batch: Measured, precision: torch.dtype = torch.float32) -> SampleRows:
        """Compute the rows of a batch.

        Args:
            batch: the model's inputs, n samples, on its device, and the measurement of its logits.
            precision: bfloat16 or float16 run the forward pass under autocast; rows stay in the model's own precision.

        Raises:
            ModelError: the model returns no logits, or ones that do not fit the measurement.
            LayerError: a module's input or output does not have the samples as its first dimension, or it runs without
                gradients.
        """
        if self._channels_last:
            with suppress(*FAILURES):  # from `view` or a check, in a model that relies on the other order in memory
                return self._in_parts(batch.channels_last(), precision)
        computed = self._in_parts(batch, precision)
        self._channels_last = False
        return computed

    def at_once(self, batch: Measured) -> int:
        """Return how many samples like the batch's go through the model together.

        On a CPU, and of shapes alone, as many as keep each layer's input within `PART_BYTES`; a forward pass on one
        sample, once for each shape of inputs, determines it.
        """
        tensors = [batch.inputs] if isinstance(batch.inputs, Tensor) else list(batch.inputs.values())
        if tensors[0].device.type not in ("cpu", "meta") or not batch.samples:
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
        if self._must_retry(reached, forward.recorder):
            return self._rows(batch, precision)
        return SampleRows(forward.recorder.rows, forward.outputs)

    def side_numbers(self, batch: Measured, counted: Tensor | None = None) -> Tensor:
        """Compute the side numbers that Kronecker factors are sums of (see `madcore.curvature.kronecker`).

        Args:
            batch: as for rows.
            counted: (n, s) bool, true at the positions of texts that are not padding; None counts all.

        Returns:
            Side numbers (n, stored), in the model's precision, without autocast.

        Raises:
            ModelError, LayerError: as for rows.
        """
        like = real_parameter(self._model).detach()
        whole = SideSums(self.side_layout, batch.samples, like).numbers
        for place, part in batch.parts(self.at_once(batch)):
            sums = SideSums(self.side_layout, part.samples, like, None if counted is None else counted[place])
            with self._forward(part, torch.float32, sums) as forward:
                reached = forward.differentiate(part.measurement(forward.logits).sum())
            if self._must_retry(reached, forward.recorder):
                return self.side_numbers(batch, counted)
            whole[place] = sums.with_blocks(forward.recorder.rows)
        return whole

    def per_term(self, batch: Measured, terms: Sequence[int]) -> Tensor:
        """Compute a row for each of several terms of a sample, in one forward pass and one backward pass per term.

        Args:
            batch: the model's inputs, n samples, on its device, and a measurement of s terms each, (n, s), such as one
                per token.
            terms: those to differentiate; the rows of the others are zero.

        Returns:
            Rows (n, s, k): each the gradient of its own term; their sum over terms is the gradient of the terms' sum.

        Raises:
            ModelError: the measurement is not (n, s).
            LayerError: as for the rows of samples.
        """
        with self._forward(batch, torch.float32) as forward:
            terms_ns = batch.measurement(forward.logits)
            if terms_ns.ndim != 2 or terms_ns.shape[0] != batch.samples:
                expected = f"expected a measurement (samples, terms) of {batch.samples} samples"
                raise ModelError(f"{expected}, got shape {tuple(terms_ns.shape)}")
            rows = forward.recorder.rows.new_zeros(*terms_ns.shape, self.layout.k)
            reached = True
            for term in terms:
                forward.recorder.rows.zero_()
                reached = forward.differentiate(terms_ns[:, term].sum(), again=True) and reached
                rows[:, term] = forward.recorder.rows
        return self.per_term(batch, terms) if self._must_retry(reached, forward.recorder) else rows

    def _forward(
        self, batch: Measured, precision: torch.dtype, sides: SideSums | None = None
    ) -> AbstractContextManager[ForwardPass]:
        settings = PassSettings(self._preparation, self.layout.k, self._rooted)
        return forward_pass(self._model, settings, batch, precision, sides)

    def _must_retry(self, reached: bool, recorder: Recorder) -> bool:
        """Return whether a pass that did not reach all layers has to be repeated with all modules rooted.

        A reentrant checkpoint gives no gradient to a block whose input requires none. Once a model has needed rooting,
        it stays rooted.

        Raises:
            LayerError: layers could not be recorded, or were not reached although the model was rooted.
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


def _side_layout(preparation: Preparation, layers: Sequence[Layer], projection: Projection) -> SideLayout:
    """Return the layout of side numbers.

    A layer has Kronecker factors if its gradient is a sum of outer products over positions, in every module that uses
    it, and is not hashed.
    """
    members = [member for own in preparation.members.values() for member in own.values()]
    without = {
        member.name
        for member in members
        if not isinstance(member.formula, OuterProductFormula) or member.sides.sketch is not None
    }
    with_factors = {member.name for member in members} - without
    kept = [
        (projection.kept(layer.shape[0]), projection.kept(layer.shape[1])) if layer.name in with_factors else None
        for layer in layers
    ]
    return SideLayout(row_layout(layers, projection), tuple(kept))
