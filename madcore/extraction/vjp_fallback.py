"""The fallback for parameters without a formula: their module, or one around it, runs again, a sample at a time.

A module's inputs are kept, and when the gradient of its output arrives, a vector-Jacobian product of the module alone
gives each sample's whole gradient, which is then projected. Under `torch.func.vmap` (Horace He and Richard Zou,
functorch, 2021) that costs the module's forward and backward pass once more, and memory for whole gradients of as many
samples at a time as `CHUNK_BYTES` holds. What vmap has no rule for, such as recurrent layers and experts that a router
chooses by each token's numbers, goes one by one.

Which of a module's inputs have the samples first is told by their length; so outputs of the second run are compared
with the first's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from madcore.errors import LayerError, first_line
from madcore.extraction.recording import Recorder
from madcore.formulas.matrices import Sides
from madcore.formulas.norms import project_both
from madcore.rows import Layer

CHUNK_BYTES = 64 << 20


ACTIVATIONS = 16


LARGEST_DIFFERENCE = 0.05


FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)  # of a model computed in a way that is not for it


@dataclass(frozen=True)
class WholeGradient:
    """One parameter of a module that the fallback takes: its layer's name, its sides, its projections, its place in a row."""

    name: str
    shape: tuple[int, int]
    sides: Sides
    place: slice


