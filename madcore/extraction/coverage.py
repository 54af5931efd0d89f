"""Which of the selected layers a model's rows cover: a self-check against autograd.

Hooks can be right about a layer's kind and wrong about its use: a weight read without calling its module, a module
called on something whose first axis is not the samples, a tied parameter. So every selected layer is checked on real
samples, and one that differs from autograd is not covered, with the reason.

A module that receives its entries from a router can look correct on a few samples that happen to be alike. So each
module's input must also keep its shape when the samples' numbers are shuffled.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from madcore.errors import FAILURES, LayerError, ModelError, first_line
from madcore.extraction.autograd import whole_gradients
from madcore.extraction.extractor import RowExtractor
from madcore.extraction.parameter_copies import ways_to_copy
from madcore.extraction.selection import Coverage
from madcore.isolation import fits_float64, in_float64
from madcore.measurements import Measured, input_shapes, runs_channels_last
from madcore.projections import Projection
from madcore.rows import Layer, Way, row_layout

RELATIVE_TOLERANCE = 1e-3
ROUNDING = 1e-5
LARGEST_DOUBT = (
    0.25  # of a row's norm: flipped ReLUs made 3.5 %; a kernel that reads other numbers makes more than this
)
CHECKED_SAMPLES = 3
SHUFFLES = 4

DIFFERS, ZERO = "its hooked gradient differs from autograd's", "its gradient is zero but for rounding"

FORMULAS: tuple[Way, ...] = "formula", "formula, samples second", "formula, samples merged", "formula, no samples"
FALLBACKS: tuple[Way, ...] = "fallback", "fallback, one by one"

Sample = TypeVar("Sample")


def check_layers(
    model: nn.Module,
    coverage: Coverage,
    samples: Sequence[Sample],
    together: Callable[[Sequence[Sample]], Measured],
    projection: Projection,
) -> Coverage:
    """Keep the layers whose hooked rows equal autograd's, to a relative 1e-3, on three samples with finite gradients.

    The first three are used. They go through the hooks as one batch and through autograd one by one, so a model that
    mixes the samples of a batch, or that depends on padding, is detected too. Where rows differ, those in float64
    decide.

    Args:
        model: in eval mode.
        coverage: what `select_layers` chose.
        samples: a few, at least 1, of any kind.
        together: makes a batch of samples, padded only as far as the longest of them needs.
        projection: the one that the rows will have.

    Raises:
        ModelError: no layer is left.
    """
    alone = [(sample, together([sample])) for sample in samples]
    if runs_channels_last(model, alone[0][1]):  # as the hooked rows are computed: other kernels round differently
        alone = [(sample, batch.channels_last()) for sample, batch in alone]
    trial = _trial(model, coverage.covered, alone, together, projection)
    kept, reasons = _tried(trial, coverage.covered)
    not_covered = dict(coverage.not_covered)
    not_covered |= {
        layer.name: reasons[layer.name] + _tied(model, layer) for layer in coverage.covered if layer.name not in kept
    }
    if not kept:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(not_covered.items())[:3])
        raise ModelError(f"no layer of the model can be covered ({listed})")
    return Coverage(tuple(kept[layer.name] for layer in coverage.covered if layer.name in kept), not_covered)


def _tried(trial: "_Trial", layers: Sequence[Layer]) -> tuple[dict[str, Layer], dict[str, str]]:
    """Return the layers that can be covered, each by its cheapest way, and why each other one cannot; both by name."""
    kept, reasons = dict[str, Layer](), dict[str, str]()
    undecided = {
        layer.name: _ways(trial.model, layer)[: 1 if trial.expected.hopeless(layer) else None] for layer in layers
    }
    while undecided:
        tried = [ways[0] for ways in undecided.values()]
        by_formula = [layer for layer in tried if layer.way == "formula"]
        failed = trial.failures(by_formula) | trial.failures([layer for layer in tried if layer.way != "formula"])
        kept |= {layer.name: layer for layer in tried if layer.name not in failed}
        reasons |= {name: reason for name, reason in failed.items() if name not in reasons or reason == ZERO}
        undecided = {name: ways[1:] for name, ways in undecided.items() if name in failed and ways[1:]}
    alone_only = {layer.name: "its rows cannot be computed together with the other layers'" for layer in layers}
    return _jointly(trial, [kept[layer.name] for layer in layers if layer.name in kept]), alone_only | reasons


def _ways(model: nn.Module, layer: Layer) -> list[Layer]:
    """Return the layer by each way to its rows, cheapest first.

    The last ways run ever larger modules around its own again, but never the whole model.
    """
    parameter = model.get_parameter(layer.name)
    cheap = FORMULAS if layer.way.startswith("formula") else ways_to_copy(parameter)
    tied = sum(other is parameter for _, other in model.named_parameters(remove_duplicate=False)) > 1
    levels = 1 if tied else max(1, layer.module.count(".") + 1)
    fallbacks = [replace(layer, way=way, levels=level) for level in range(levels) for way in FALLBACKS]
    return [replace(layer, way=way) for way in cheap] + fallbacks


def _jointly(trial: "_Trial", layers: Sequence[Layer]) -> dict[str, Layer]:
    """Return the layers, usually all, by ways that also work together: a way can change other modules' inputs."""
    if not trial.fails(layers):
        return {layer.name: layer for layer in layers}
    kept: list[Layer] = []
    for layer in layers:
        ways = (way for way in (layer, *_ways(trial.model, layer)) if not trial.fails([*kept, way]))
        kept += [way for way in [next(ways, None)] if way is not None]
    return {layer.name: layer for layer in kept}


