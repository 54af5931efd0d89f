"""The fallback for parameters without a formula: their module, or one around it, runs again, one sample at a time.

A module's inputs are kept, and when the gradient of its output arrives, a vector-Jacobian product of the module alone
gives each sample's whole gradient, which is then projected. Under `torch.func.vmap` (Horace He and Richard Zou,
functorch, 2021) that costs one more forward and backward pass of the module, and memory for the whole gradients of as
many samples at a time as fit into `CHUNK_BYTES`. Modules for which vmap has no rule, such as recurrent layers and
experts that a router chooses by each token's numbers, process samples one by one.

Which of a module's inputs have the samples first is inferred from their length; outputs of the second run are therefore
compared with those of the first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from madcore.errors import FAILURES, LayerError, first_line
from madcore.extraction.module_call import ModuleCall
from madcore.extraction.recording import Recorder
from madcore.formulas.matrices import Sides
from madcore.formulas.norms import project_both
from madcore.isolation import isolated, restored
from madcore.rows import Layer

CHUNK_BYTES = 64 << 20
ACTIVATIONS = 16
LARGEST_DIFFERENCE = 0.05


@dataclass(frozen=True)
class WholeGradient:
    """A parameter that the fallback differentiates: its layer's name, its shape, projections, and place in a row."""

    name: str
    shape: tuple[int, int]
    sides: Sides
    place: slice


@dataclass(frozen=True)
class RerunCost:
    """The cost of a layer's fallback: one more forward and backward pass of a module, instead of two projections.

    `parameters_share` estimates that pass: the module's share of the model's parameters. `gradient_bytes`: the size of
    one sample's whole gradient. `one_by_one`: samples go through the module in a loop, without batching.
    """

    module: str
    parameters_share: float
    gradient_bytes: int
    one_by_one: bool

    @classmethod
    def of(cls, model: nn.Module, layer: Layer) -> "RerunCost":
        """Return the cost for one layer of a model."""
        parameter, module = model.get_parameter(layer.name), model.get_submodule(layer.rerun)
        share = sum(one.numel() for one in module.parameters()) / sum(one.numel() for one in model.parameters())
        return cls(layer.rerun, share, parameter.nbytes, layer.way == "fallback, one by one")


