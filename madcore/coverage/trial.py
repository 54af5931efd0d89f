"""Tries of layers: their hooked rows on a few samples, beside autograd's of each sample alone."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from madcore.coverage.expected import ZERO, Compared, ExpectedRows, autograd_rows
from madcore.errors import FAILURES, LayerError, first_line
from madcore.extraction.extractor import RowExtractor
from madcore.isolation import fits_float64, in_float64
from madcore.measurements import Measured, input_shapes
from madcore.projections import Projection
from madcore.rows import Layer

CHECKED_SAMPLES = 3
SHUFFLES = 4

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Trial:
    """A batch of samples, and autograd's rows of each sample alone.

    Rounding differs between a sample alone and in a batch, and a ReLU near zero turns that into percents of a row. So
    where rows differ by what rounding can make, both are computed in float64, and what agrees there is right. Rows
    of nothing but rounding can also agree, where both round alike: float64 decides on those too.

    `passed`: sets of layers whose rows were right together.
    """

    model: nn.Module
    batch: Measured
    alone: Sequence[Measured]
    projection: Projection
    expected: ExpectedRows
    passed: list[set[Layer]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: Sequence[Layer],
        samples: Sequence[tuple[Sample, Measured]],
        together: Callable[[Sequence[Sample]], Measured],
        projection: Projection,
    ) -> "Trial":
        """Choose the samples to check on, of candidates that each come with a batch of themselves.

        Samples without a finite gradient are used only if no sample has one.
        """
        finite: list[tuple[Sample, Measured, dict[str, Tensor]]] = []
        others: list[tuple[Sample, Measured, dict[str, Tensor]]] = []
        for sample, alone in samples:
            rows = autograd_rows(model, layers, alone, projection)
            chosen = finite if all(torch.isfinite(row).all() for row in rows.values()) else others
            chosen.append((sample, alone, rows))
            if len(finite) == CHECKED_SAMPLES:
                break
        kept = finite or others[:CHECKED_SAMPLES]
        expected = ExpectedRows(layers, [rows for *_, rows in kept])
        batch = together([sample for sample, *_ in kept])
        return cls(model, batch, [alone for _, alone, _ in kept], projection, expected)

    def failures(self, layers: Sequence[Layer]) -> dict[str, str]:
        """Return, by layer, why its rows differ from autograd's. The others are tried without a layer that fails."""
        routed = {layer.name for layer in layers if self.model.get_submodule(layer.rerun) in self.unsteady}
        found = dict.fromkeys(routed, "how many entries its module's input has depends on the numbers in them")
        left = [layer for layer in layers if layer.name not in routed]
        while left:
            try:
                return found | self._differing(left)
            except LayerError as error:
                found |= error.reasons
                left = [layer for layer in left if layer.name not in error.reasons]
            except FAILURES as error:
                if len(left) > 1:
                    alone = [self.failures([layer]) for layer in left]
                    return found | {name: reason for one in alone for name, reason in one.items()}
                return found | {left[0].name: f"its rows cannot be computed by {left[0].way} ({first_line(error)})"}
        return found

    def fails(self, layers: Sequence[Layer]) -> bool:
        """Whether rows of all these layers together cannot be computed, or differ from autograd's."""
        if set(layers) in self.passed:
            return False
        try:
            return bool(self._differing(layers))
        except FAILURES:
            return True

    def _differing(self, layers: Sequence[Layer]) -> dict[str, str]:
        """Return, by layer, why its rows, computed with the others', differ from autograd's.

        Raises:
            LayerError: layers cannot be recorded; or whatever the model raises.
        """
        hopeless = {layer.name: self.expected.hopeless(layer) for layer in layers}
        rows = RowExtractor(self.model, layers, self.projection)(self.batch).rows
        compared = self.expected.compared(layers, rows, self.projection)
        reasons = {name: hopeless[name] or one.reason for name, one in compared.items()}
        judged = {name: one for name, one in compared.items() if not hopeless[name]}
        doubtful = [name for name, one in judged.items() if one.doubtful]
        faint = [name for name, one in judged.items() if one.faint and one.reason is None]
        exactly = self._compared_exactly(layers) if doubtful or faint else None
        if exactly is not None:
            reasons |= {name: _decided(exactly[name]) for name in doubtful}
            reasons |= {name: ZERO for name in faint if exactly[name].vanishes}
        found = {name: reason for name, reason in reasons.items() if reason is not None}
        if not found:
            self.passed.append(set(layers))
        return found

    def _compared_exactly(self, layers: Sequence[Layer]) -> dict[str, Compared] | None:
        """Compare rows of layers in float64; None where the model is too large for that, or does not run in it."""
        if self.exactly is None:
            return None
        with in_float64(self.model), suppress(*FAILURES):
            rows = RowExtractor(self.model, layers, self.projection)(self.batch.double()).rows
            return self.exactly.compared(layers, rows, self.projection)
        return None

    @cached_property
    def exactly(self) -> ExpectedRows | None:
        """Autograd's rows in float64; None where there are none, or where they are finite in float32 alone."""
        if not fits_float64(self.model):
            return None
        try:
            with in_float64(self.model):
                alone = [batch.double() for batch in self.alone]
                exact = ExpectedRows.of(self.model, self.expected.layers, alone, self.projection)
            return None if exact.not_finite > self.expected.not_finite else exact
        except FAILURES:
            return None

    @cached_property
    def unsteady(self) -> set[nn.Module]:
        """Modules with parameters whose inputs change shape when the samples' numbers are shuffled.

        A model may reject shuffled numbers; that shuffle is then left out.
        """
        generator, shapes = torch.Generator().manual_seed(0), input_shapes(self.model, self.batch.inputs)
        found = set[nn.Module]()
        for _ in range(SHUFFLES):
            with suppress(*FAILURES):
                others = input_shapes(self.model, self.batch.shuffled(generator).inputs)
                modules = shapes.keys() | others.keys()
                found |= {module for module in modules if shapes.get(module) != others.get(module)}
        return found


def _decided(exactly: Compared) -> str | None:
    """Return why a layer that float32 left in doubt is not covered, by its rows in float64; None if it is."""
    return ZERO if exactly.expected_zero else exactly.reason