@dataclass(frozen=True)
class _Trial:
    """A batch of samples, and autograd's rows of each sample alone.

    Rounding differs between a sample alone and in a batch, and a ReLU near zero turns that into percents of a row. So
    where rows differ, both are computed in float64, and what agrees there is right.

    `passed`: sets of layers whose rows were right together.
    """

    model: nn.Module
    batch: Measured
    alone: Sequence[Measured]
    projection: Projection
    expected: "_Expected"
    passed: list[set[Layer]] = field(default_factory=list)

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
        rows = RowExtractor(self.model, layers, self.projection)(self.batch).rows
        found = self.expected.differing(layers, rows, self.projection)
        near = self.expected.near(layers, rows, self.projection)
        doubtful = {name for name, reason in found.items() if reason.startswith(DIFFERS) and name in near}
        if doubtful and self.exactly is not None:
            with in_float64(self.model), suppress(*FAILURES):
                rows = RowExtractor(self.model, layers, self.projection)(self.batch.double()).rows
                certain = {name: reason for name, reason in found.items() if name not in doubtful}
                doubted = {name: found[name] for name in doubtful}
                found = certain | self.exactly.confirmed(doubted, layers, rows, self.projection)
        if not found:
            self.passed.append(set(layers))
        return found

    @cached_property
    def exactly(self) -> "_Expected | None":
        """Autograd's rows in float64; None where the model is too large for that, or does not run in it.

        Nor does a model run in float64 whose gradient is finite in its own precision alone.
        """
        if not fits_float64(self.model):
            return None
        try:
            with in_float64(self.model):
                layers, batches = self.expected.layers, [batch.double() for batch in self.alone]
                rows = [_autograd_rows(self.model, layers, one, self.projection) for one in batches]
                return None if _not_finite(rows) > _not_finite(self.expected.rows) else _Expected(layers, rows)
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


