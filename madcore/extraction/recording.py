"""The hooks of one pass: what they see of the modules, and the rows that they add it to.

Forward hooks project each module's input; tensor hooks on its output join that with the output gradient. Tensor hooks,
not module backward hooks, because those refuse an in-place activation after them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from madcore.curvature.kronecker import SideSums
from madcore.errors import LayerError
from madcore.formulas.matrices import Formula, OuterProductFormula, Sides

Hook = Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Member:
    """One parameter of one module: its layer's name, formula, projections on the model's device, and place in a row.

    `samples` says where the samples are in the module's input and output: on the `first` axis; on the `second`, after
    the positions; `merged` with the positions on the first, those of a sample one after the other; or `nowhere`, as in
    positions that all samples share.
    """

    name: str
    formula: Formula
    sides: Sides
    place: slice
    samples: Literal["first", "second", "merged", "nowhere"] = "first"

    def arranged(self, tensor: Tensor, samples: int) -> Tensor:
        """Return the module's input or output with only the n samples on the first axis, if it has them.

        Raises:
            LayerError: samples and positions are merged, and the first axis is not a multiple of n.
        """
        if self.samples == "second" and tensor.ndim > 1:
            return tensor.transpose(0, 1)
        if self.samples == "merged":
            entries = tensor.shape[0]
            if samples and entries % samples:
                found = f"its input or output has {entries} entries first"
                raise LayerError({self.name: f"{found}, no multiple of the batch's {samples} samples"})
            return tensor.reshape(samples, entries // samples if samples else 1, *tensor.shape[1:])
        return tensor


class _Root(torch.autograd.Function):
    """Make a tensor require grad without a copy and without making it a leaf, which in-place activations reject."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, output: Tensor, anchor: Tensor) -> Tensor:
        """`output` itself, now a function of `anchor`."""
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[None, Tensor]:
        """Let no gradient flow further."""
        return None, grads[0].new_zeros(())


def autocast_device(tensor: Tensor) -> str:
    """The device that autocast is asked about: what has shapes alone is computed as on a CPU."""
    return "cpu" if tensor.is_meta else tensor.device.type


