"""Which parameters of a model its rows are made of, chosen by shell patterns over module names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from madcore.errors import LayerError
from madcore.formulas.of_module import formula_of, holders, sides_of
from madcore.formulas.weight_matrices import is_weight_matrix, looks_like_matrix, table_reason
from madcore.rows import Layer

Parameters = Literal["matrices", "all"]


@dataclass(frozen=True)
class Coverage:
    """The layers that rows are made of, in the model's order, and why each other selected one is not covered.

    A layer is selected if its module is, and, with parameters `matrices`, if it looks like one.
    """

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
        parameters: `matrices` takes weight matrices (see `madcore.formulas.weight_matrices`); `all` every parameter
            of the chosen modules.

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
        reason = _reason_against(parameter, uses, parameters)
        if reason is not None:
            not_covered[name] = reason
            continue
        module_name, _, own_name = name.rpartition(".")
        lacking = any(formula_of(module, own) is None for module, own in uses)
        covered.append(Layer(module_name, own_name, sides_of(parameter), "fallback" if lacking else "formula"))
    return Coverage(tuple(covered), not_covered)


def _reason_against(
    parameter: nn.Parameter, uses: Sequence[tuple[nn.Module, str]], parameters: Parameters
) -> str | None:
    """Return why a chosen parameter is in no row, None where it can be; `uses` are modules and its name in each."""
    if not parameter.is_floating_point():
        return f"it has no real numbers, of which rows are made, but {parameter.dtype}"
    if parameters == "all" or any(is_weight_matrix(module, own) for module, own in uses):
        return None
    reasons = (table_reason(module, own) for module, own in uses if looks_like_matrix(module, own))
    taken = f"it is taken for a table and no weight matrix, because {next(reasons)}"
    return f"{taken}; with parameters `all` it can be covered"


def parameters_of(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all parameters of the modules that patterns choose, whatever kind they are; each once."""
    held_by, names = dict[nn.Parameter, list[str]](), list[str]()
    for module_name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            held_by.setdefault(parameter, []).append(module_name)
    for name, parameter in model.named_parameters():
        if any(is_chosen(module_name, patterns) for module_name in held_by[parameter]):
            names.append(name)
    return tuple(names)


def _own(module: nn.Module, parameters: Parameters) -> dict[str, nn.Parameter]:
    """Return a module's own parameters; for `matrices`, those that look like one."""
    own = dict(module.named_parameters(recurse=False))
    if parameters == "all":
        return own
    return {name: parameter for name, parameter in own.items() if looks_like_matrix(module, name)}


def is_chosen(name: str, patterns: Sequence[str]) -> bool:
    """Return whether shell patterns choose a module of this name."""
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    return any(fnmatchcase(name, p) for p in wanted) and not any(fnmatchcase(name, p) for p in excluded)


def _first(names: Mapping[str, object]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