@dataclass(frozen=True)
class Rerun:
    """A module with the parameters to differentiate, and all its parameters as they are outside any pass.

    `one_by_one`: in a loop over samples instead of vmap.
    """

    module: nn.Module
    wanted: Mapping[str, WholeGradient]
    parameters: Mapping[str, Tensor]
    one_by_one: bool = False

    @property
    def name(self) -> str:
        """The name of the module's first layer."""
        return next(iter(self.wanted.values())).name

    def refusal(self, reason: str) -> LayerError:
        """Return an error that names all layers of the module."""
        return LayerError({whole.name: reason for whole in self.wanted.values()})

    def add(self, rows: Tensor, call: ModuleCall, which: int, first: Tensor, grads: Tensor) -> None:
        """Add the contribution of one of the module's outputs to rows (n, k).

        Args:
            rows: of the pass.
            call: the first run's arguments.
            which: the index of the output among the module's outputs.
            first: the output's value in the first run.
            grads: the output's gradient.

        Raises:
            LayerError: an output does not have the samples first or differs from the first run's, or the second run
                fails.
        """
        if not rows.shape[0]:
            return
        try:
            with isolated(self.module):
                if self.one_by_one:
                    self._add_one_by_one(rows, call, which, first, grads)
                else:
                    self._add_together(rows, call, which, first, grads)
        except LayerError:
            raise
        except FAILURES as error:
            raise self.refusal(f"its module cannot run again, a sample at a time ({first_line(error)})") from error

    def _add_together(self, rows: Tensor, call: ModuleCall, which: int, first: Tensor, grads: Tensor) -> None:
        samples = rows.shape[0]
        if first.ndim < 1 or first.shape[0] != samples:
            entries = tuple(first.shape)[:1] or "no"
            raise self.refusal(
                f"its module's output has {entries} entries first, where the batch has {samples} samples"
            )
        places, tensors = call.mapped(samples)
        one = self._one(call, places, which)
        mapped = vmap(one, chunk_size=self._chunk(samples, tensors, first))
        with sdpa_kernel(SDPBackend.MATH):  # the other backends have no vmap rule
            projected, differences_n = mapped(tensors, grads.to(rows.dtype), first.to(rows.dtype))
        if (differences_n > LARGEST_DIFFERENCE).any():
            raise self._differs()
        for name, row in projected.items():
            whole = self.wanted[name]
            rows[:, whole.place] += whole.sides.numbers(row.squeeze(1))

    def _add_one_by_one(self, rows: Tensor, call: ModuleCall, which: int, first: Tensor, grads: Tensor) -> None:
        """Outputs may have the samples on any axis, as the last states of a recurrent layer have."""
        samples = rows.shape[0]
        places, tensors = call.mapped(samples)
        for sample in range(samples):
            differentiated = {name: self.parameters[name].detach().requires_grad_() for name in self.wanted}
            arguments = call.with_one(places, [tensor[sample] for tensor in tensors])
            with torch.enable_grad():
                output = self._output(arguments, differentiated, which)
            ours, grad = self._part_of_one(output, sample, samples, (first, grads))
            if float(_difference(output.detach(), ours.to(output.dtype))) > LARGEST_DIFFERENCE:
                raise self._differs()
            if not output.requires_grad:
                continue
            found = torch.autograd.grad(output, list(differentiated.values()), grad.to(output.dtype), allow_unused=True)
            for whole, gradient in zip(self.wanted.values(), found, strict=True):
                if gradient is not None:
                    dense = gradient.to_dense() if gradient.layout is not torch.strided else gradient
                    projected = project_both(dense.reshape(1, *whole.shape), whole.sides)
                    rows[sample, whole.place] += whole.sides.numbers(projected)[0]

    def _part_of_one(
        self, output: Tensor, sample: int, samples: int, all_together: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return one sample's part of the first run's output and of its gradient, shaped like its own output."""
        first, _ = all_together
        sizes = enumerate(zip(output.shape, first.shape, strict=False))
        axes = [axis for axis, (one, all_) in sizes if (one, all_) == (1, samples)]
        if output.ndim != first.ndim or not axes:
            raise self._differs()
        ours, grad = (tensor.narrow(axes[0], sample, 1) for tensor in all_together)
        if output.shape != ours.shape:
            raise self._differs()
        return ours, grad

    def _output(
        self, arguments: tuple[tuple[object, ...], dict[str, object]], parameters: Mapping[str, Tensor], which: int
    ) -> Tensor:
        """Compute one of the module's outputs with these parameters instead of its own."""
        args, kwargs = arguments
        with restored(self.module):
            returned = functional_call(self.module, {**self.parameters, **parameters}, args, kwargs, tie_weights=False)
        output: Tensor = pytree.tree_leaves(returned)[which]
        return output

    def _one(
        self, call: ModuleCall, places: Sequence[int], which: int
    ) -> Callable[[Sequence[Tensor], Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]:
        """Return a function of one sample: its projected gradients, and how far its output is from the first run's."""
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
        """Return how many samples go through vmap at a time."""
        whole = sum(self.parameters[name].nbytes for name in self.wanted)
        activations = sum(tensor.nbytes for tensor in tensors) + output.nbytes
        return max(1, min(samples, CHUNK_BYTES // (whole + ACTIVATIONS * activations // samples + 1)))


@contextmanager
def recorded_rerun(recorder: Recorder, rerun: Rerun) -> Iterator[None]:
    """Inside, record a module's calls, and add to the rows when their gradients arrive."""
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
    """Return a forward pre-hook, which sees inputs before the module can overwrite them, and a forward hook."""
    calls: list[ModuleCall] = []

    def before(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if not recorder.paused:
            calls.append(ModuleCall.of(args, kwargs, recorder.rows.dtype))

    def after(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], returned: object) -> object:
        if recorder.paused:
            return returned
        call = calls.pop()
        leaves, structure = pytree.tree_flatten(returned)
        numbers = [which for which, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        for which in numbers:
            leaf = recorder.root(leaves[which])
            leaf = leaf if rerun.one_by_one else recorder.spread(leaf)
            if len(numbers) > 1:  # otherwise the gradient of one output would be part of another's
                leaf = leaf.clone()
            add = _adder(recorder, rerun, call, which, leaf.detach().clone())
            leaves[which] = recorder.watch(module, rerun.name, leaf, add)
        changed: object = pytree.tree_unflatten(leaves, structure)
        return changed

    return before, after


def _adder(recorder: Recorder, rerun: Rerun, call: ModuleCall, which: int, first: Tensor) -> Callable[[Tensor], None]:
    return lambda grads: rerun.add(recorder.rows, call, which, first, grads)


def _difference(output: Tensor, first: Tensor) -> Tensor:
    """Return how far a second run's output is from the first's, relative to its norm."""
    difference: Tensor = (output - first).norm() / first.norm().clamp(min=1e-12)
    return difference