class Recorder:
    """The rows (n, k) of a pass under way.

    Checkpointed blocks run twice. A block checkpointed by saved tensors runs again into a graph that no gradient
    reaches; a reentrant one runs first with gradients switched off, where nothing is recorded, and again in the
    backward pass. So a use counts once, when its gradient arrives; a module that only ever ran without gradients is
    `silent`.

    A layer that cannot be recorded does not end the pass: at its end, `refused` has all of them with the reasons.
    """

    def __init__(self, rows: Tensor, anchor: Tensor, sides: SideSums | None = None):
        """Start a pass.

        Args:
            rows: zeros (n, k).
            anchor: the number that the pass differentiates with respect to.
            sides: side numbers to sum as well.
        """
        self.rows, self._anchor, self._sides = rows, anchor, sides
        self._skipped: dict[nn.Module, str] = {}
        self._seen: set[nn.Module] = set()
        self._paused = False
        self.refused: dict[str, str] = {}

    @property
    def silent(self) -> list[str]:
        """The first parameter of each module that ran only with gradients switched off."""
        return [name for module, name in self._skipped.items() if module not in self._seen]

    @property
    def paused(self) -> bool:
        """Whether modules are run for another purpose than the pass."""
        return self._paused

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Switch the graph, autocast and recording off inside."""
        before, self._paused, device = self._paused, True, autocast_device(self.rows)
        autocast = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        try:
            with torch.no_grad(), autocast:
                yield
        finally:
            self._paused = before

    def root(self, output: Tensor) -> Tensor:
        """Make a tensor require grad where it does not and gradients are on."""
        return output if output.requires_grad else _Root.apply(output, self._anchor)  # type: ignore[no-untyped-call]

    def spread(self, output: Tensor) -> Tensor:
        """Repeat an output with one entry on its first axis, which all samples share, for each sample."""
        samples = self.rows.shape[0]
        shared = output.ndim and output.shape[0] == 1 != samples
        return output.expand(samples, *output.shape[1:]).clone() if shared else output

    def rooted(self, module: nn.Module, name: str, output: Tensor) -> Tensor:
        """Make a module's output require grad where gradients are on, and keep track of modules where they are not."""
        output = self.root(output)
        if output.requires_grad:
            self._seen.add(module)
        else:
            self._skipped.setdefault(module, name)
        return output

    def use(self, module: nn.Module, members: Sequence[Member], inputs: Tensor, output: Tensor) -> Tensor:
        """Record one use of a module, or of a part of one, with a formula for each member.

        An input with one entry on its first axis, such as positions that all samples share, counts as every sample's:
        its output is then repeated, so that each sample has a gradient of its own.

        Returns:
            The output, to be used instead of the given one.
        """
        if self._paused:
            return output
        output = self.rooted(module, members[0].name, output)
        if not output.requires_grad:
            return output
        samples, first = self.rows.shape[0], members[0]
        if first.samples == "nowhere":
            inputs, output = inputs.unsqueeze(0), output.unsqueeze(0)
        try:
            seen = first.arranged(inputs.detach(), samples)
            shared = samples != 1 and seen.ndim > 1 and seen.shape[0] == output.shape[0] == 1
            if (seen.shape[0] != samples and not shared) or seen.ndim < 1 + seen.is_floating_point():
                reason = f"its input has {seen.shape[0]} entries first, where the batch has {samples} samples"
                raise LayerError({first.name: reason})
        except LayerError as error:
            self.refused |= dict.fromkeys((member.name for member in members), error.reasons[first.name])
            return output
        with self.exact():
            seen = seen.to(self.rows.dtype) if seen.is_floating_point() else seen
            seen = seen.expand(samples, *seen.shape[1:]) if shared else seen
            saved = [member.formula.save(seen, member.sides) for member in members]
        output = self.spread(output) if shared else output
        self._when_arrived(output, lambda grads: self._add(members, saved, first.arranged(grads, samples)))
        return output

    def watch(self, module: nn.Module, name: str, output: Tensor, add: Callable[[Tensor], None]) -> Tensor:
        """Call `add` with an output's gradient when it arrives; return the output, to be used instead."""
        output = self.rooted(module, name, output)
        if output.requires_grad:
            self._when_arrived(output, add)
        return output

    def _when_arrived(self, output: Tensor, add: Callable[[Tensor], None]) -> None:
        shape = output.shape

        def arrived(grads: Tensor) -> None:
            try:
                with self.exact():
                    add(grads.reshape(shape))
            except LayerError as error:
                self.refused |= error.reasons

        _own(output).register_hook(arrived)

    def _add(self, members: Sequence[Member], saved: Sequence[Tensor], grads: Tensor) -> None:
        """Add one use of a module to the rows; a module used twice accumulates."""
        samples = self.rows.shape[0]
        for member, inputs in zip(members, saved, strict=True):
            if grads.shape[0] != samples:
                reason = f"its output has {grads.shape[0]} entries first, where the batch has {samples} samples"
                raise LayerError(dict.fromkeys((one.name for one in members), reason))
            grads_here = grads.to(self.rows.dtype)
            self.rows[:, member.place] += member.sides.numbers(member.formula.row(inputs, grads_here, member.sides))
            if self._sides is not None and isinstance(member.formula, OuterProductFormula):
                self._sides.add(member.name, *member.formula.by_position(inputs, grads_here, member.sides))


def _own(output: Tensor) -> Tensor:
    """Return the tensor to hook for an output's gradient: the output, or the tensor that it is another shape of.

    A Linear of three dimensions returns a view, and an in-place activation drops the hooks of a view, but not those of
    its base.
    """
    base = output._base
    whole = base is not None and base.numel() == output.numel() and base.is_contiguous() and output.is_contiguous()
    return base if base is not None and whole else output


@contextmanager
def rooted_everywhere(recorder: Recorder, model: nn.Module) -> Iterator[None]:
    """Inside, every module without submodules returns numbers that require grad, so that every block's input does."""

    def root(module: nn.Module, args: tuple[object, ...], output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        return recorder.root(output) if torch.is_grad_enabled() and not recorder.paused else output

    handles = [module.register_forward_hook(root) for module in model.modules() if not list(module.children())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def formula_hook(recorder: Recorder, members: Sequence[Member]) -> Hook:
    """Return a forward hook for a module whose parameters have formulas."""

    def record(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        return recorder.use(module, members, args[0] if args else next(iter(kwargs.values())), output)

    return record
