"""Which parameters of a model its rows are made of, chosen by shell patterns over module names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from madcore.errors import LayerError
from madcore.formulas.of_module import formula_of, holders, is_matrix, matrix_formula, sides_of
from madcore.rows import Layer

Parameters = Literal["matrices", "all"]


@dataclass(frozen=True)
class Coverage:
    """The layers that rows are made of, in the model's order, and why each other selected one is not covered."""

    covered: tuple[Layer, ...]
    not_covered: Mapping[str, str]

    @property
    def fallback(self) -> tuple[str, ...]:
        """Names of the covered layers whose module has to run again, one sample at a time."""
        return tuple(layer.name for layer in self.covered if layer.way.startswith("fallback"))


def select_layers(model: nn.Module, patterns: Sequence[str] = ("*",), parameters: Parameters = "matrices") -> Coverage:
    """Choose parameters by shell patterns over module names.

    A tied parameter is chosen if any module that holds it is, and listed under the first of its names.

    Args:
        model: the model.
        patterns: shell patterns over module names; a leading `!` excludes; exclusions alone choose all others.
        parameters: `matrices` takes kernels and weight matrices; `all` every parameter of the chosen modules.

    Raises:
        LayerError: a pattern matches no module that holds such parameters.
    """
    held = {name: _own(module, parameters) for name, module in model.named_modules()}
    held = {name: own for name, own in held.items() if own}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in held):
            raise LayerError({pattern: f"this pattern matches no layer; layers here: {_first(held)}"})
    chosen = {parameter for name, own in held.items() if is_chosen(name, patterns) for parameter in own.values()}
    if not chosen:
        complaint = f"these patterns together exclude every layer; layers here: {_first(held)}"
        raise LayerError({" ".join(patterns): complaint})
    covered, not_covered, held_by = [], {}, holders(model)
    for name, parameter in model.named_parameters():
        if parameter not in chosen:
            continue
        uses = held_by[parameter]
        lacking = [f"{own!r} of a {type(module).__name__}" for module, own in uses if formula_of(module, own) is None]
        if parameters == "matrices" and not any(matrix_formula(module, own) for module, own in uses):
            reason = f"no per-sample formula for {lacking[0]}, which may be no matrix"
            not_covered[name] = f"{reason}; with parameters `all` it can be covered"
            continue
        module_name, _, own_name = name.rpartition(".")
        covered.append(Layer(module_name, own_name, sides_of(parameter), "fallback" if lacking else "formula"))
    return Coverage(tuple(covered), not_covered)


def _own(module: nn.Module, parameters: Parameters) -> dict[str, nn.Parameter]:
    """Return a module's own parameters; for `matrices`, those with two dimensions or more, without tables and norms."""
    own = dict(module.named_parameters(recurse=False))
    if parameters == "all":
        return own
    return {name: parameter for name, parameter in own.items() if is_matrix(module, name)}


def is_chosen(name: str, patterns: Sequence[str]) -> bool:
    """Return whether shell patterns choose a module of this name."""
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    return any(fnmatchcase(name, p) for p in wanted) and not any(fnmatchcase(name, p) for p in excluded)


def _first(names: Mapping[str, object]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
