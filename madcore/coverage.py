"""Which layers a model's rows cover: selection by name, then a self-check against autograd.

Hooks can be right about a layer's kind and wrong about its use: a weight read without calling its module, a module called on
something that has not the samples first, a tied parameter. So every selected layer is checked on real samples, and one that
differs from autograd is not covered, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from madcore.errors import LayerError, ModelError
from madcore.gradients import Layer, RowExtractor, row_layout
from madcore.layers import formula_of
from madcore.measurements import Measured, logits_of, run
from madcore.projections import Projection

RELATIVE_TOLERANCE = 1e-3
CHECKED_SAMPLES = 3
Sample = TypeVar("Sample")
NO_MATRICES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Coverage:
    """Layers that rows are made of, in the model's order, and why each other selected one is not among them."""

    covered: tuple[Layer, ...]
    not_covered: Mapping[str, str]


def select_layers(model: nn.Module, patterns: Sequence[str] = ("*",), parameters: Literal["matrices", "all"] = "matrices") -> Coverage:
    """The parameters that shell patterns over module names choose.

    Args:
        model: the model.
        patterns: shell patterns over module names; a leading `!` excludes; none but exclusions means all others.
        parameters: `matrices` takes kernels and weight matrices; `all` every parameter of the chosen modules.

    Raises:
        LayerError: a pattern matches no module that holds such parameters.
    """
    held = {name: _own(module, parameters) for name, module in model.named_modules()}
    held = {name: own for name, own in held.items() if own}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in held):
            raise LayerError(pattern, f"this pattern matches no layer; layers here: {_first(held)}")
    chosen = [name for name in held if _chosen(name, patterns)]
    if not chosen:
        raise LayerError(" ".join(patterns), f"these patterns together exclude every layer; layers here: {_first(held)}")
    covered, not_covered = [], {}
    for module_name in chosen:
        module = model.get_submodule(module_name)
        for parameter in held[module_name]:
            formula = formula_of(module, parameter)
            layer = Layer(module_name, parameter, formula.shape if formula else (0, 0))
            if formula:
                covered.append(layer)
            else:
                not_covered[layer.name] = f"no per-sample formula for {parameter!r} of a {type(module).__name__}"
    return Coverage(tuple(covered), not_covered)


def _own(module: nn.Module, parameters: str) -> list[str]:
    """A module's own parameters; of `matrices` those with two dimensions or more, but not tables of vectors, nor norms."""
    own = dict(module.named_parameters(recurse=False))
    if parameters == "all":
        return list(own)
    return [] if isinstance(module, NO_MATRICES) else [name for name, parameter in own.items() if parameter.ndim > 1]


def _chosen(name: str, patterns: Sequence[str]) -> bool:
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    return any(fnmatchcase(name, p) for p in wanted) and not any(fnmatchcase(name, p) for p in excluded)


def _first(names: Mapping[str, Sequence[str]]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def check_layers(
    model: nn.Module, coverage: Coverage, samples: Sequence[Sample], together: Callable[[Sequence[Sample]], Measured], projection: Projection
) -> Coverage:
    """Keeps the layers whose hooked rows equal autograd's, to a relative 1e-3, on the first three samples with finite gradients.

    Samples go through the hooks as one batch and through autograd one by one, so a model that mixes the samples of a batch, or
    that sees the padding of one, is found out too.

    Args:
        model: in eval mode.
        coverage: what `select_layers` chose.
        samples: a few, at least 1, of whatever kind.
        together: makes a batch of samples, padded only as far as the longest of them needs.
        projection: as the rows will have it.

    Raises:
        ModelError: no layer is left.
    """
    not_covered, layers = dict(coverage.not_covered), list(coverage.covered)
    chosen, expected = _checked(model, layers, [(sample, together([sample])) for sample in samples], projection)
    batch = together(chosen)
    hooked = None
    while layers and hooked is None:
        try:
            hooked = RowExtractor(model, layers, projection)(batch).rows
        except LayerError as error:
            not_covered[error.name] = error.reason
            layers = [layer for layer in layers if layer.name != error.name]
    kept = []
    if hooked is not None:
        for layer, place in zip(layers, row_layout(layers, projection).slices, strict=True):
            reason = _difference(hooked[:, place], [rows.get(layer.name) for rows in expected])
            if reason:
                not_covered[layer.name] = reason + _tied(model, layer)
            else:
                kept.append(layer)
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(not_covered.items())[:3])
        raise ModelError(f"no layer of the model can be covered ({reasons})")
    return Coverage(tuple(kept), not_covered)


