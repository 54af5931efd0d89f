"""What a pass needs to know of the layers: formulas, projections and places, by the module that holds each parameter."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from madcore.errors import LayerError
from madcore.extraction.attention import recorded_attention
from madcore.extraction.parameter_copies import ParameterCopies
from madcore.extraction.recording import Member, Recorder, formula_hook
from madcore.extraction.vjp_fallback import Rerun, WholeGradient, recorded_rerun
from madcore.formulas.matrices import Sides
from madcore.formulas.of_module import formula_of, holders, replaceable
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
    """Modules whose parameters have formulas, by their own names of them; parameters to copy; modules that are run again."""

    members: Mapping[nn.Module, Mapping[str, Member]]
    copied: Sequence[ParameterCopies]
    reruns: Sequence[Rerun]

    @contextmanager
    def recorded(self, recorder: Recorder) -> Iterator[None]:
        """The modules' uses are recorded inside."""
        with ExitStack() as stack:
            for module, members in self.members.items():
                if replaceable(module):
                    stack.enter_context(recorded_attention(recorder, module, members))
                else:
                    for samples in ARRANGEMENTS.values():
                        alike = [member for member in members.values() if member.samples == samples]
                        if alike:
                            stack.callback(
                                module.register_forward_hook(formula_hook(recorder, alike), with_kwargs=True).remove
                            )
            for rerun in self.reruns:
                stack.enter_context(recorded_rerun(recorder, rerun))
            yield


@dataclass
class _Builder:
    """A `Preparation` in the making."""

    members: dict[nn.Module, dict[str, Member]] = field(default_factory=dict)
    copied: list[ParameterCopies] = field(default_factory=list)
    wanted: dict[tuple[nn.Module, bool], dict[str, WholeGradient]] = field(default_factory=dict)

    def rerun(self, layer: Layer, module: nn.Module, name: str, whole: WholeGradient) -> None:
        """A layer whose module runs again, which calls the parameter so."""
        self.wanted.setdefault((module, layer.way == "fallback, one by one"), {})[name] = whole

    def add(self, layer: Layer, held: Sequence[tuple[nn.Module, str]], sides: Sides, place: slice) -> None:
        """One layer, by its way. All modules that hold a tied parameter add to the same numbers."""
        if layer.way.startswith("copies"):
            self.copied.append(
                ParameterCopies(held[0][0].get_parameter(held[0][1]), held, layer.way, layer.shape, sides, place)
            )
            return
        for module, name in held:
            if layer.way.startswith("fallback"):
                self.rerun(layer, module, name, WholeGradient(layer.name, layer.shape, sides, place))
                continue
            formula = formula_of(module, name)
            if formula is None:
                raise LayerError(
                    {layer.name: f"no per-sample formula for the parameter {name!r} of a {type(module).__name__}"}
                )
            self.members.setdefault(module, {})[name] = Member(
                layer.name, formula, sides, place, ARRANGEMENTS[layer.way]
            )


def prepare(model: nn.Module, layers: Sequence[Layer], layout: RowLayout, projection: Projection) -> Preparation:
    """Projections are made here, on the model's device and in its precision.

    Raises:
        LayerError: a layer that is to have a formula has none.
    """
    like, held, made = next(model.parameters()), holders(model), _Builder()
    for layer, place in zip(layers, layout.slices, strict=True):
        p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
        sketch = projection.sketch_of(layer.name, layer.shape)
        sides = Sides(
            None if p0 is None else p0.to(like),
            None if p1 is None else p1.to(like),
            None if sketch is None else sketch.like(like),
        )
        if layer.levels:
            around = layer.rerun
            made.rerun(
                layer,
                model.get_submodule(around),
                layer.name[len(around) + 1 :],
                WholeGradient(layer.name, layer.shape, sides, place),
            )
        else:
            made.add(layer, held[model.get_parameter(layer.name)], sides, place)
    for attention in model.modules():
        copied = any(module is attention for copied in made.copied for module, _ in copied.holders)
        if replaceable(attention) and (copied or attention.out_proj in made.members):
            made.members.setdefault(attention, {})
    with torch.no_grad():
        reruns = [
            Rerun(module, wanted, dict(module.named_parameters(remove_duplicate=False)), one_by_one)
            for (module, one_by_one), wanted in made.wanted.items()
        ]
    return Preparation(made.members, made.copied, reruns)
