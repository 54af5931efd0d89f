"""What a pass needs to know about layers: formulas, projections and places, by the module that holds a parameter."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from madcore.errors import LayerError
from madcore.extraction.attention import recorded_attention
from madcore.extraction.parameter_copies import ParameterCopies
from madcore.extraction.recording import Member, Recorder, formula_hook
from madcore.extraction.vjp_fallback import Rerun, WholeGradient, recorded_rerun
from madcore.formulas.matrices import Sides
from madcore.formulas.of_module import formula_of, holders, replaceable
from madcore.measurements import real_parameter
from madcore.projections import Projection
from madcore.rows import Layer, RowLayout, Way

ARRANGEMENTS: dict[Way, Literal["first", "second", "merged", "nowhere"]] = {
    "formula": "first",
    "formula, samples second": "second",
    "formula, samples merged": "merged",
    "formula, no samples": "nowhere",
}


@dataclass(frozen=True)
class Preparation:
    """What a pass records.

    `members`: per module, its parameters with formulas, by their names in it. `copied`: parameters to copy. `reruns`:
    modules that run again.
    """

    members: Mapping[nn.Module, Mapping[str, Member]]
    copied: Sequence[ParameterCopies]
    reruns: Sequence[Rerun]

    @contextmanager
    def recorded(self, recorder: Recorder) -> Iterator[None]:
        """Record the modules' uses inside."""
        with ExitStack() as stack:
            for module, members in self.members.items():
                if replaceable(module):
                    stack.enter_context(recorded_attention(recorder, module, members))
                    continue
                for samples in ARRANGEMENTS.values():
                    alike = [member for member in members.values() if member.samples == samples]
                    if alike:
                        hook = formula_hook(recorder, alike)
                        stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            for rerun in self.reruns:
                stack.enter_context(recorded_rerun(recorder, rerun))
            yield


@dataclass
class _Builder:
    """A `Preparation` being built."""

    members: dict[nn.Module, dict[str, Member]] = field(default_factory=dict)
    copied: list[ParameterCopies] = field(default_factory=list)
    wanted: dict[tuple[nn.Module, bool], dict[str, WholeGradient]] = field(default_factory=dict)

    def rerun(self, layer: Layer, module: nn.Module, name: str, whole: WholeGradient) -> None:
        """Add a layer whose module runs again, by the parameter's name in that module."""
        self.wanted.setdefault((module, layer.way == "fallback, one by one"), {})[name] = whole

    def add(self, layer: Layer, held: Sequence[tuple[nn.Module, str]], sides: Sides, place: slice) -> None:
        """Add one layer, by its way. All modules that hold a tied parameter add to the same numbers."""
        if layer.way.startswith("copies"):
            module, name = held[0]
            parameter = module.get_parameter(name)
            self.copied.append(ParameterCopies(parameter, held, layer.way, layer.shape, sides, place))
            return
        for module, name in held:
            if layer.way.startswith("fallback"):
                self.rerun(layer, module, name, WholeGradient(layer.name, layer.shape, sides, place))
                continue
            formula = formula_of(module, name)
            if formula is None:
                reason = f"no per-sample formula for the parameter {name!r} of a {type(module).__name__}"
                raise LayerError({layer.name: reason})
            member = Member(layer.name, formula, sides, place, ARRANGEMENTS[layer.way])
            self.members.setdefault(module, {})[name] = member


def prepare(model: nn.Module, layers: Sequence[Layer], layout: RowLayout, projection: Projection) -> Preparation:
    """Look up formulas and make projections, on the model's device and in its precision.

    Raises:
        LayerError: a layer whose way is a formula has none.
    """
    like, held, builder = real_parameter(model), holders(model), _Builder()
    for layer, place in zip(layers, layout.slices, strict=True):
        sides = _sides(layer, projection, like)
        if layer.levels:
            whole, around = WholeGradient(layer.name, layer.shape, sides, place), layer.rerun
            builder.rerun(layer, model.get_submodule(around), layer.name[len(around) + 1 :], whole)
        else:
            builder.add(layer, held[model.get_parameter(layer.name)], sides, place)
    for attention in model.modules():
        copied = any(module is attention for copied in builder.copied for module, _ in copied.holders)
        if replaceable(attention) and (copied or attention.out_proj in builder.members):
            builder.members.setdefault(attention, {})
    with torch.no_grad():
        reruns = [
            Rerun(module, wanted, dict(module.named_parameters(remove_duplicate=False)), one_by_one)
            for (module, one_by_one), wanted in builder.wanted.items()
        ]
    return Preparation(builder.members, builder.copied, reruns)


def _sides(layer: Layer, projection: Projection, like: Tensor) -> Sides:
    """Make a layer's projections, on the device and in the precision of a tensor."""
    p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
    sketch = projection.sketch_of(layer.name, layer.shape)
    return Sides(
        None if p0 is None else p0.to(like),
        None if p1 is None else p1.to(like),
        None if sketch is None else sketch.like(like),
    )
