"""Which of the selected layers a model's rows cover: a self-check against autograd.

Hooks can be right about a layer's kind and wrong about its use: a weight read without calling its module, a module
called on something whose first axis is not the samples, a tied parameter. So every selected layer is checked on real
samples, and one that differs from autograd is not covered, with the reason.

A module that receives its entries from a router can look correct on a few samples that happen to be alike. So each
module's input must also keep its shape when the samples' numbers are shuffled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from madcore.coverage.expected import ZERO
from madcore.coverage.trial import Trial
from madcore.errors import ModelError
from madcore.extraction.parameter_copies import ways_to_copy
from madcore.extraction.selection import Coverage
from madcore.measurements import Measured, runs_channels_last
from madcore.projections import Projection
from madcore.rows import Layer, Way

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
    trial = Trial.of(model, coverage.covered, alone, together, projection)
    kept, reasons = _tried(trial, coverage.covered)
    not_covered = dict(coverage.not_covered)
    not_covered |= {
        layer.name: reasons[layer.name] + _tied(model, layer) for layer in coverage.covered if layer.name not in kept
    }
    if not kept:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(not_covered.items())[:3])
        raise ModelError(f"no layer of the model can be covered ({listed})")
    return Coverage(tuple(kept[layer.name] for layer in coverage.covered if layer.name in kept), not_covered)


def _tried(trial: Trial, layers: Sequence[Layer]) -> tuple[dict[str, Layer], dict[str, str]]:
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
        undecided = {name: ways[1:] for name, ways in undecided.items() if ways[1:] and failed.get(name, ZERO) != ZERO}
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


def _jointly(trial: Trial, layers: Sequence[Layer]) -> dict[str, Layer]:
    """Return the layers, usually all, by ways that also work together: a way can change other modules' inputs."""
    if not layers or not trial.fails(layers):
        return {layer.name: layer for layer in layers}
    kept: list[Layer] = []
    for layer in layers:
        ways = (way for way in (layer, *_ways(trial.model, layer)) if not trial.fails([*kept, way]))
        kept += [way for way in [next(ways, None)] if way is not None]
    return {layer.name: layer for layer in kept}


def _tied(model: nn.Module, layer: Layer) -> str:
    """Name the other uses of the layer's parameter, over which its gradient sums."""
    parameter, named = model.get_parameter(layer.name), model.named_parameters(remove_duplicate=False)
    others = [name for name, other in named if other is parameter and name != layer.name]
    return f"; it is tied to {', '.join(others)}" if others else ""