def _checked(
    model: nn.Module, layers: Sequence[Layer], samples: Sequence[tuple[Sample, Measured]], projection: Projection
) -> tuple[list[Sample], list[dict[str, Tensor]]]:
    """The samples to check on, and autograd's rows of each; one without a finite gradient is used only where all are so.

    Of the candidates, each is given with the batch that holds it alone.
    """
    finite: list[tuple[Sample, dict[str, Tensor]]] = []
    others: list[tuple[Sample, dict[str, Tensor]]] = []
    for sample, alone in samples:
        rows = _autograd_rows(model, layers, alone, projection)
        chosen = finite if all(torch.isfinite(row).all() for row in rows.values()) else others
        chosen.append((sample, rows))
        if len(finite) == CHECKED_SAMPLES:
            break
    kept = finite or others[:CHECKED_SAMPLES]
    return [sample for sample, _ in kept], [rows for _, rows in kept]


def _difference(hooked: Tensor, expected: Sequence[Tensor | None]) -> str | None:
    if any(row is None for row in expected):
        return "its parameter takes no part in the forward pass"
    reference = torch.stack([row for row in expected if row is not None])
    if not torch.isfinite(reference).all():
        return "its gradient is not finite on a trusted sample"
    differences_b, norms_b = (hooked - reference).norm(dim=1), reference.norm(dim=1)
    if (differences_b <= RELATIVE_TOLERANCE * norms_b + 1e-12).all():
        return None
    return f"its hooked gradient differs from autograd's by {float((differences_b / norms_b.clamp(min=1e-12)).max()):.2g} of its norm"


def _tied(model: nn.Module, layer: Layer) -> str:
    """Names the other modules that hold the layer's parameter, which its gradient sums over and its own hooks do not see."""
    parameter = model.get_submodule(layer.module).get_parameter(layer.parameter)
    named = model.named_parameters(remove_duplicate=False)
    others = [name for name, other in named if other is parameter and name != layer.name]
    return f"; it is tied to {', '.join(others)}" if others else ""


def _autograd_rows(model: nn.Module, layers: Sequence[Layer], sample: Measured, projection: Projection) -> dict[str, Tensor]:
    parameters = [model.get_submodule(layer.module).get_parameter(layer.parameter) for layer in layers]
    required = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            measured = sample.measurement(logits_of(run(model, sample.inputs))).sum()
            if not measured.requires_grad:
                raise ModelError("the model's outputs do not depend on its weights by way of autograd: does it detach them?")
            grads = torch.autograd.grad(measured, parameters, allow_unused=True)
    finally:
        for parameter, before in zip(parameters, required, strict=True):
            parameter.requires_grad_(before)
    return {layer.name: project_gradient(grad, layer, projection) for layer, grad in zip(layers, grads, strict=True) if grad is not None}


def project_gradient(grad: Tensor, layer: Layer, projection: Projection) -> Tensor:
    """`vec(P_0 dW P_1^T)` of one full gradient of a layer's parameter, flattened in row-major order and hashed as asked, shape (k_l,)."""
    grad_2d = grad.reshape(layer.shape)
    p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
    left = grad_2d if p0 is None else p0.to(grad_2d) @ grad_2d
    row_1k = (left if p1 is None else left @ p1.to(grad_2d).T).reshape(1, -1)
    sketch = projection.sketch_of(layer.name, layer.shape)
    return (row_1k if sketch is None else sketch.like(row_1k).apply(row_1k)).flatten()
