"""The fallback for parameters without a formula: their module runs again, a sample at a time under `torch.func.vmap`.

A module's inputs are kept, and when the gradient of its output arrives, a vector-Jacobian product of the module alone gives each
sample's whole gradient, which is then projected (Horace He and Richard Zou, functorch, 2021). That costs the module's forward and
backward pass once more, and memory for whole gradients of as many samples at a time as `CHUNK_BYTES` holds. Which of a module's
inputs have the samples first is told by their length; so outputs of the second run are compared with those of the first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from madcore.errors import LayerError
from madcore.layers import Sides
from madcore.norms import project_both
from madcore.recording import Recorder
from madcore.rows import Layer

CHUNK_BYTES = 64 << 20
ACTIVATIONS = 16
LARGEST_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Whole:
    """One parameter of a module that the fallback takes: its layer's name, its sides, its projections, its place in a row."""

    name: str
    shape: tuple[int, int]
    sides: Sides
    place: slice


@dataclass(frozen=True)
class RerunCost:
    """What the fallback costs a layer: its module's forward and backward pass once more, where a formula costs two projections.

    `parameters_share` estimates that pass: the module's share of the model's parameters. `gradient_bytes`: one sample's whole gradient.
    """

    module: str
    parameters_share: float
    gradient_bytes: int

    @classmethod
    def of(cls, model: nn.Module, layer: Layer) -> "RerunCost":
        """Of one layer of a model."""
        parameter, module = model.get_parameter(layer.name), model.get_submodule(layer.module)
        share = sum(one.numel() for one in module.parameters()) / sum(one.numel() for one in model.parameters())
        return cls(layer.module, share, parameter.nbytes)


@dataclass(frozen=True)
class Call:
    """What a module was called with: its tensors, copied, and all else."""

    leaves: tuple[object, ...]
    structure: pytree.TreeSpec

    @classmethod
    def of(cls, args: tuple[object, ...], kwargs: Mapping[str, object], precision: torch.dtype) -> "Call":
        """Numbers in the model's own precision, whatever autocast made of them."""
        leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
        return cls(tuple(_copied(leaf, precision) for leaf in leaves), structure)

    def mapped(self, samples: int) -> tuple[list[int], list[Tensor]]:
        """Which of the leaves have the samples first, and those."""
        found = {place: leaf for place, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == samples}
        return list(found), list(found.values())

    def with_one(self, places: Sequence[int], tensors: Sequence[Tensor]) -> tuple[tuple[object, ...], dict[str, object]]:
        """The arguments with one sample instead of all in some places; the module may overwrite them."""
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor.unsqueeze(0).clone()
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs


@dataclass(frozen=True)
class Rerun:
    """A module with the parameters that are to be differentiated, and all its parameters as they are outside any pass."""

    module: nn.Module
    wanted: Mapping[str, Whole]
    parameters: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The first of its layers."""
        return next(iter(self.wanted.values())).name

    def add(self, rows: Tensor, call: Call, which: int, first: Tensor, grads: Tensor) -> None:
        """Adds to rows (n, k) what one output contributes, `which` of the module's; `first` is its value, `grads` its gradient.

        Raises:
            LayerError: an output has not the samples first, or is not what it was in the first run.
        """
        samples = rows.shape[0]
        if first.ndim < 1 or first.shape[0] != samples:
            raise LayerError(self.name, f"its module's output has {tuple(first.shape)[:1] or 'no'} entries first, where the batch has {samples} samples")
        if not samples:
            return
        places, tensors = call.mapped(samples)
        one = self._one(call, places, which)
        mapped = vmap(one, chunk_size=self._chunk(samples, tensors, first))
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for one sample at a time
            projected, differences_n = mapped(tensors, grads.to(rows.dtype), first.to(rows.dtype))
        if (differences_n > LARGEST_DIFFERENCE).any():
            raise self._differs()
        for name, row in projected.items():
            whole = self.wanted[name]
            rows[:, whole.place] += whole.sides.numbers(row.squeeze(1))

    def _one(self, call: Call, places: Sequence[int], which: int) -> Callable[[Sequence[Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]:
        """Of one sample: its projected gradients, and how far its output is from the first run's, relative to it."""
        differentiated = {name: self.parameters[name] for name in self.wanted}

        def one(tensors: Sequence[Tensor], grad: Tensor, first: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            def output_of(parameters: dict[str, Tensor]) -> Tensor:
                args, kwargs = call.with_one(places, tensors)
                returned = functional_call(self.module, {**self.parameters, **parameters}, args, kwargs, tie_weights=False)
                output: Tensor = pytree.tree_leaves(returned)[which]
                return output

            output, pull = vjp(output_of, differentiated)[:2]
            if output.shape != (1, *first.shape):
                raise self._differs()
            gradients = pull(grad.unsqueeze(0).to(output.dtype))[0]
            difference = (output.squeeze(0) - first).norm() / first.norm().clamp(min=1e-12)
            rows = {name: project_both(gradients[name].reshape(1, *whole.shape), whole.sides) for name, whole in self.wanted.items()}
            return rows, difference

        return one

    def _differs(self) -> LayerError:
        return LayerError(self.name, "its module's output for each sample alone is not the one for all together")

    def _chunk(self, samples: int, tensors: Sequence[Tensor], output: Tensor) -> int:
        """How many samples at a time."""
        whole = sum(self.parameters[name].nbytes for name in self.wanted)
        activations = sum(tensor.nbytes for tensor in tensors) + output.nbytes
        return max(1, min(samples, CHUNK_BYTES // (whole + ACTIVATIONS * activations // samples + 1)))


@contextmanager
def rerunning(recorder: Recorder, rerun: Rerun) -> Iterator[None]:
    """A module's calls are kept inside, and its rows added when their gradients arrive."""
    before, after = _hooks(recorder, rerun)
    handles = rerun.module.register_forward_pre_hook(before, with_kwargs=True), rerun.module.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(recorder: Recorder, rerun: Rerun) -> tuple[Callable[..., None], Callable[..., object]]:
    """A forward pre-hook, which sees inputs before the module can overwrite them, and a forward hook."""
    calls: list[Call] = []

    def before(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if not recorder.paused:
            calls.append(Call.of(args, kwargs, recorder.rows.dtype))

    def after(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], returned: object) -> object:
        if recorder.paused:
            return returned
        call = calls.pop()
        leaves, structure = pytree.tree_flatten(returned)
        numbers = [which for which, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        for which in numbers:
            leaf = recorder.spread(recorder.root(leaves[which]))
            leaf = leaf if len(numbers) == 1 else leaf.clone()  # else the gradient of one output would be in that of another
            leaves[which] = recorder.watch(module, rerun.name, leaf, _adder(recorder, rerun, call, which, leaf.detach().clone()))
        changed: object = pytree.tree_unflatten(leaves, structure)
        return changed

    return before, after


def _adder(recorder: Recorder, rerun: Rerun, call: Call, which: int, first: Tensor) -> Callable[[Tensor], None]:
    return lambda grads: rerun.add(recorder.rows, call, which, first, grads)


def _copied(leaf: object, precision: torch.dtype) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().to(precision, copy=True) if leaf.is_floating_point() else leaf.clone()
