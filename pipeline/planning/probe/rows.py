"""What a model's rows are like: which layers they have, how large they are, and what a batch's pass takes."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from madcore import Coverage, Measured, RerunCost, RowExtractor, RowLayout, SideLayout, check_layers, select_layers
from madcore.coverage.forward_check import check_forward_pass
from madcore.coverage.random_sources import EXTREMES, NUMPY, RandomSource, mersenne_words
from madcore.coverage.shares import ParameterShare, measure_shares
from pipeline.config.estimators import LossTrace
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.inputs.batches import TRACED_AT_ONCE
from pipeline.inputs.model_inputs import ModelInputs
from pipeline.models.interface import LoadedModel
from pipeline.planning.memory import pass_bytes, step_bytes
from pipeline.planning.probe.found import Probe, SampleSizes
from pipeline.planning.recipe import projection_of

CANDIDATES = 16  # trusted samples that layers are checked on


ROOM = 1.5  # what allocators and kernels add to the tensors that are counted


PYTHON = RandomSource(
    random.getstate,
    random.setstate,
    {extreme: (3, (*mersenne_words(extreme), 0), None) for extreme in EXTREMES},
)


Sample = TypeVar("Sample")


Report = Callable[[str], None]


@dataclass(frozen=True)
class RowProbe:
    """The layers and sides of rows, the bytes of a batch's pass, and how many samples of its kind fit in one pass.

    `shares`: what each parameter of the chosen modules is of them all.
    """

    coverage: Coverage
    shares: Mapping[str, ParameterShare]
    sides: SideLayout
    bytes_of: Callable[[Measured], int]
    samples_per_pass: Callable[[Measured], int]


def probe_rows(
    module: nn.Module,
    model: ModelConfig,
    samples: Sequence[Sample],
    together: Callable[[Sequence[Sample]], Measured],
    report: Report,
) -> RowProbe:
    """Of gradients, rows of the covered layers; of loss traces, a number for each kept draw, whatever the model.

    Raises:
        ModelError: its outputs are random or mix samples, or none of its layers can be covered.
    """
    report("running samples twice, together and alone")
    check_forward_pass(module, samples, together, (NUMPY, PYTHON))
    if model.traced is not None:
        return _traces(module, model.traced)
    selected = select_layers(module, model.gradient.layers, model.gradient.parameters)
    report(f"checking {len(selected.covered)} layers against autograd")
    coverage = check_layers(module, selected, samples, together, projection_of(model))
    shares = measure_shares(module, model.gradient.layers, (together([sample]) for sample in samples))
    return _rows(module, model, coverage, shares)


def shape_rows(module: nn.Module, model: ModelConfig) -> RowProbe:
    """Like `probe_rows`, of a model that has shapes alone: the selected layers are taken to be covered by formulas."""
    if model.traced is not None:
        return _traces(module, model.traced)
    return _rows(module, model, select_layers(module, model.gradient.layers, model.gradient.parameters), {})


def _rows(module: nn.Module, model: ModelConfig, coverage: Coverage, shares: Mapping[str, ParameterShare]) -> RowProbe:
    extractor = RowExtractor(module, coverage.covered, projection_of(model))
    return RowProbe(coverage, shares, extractor.side_layout, partial(pass_bytes, extractor), extractor.at_once)


def _traces(module: nn.Module, traced: LossTrace) -> RowProbe:
    chains = tuple(f"chain {number}" for number in range(traced.chains))
    layout = RowLayout(chains, (len(traced.kept),) * len(chains))
    sides = SideLayout(layout, (None,) * len(chains))
    return RowProbe(Coverage((), {}), {}, sides, partial(step_bytes, module), lambda _: TRACED_AT_ONCE)


def findings(loaded: LoadedModel, rows: RowProbe, inputs: ModelInputs, sizes: SampleSizes, classes: int = 0) -> Probe:
    """What was found of a model and its rows."""
    return Probe(
        digest=loaded.digest,
        code=dict(loaded.code),
        source=loaded.source,
        coverage=rows.coverage,
        sides=rows.sides,
        fallback=_fallback(loaded.module, rows.coverage),
        shares=dict(rows.shares),
        classes=classes,
        class_names=loaded.known.class_names,
        inputs=inputs,
        model_bytes=_bytes_of(loaded.module),
        weights=_weights_of(loaded.module),
        sizes=sizes,
        undone=loaded.undone,
        warnings=(f"weights: {loaded.lacking}",) if loaded.lacking else (),
    )


def check_finite(loaded: LoadedModel, model: ModelConfig, logits: Tensor) -> None:
    """Refuse a model of whose outputs none is finite, where its weights are the reason.

    Raises:
        SourceError: naming those weights.
    """
    if loaded.lacking and not torch.isfinite(logits).any():
        raise SourceError(f"{model.described}: no output on a trusted sample is finite: {loaded.lacking}")


def _fallback(module: nn.Module, coverage: Coverage) -> dict[str, RerunCost]:
    return {layer.name: RerunCost.of(module, layer) for layer in coverage.covered if layer.name in coverage.fallback}


def _weights_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.is_floating_point())


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