@dataclass(frozen=True)
class _Expected:
    """Autograd's rows of each sample alone, by the name of the layer."""

    layers: Sequence[Layer]
    rows: Sequence[Mapping[str, Tensor]]

    def differing(self, layers: Sequence[Layer], hooked: Tensor, projection: Projection) -> dict[str, str]:
        """Return, by layer, why its hooked rows, which are among those of several layers (n, k), are not these."""
        places = zip(layers, row_layout(layers, projection).slices, strict=True)
        differences = {layer.name: self._difference(layer, hooked[:, place]) for layer, place in places}
        return {name: reason for name, reason in differences.items() if reason is not None}

    def near(self, layers: Sequence[Layer], hooked: Tensor, projection: Projection) -> set[str]:
        """Return the layers whose hooked rows are so near to these that rounding could make the difference."""
        found, places = set[str](), zip(layers, row_layout(layers, projection).slices, strict=True)
        for layer, place in places:
            pairs = zip(self.rows, hooked[:, place], strict=True)
            gaps = [(row - own[layer.name], own[layer.name]) for own, row in pairs if layer.name in own]
            if all(bool(gap.norm() <= LARGEST_DOUBT * row.norm()) for gap, row in gaps):
                found.add(layer.name)
        return found

    def confirmed(
        self, found: Mapping[str, str], layers: Sequence[Layer], hooked: Tensor, projection: Projection
    ) -> dict[str, str]:
        """Return which of the reasons found in float32 are none of rounding, by hooked rows in float64."""
        largest = [max(float(row.norm()) for row in rows.values()) for rows in self.rows]
        differing, confirmed = self.differing(layers, hooked, projection), dict[str, str]()
        for name in found:
            norms = [float(rows[name].norm()) if name in rows else 0.0 for rows in self.rows]
            if all(norm < ROUNDING * most for norm, most in zip(norms, largest, strict=True)):
                confirmed[name] = ZERO
            elif name in differing:
                confirmed[name] = differing[name]
        return confirmed

    def hopeless(self, layer: Layer) -> str | None:
        """Return why autograd has no rows of a layer to compare with, or None where it has."""
        rows = [rows[layer.name] for rows in self.rows if layer.name in rows]
        if not rows:
            return "its parameter takes no part in the forward pass"
        finite = all(torch.isfinite(row).all() for row in rows)
        return None if finite else "its gradient is not finite on a trusted sample"

    def _difference(self, layer: Layer, hooked: Tensor) -> str | None:
        reason = self.hopeless(layer)
        if reason is not None:
            return reason
        pairs = zip(self.rows, hooked, strict=True)
        reference = torch.stack([rows.get(layer.name, torch.zeros_like(row)) for rows, row in pairs])
        differences_b, norms_b = (hooked - reference).norm(dim=1), reference.norm(dim=1)
        if (differences_b <= RELATIVE_TOLERANCE * norms_b + 1e-12).all():
            return None
        largest_b = torch.tensor([max(float(row.norm()) for row in rows.values()) for rows in self.rows])
        if (torch.maximum(norms_b, hooked.norm(dim=1)).cpu() < ROUNDING * largest_b).all():
            return ZERO
        worst = float((differences_b / norms_b.clamp(min=1e-12)).max())
        return f"{DIFFERS} by {worst:.2g} of its norm"


def _trial(
    model: nn.Module,
    layers: Sequence[Layer],
    samples: Sequence[tuple[Sample, Measured]],
    together: Callable[[Sequence[Sample]], Measured],
    projection: Projection,
) -> _Trial:
    """Choose the samples to check on, and compute autograd's rows of each. Each candidate comes with a batch of itself.

    Samples without a finite gradient are used only if no sample has one.
    """
    finite: list[tuple[Sample, Measured, dict[str, Tensor]]] = []
    others: list[tuple[Sample, Measured, dict[str, Tensor]]] = []
    for sample, alone in samples:
        rows = _autograd_rows(model, layers, alone, projection)
        chosen = finite if all(torch.isfinite(row).all() for row in rows.values()) else others
        chosen.append((sample, alone, rows))
        if len(finite) == CHECKED_SAMPLES:
            break
    kept = finite or others[:CHECKED_SAMPLES]
    expected = _Expected(layers, [rows for *_, rows in kept])
    return _Trial(
        model, together([sample for sample, *_ in kept]), [alone for _, alone, _ in kept], projection, expected
    )


def _not_finite(rows: Sequence[Mapping[str, Tensor]]) -> int:
    """Count the rows, by sample and layer, that are not finite."""
    return sum(not torch.isfinite(row).all() for of_sample in rows for row in of_sample.values())


def _tied(model: nn.Module, layer: Layer) -> str:
    """Name the other uses of the layer's parameter, over which its gradient sums."""
    parameter, named = model.get_parameter(layer.name), model.named_parameters(remove_duplicate=False)
    others = [name for name, other in named if other is parameter and name != layer.name]
    return f"; it is tied to {', '.join(others)}" if others else ""


def _autograd_rows(
    model: nn.Module, layers: Sequence[Layer], sample: Measured, projection: Projection
) -> dict[str, Tensor]:
    with whole_gradients(model, sample):
        grads = [(layer, model.get_parameter(layer.name).grad) for layer in layers]
    return {layer.name: project_gradient(grad, layer, projection) for layer, grad in grads if grad is not None}


def project_gradient(grad: Tensor, layer: Layer, projection: Projection) -> Tensor:
    """Project one full gradient dW of a layer's parameter: `vec(P_0 dW P_1^T)`, row-major, hashed if so set, (k_l,)."""
    grad_2d = grad.reshape(layer.shape)
    p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
    left = grad_2d if p0 is None else p0.to(grad_2d) @ grad_2d
    row_1k = (left if p1 is None else left @ p1.to(grad_2d).T).reshape(1, -1)
    sketch = projection.sketch_of(layer.name, layer.shape)
    return (row_1k if sketch is None else sketch.like(row_1k).apply(row_1k)).flatten()