@dataclass(frozen=True)
class RerunCost:
    """What the fallback costs a layer: its module's forward and backward pass once more, where a formula costs two projections.

    `parameters_share` estimates that pass: the module's share of the model's parameters. `gradient_bytes`: one sample's
    whole gradient. `one_by_one`: samples go through it in a loop, with nothing batched.
    """

    module: str
    parameters_share: float
    gradient_bytes: int
    one_by_one: bool

    @classmethod
    def of(cls, model: nn.Module, layer: Layer) -> "RerunCost":
        """Of one layer of a model."""
        parameter, module = model.get_parameter(layer.name), model.get_submodule(layer.rerun)
        share = sum(one.numel() for one in module.parameters()) / sum(one.numel() for one in model.parameters())
        return cls(layer.rerun, share, parameter.nbytes, layer.way == "fallback, one by one")


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
        found = {
            place: leaf
            for place, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == samples
        }
        return list(found), list(found.values())

    def with_one(
        self, places: Sequence[int], tensors: Sequence[Tensor]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """The arguments with one sample instead of all in some places; the module may overwrite them."""
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor.unsqueeze(0).clone()
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs


@dataclass(frozen=True)
class Rerun:
    """A module with the parameters that are to be differentiated, and all its parameters as they are outside any pass.

    `one_by_one`: without vmap.
    """

    module: nn.Module
    wanted: Mapping[str, WholeGradient]
    parameters: Mapping[str, Tensor]
    one_by_one: bool = False

    @property
    def name(self) -> str:
        """The first of its layers."""
        return next(iter(self.wanted.values())).name

    def refusal(self, reason: str) -> LayerError:
        """An error of all its layers."""
        return LayerError({whole.name: reason for whole in self.wanted.values()})

    def add(self, rows: Tensor, call: Call, which: int, first: Tensor, grads: Tensor) -> None:
        """Adds to rows (n, k) what one output contributes, `which` of the module's; `first` is its value, `grads` its gradient.

        Raises:
            LayerError: an output has not the samples first, or is not what it was in the first run, or there is no
                second run.
        """
        if not rows.shape[0]:
            return
        try:
            if self.one_by_one:
                self._add_one_by_one(rows, call, which, first, grads)
            else:
                self._add_together(rows, call, which, first, grads)
        except LayerError:
            raise
        except FAILURES as error:
            raise self.refusal(f"its module cannot run again, a sample at a time ({first_line(error)})") from error

    def _add_together(self, rows: Tensor, call: Call, which: int, first: Tensor, grads: Tensor) -> None:
        samples = rows.shape[0]
        if first.ndim < 1 or first.shape[0] != samples:
            raise self.refusal(
                f"its module's output has {tuple(first.shape)[:1] or 'no'} entries first, where the batch has {samples} samples"
            )
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

    def _add_one_by_one(self, rows: Tensor, call: Call, which: int, first: Tensor, grads: Tensor) -> None:
        """Outputs may have the samples on any axis, as a recurrent layer's last states have."""
        samples = rows.shape[0]
        places, tensors = call.mapped(samples)
        for sample in range(samples):
            differentiated = {name: self.parameters[name].detach().requires_grad_() for name in self.wanted}
            with torch.enable_grad():
                output = self._output(
                    call.with_one(places, [tensor[sample] for tensor in tensors]), differentiated, which
                )
            axes = [
                axis
                for axis, (one, all_) in enumerate(zip(output.shape, first.shape, strict=False))
                if (one, all_) == (1, samples)
            ]
            if output.ndim != first.ndim or not axes:
                raise self._differs()
            ours, grad = (tensor.narrow(axes[0], sample, 1) for tensor in (first, grads))
            if (
                output.shape != ours.shape
                or float(_difference(output.detach(), ours.to(output.dtype))) > LARGEST_DIFFERENCE
            ):
                raise self._differs()
            if not output.requires_grad:
                continue
            found = torch.autograd.grad(output, list(differentiated.values()), grad.to(output.dtype), allow_unused=True)
            for whole, gradient in zip(self.wanted.values(), found, strict=True):
                if gradient is not None:
                    rows[sample, whole.place] += whole.sides.numbers(
                        project_both(gradient.reshape(1, *whole.shape), whole.sides)
                    )[0]

    def _output(
        self, arguments: tuple[tuple[object, ...], dict[str, object]], parameters: Mapping[str, Tensor], which: int
    ) -> Tensor:
        """One of the module's outputs with these parameters instead of its own."""
        args, kwargs = arguments
        returned = functional_call(self.module, {**self.parameters, **parameters}, args, kwargs, tie_weights=False)
        output: Tensor = pytree.tree_leaves(returned)[which]
        return output

    def _one(
        self, call: Call, places: Sequence[int], which: int
    ) -> Callable[[Sequence[Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]:
        """Of one sample: its projected gradients, and how far its output is from the first run's, relative to it."""
        differentiated = {name: self.parameters[name] for name in self.wanted}

        def one(tensors: Sequence[Tensor], grad: Tensor, first: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            def output_of(parameters: dict[str, Tensor]) -> Tensor:
                return self._output(call.with_one(places, tensors), parameters, which)

            output, pull = vjp(output_of, differentiated)[:2]
            if output.shape != (1, *first.shape):
                raise self._differs()
            gradients = pull(grad.unsqueeze(0).to(output.dtype))[0]
            difference = _difference(output.squeeze(0), first)
            rows = {
                name: project_both(gradients[name].reshape(1, *whole.shape), whole.sides)
                for name, whole in self.wanted.items()
            }
            return rows, difference

        return one

    def _differs(self) -> LayerError:
        return self.refusal("its module's output for each sample alone is not the one for all together")

    def _chunk(self, samples: int, tensors: Sequence[Tensor], output: Tensor) -> int:
        """How many samples at a time."""
        whole = sum(self.parameters[name].nbytes for name in self.wanted)
        activations = sum(tensor.nbytes for tensor in tensors) + output.nbytes
        return max(1, min(samples, CHUNK_BYTES // (whole + ACTIVATIONS * activations // samples + 1)))


@contextmanager
def recorded_rerun(recorder: Recorder, rerun: Rerun) -> Iterator[None]:
    """A module's calls are kept inside, and its rows added when their gradients arrive."""
    before, after = _hooks(recorder, rerun)
    handles = (
        rerun.module.register_forward_pre_hook(before, with_kwargs=True),
        rerun.module.register_forward_hook(after, with_kwargs=True),
    )
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
            leaf = recorder.root(leaves[which])
            leaf = leaf if rerun.one_by_one else recorder.spread(leaf)
            leaf = (
                leaf if len(numbers) == 1 else leaf.clone()
            )  # else the gradient of one output would be in that of another
            leaves[which] = recorder.watch(
                module, rerun.name, leaf, _adder(recorder, rerun, call, which, leaf.detach().clone())
            )
        changed: object = pytree.tree_unflatten(leaves, structure)
        return changed

    return before, after


def _adder(recorder: Recorder, rerun: Rerun, call: Call, which: int, first: Tensor) -> Callable[[Tensor], None]:
    return lambda grads: rerun.add(recorder.rows, call, which, first, grads)


def _difference(output: Tensor, first: Tensor) -> Tensor:
    """How far a second run's output is from the first's, relative to it."""
    difference: Tensor = (output - first).norm() / first.norm().clamp(min=1e-12)
    return difference


def _copied(leaf: object, precision: torch.dtype) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().to(precision, copy=True) if leaf.is_floating_point() else leaf.clone()
