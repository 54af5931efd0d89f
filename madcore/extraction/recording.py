"""One pass's hooks: what they see of modules, and the rows they add it to.

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
    """One parameter as one module holds it: its layer's name, its formula, its projections on the model's device, its place in a row.

    `samples` is where the samples are in the module's input and output: on the first axis, on the second behind
    positions, on the first together with positions, those of a sample one after the other, or nowhere, as of positions
    that all samples share.
    """

    name: str
    formula: Formula
    sides: Sides
    place: slice
    samples: Literal["first", "second", "merged", "nowhere"] = "first"

    def arranged(self, tensor: Tensor, samples: int) -> Tensor:
        """The module's input or output, with n samples alone on the first axis if it has them.

        Raises:
            LayerError: the first axis is no multiple of n where samples and positions are merged.
        """
        if self.samples == "second" and tensor.ndim > 1:
            return tensor.transpose(0, 1)
        if self.samples == "merged":
            if samples and tensor.shape[0] % samples:
                raise LayerError(
                    {
                        self.name: f"its input or output has {tensor.shape[0]} entries first, no multiple of the batch's {samples} samples"
                    }
                )
            return tensor.reshape(samples, tensor.shape[0] // samples if samples else 1, *tensor.shape[1:])
        return tensor


class _Root(torch.autograd.Function):
    """Makes a tensor require grad without copying it and without making it a leaf, which in-place activations refuse."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, output: Tensor, anchor: Tensor) -> Tensor:
        """`output` itself, now a function of `anchor`."""
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[None, Tensor]:
        """No gradient flows further."""
        return None, grads[0].new_zeros(())


class Recorder:
    """Rows (n, k) of a pass in the making.

    Checkpointed blocks run twice. A block checkpointed by saved tensors runs again into a graph that no gradient
    reaches; a reentrant one runs first with gradients switched off, where nothing is recorded, and again in the
    backward pass. So a use counts once, when its gradient arrives; a module that only ever ran without gradients is
    `silent`.

    A layer that cannot be recorded does not end the pass: all of them are known at its end, in `refused`, each with the
    reason.
    """

    def __init__(self, rows: Tensor, anchor: Tensor, sides: SideSums | None = None):
        """`rows`: zeros (n, k). `anchor`: the number that the pass differentiates with respect to. `sides` are summed too where there are any."""
        self.rows, self._anchor, self._sides = rows, anchor, sides
        self._skipped: dict[nn.Module, str] = {}
        self._seen: set[nn.Module] = set()
        self._paused = False
        self.refused: dict[str, str] = {}

    @property
    def silent(self) -> list[str]:
        """Parameters of modules that ran with gradients switched off and not otherwise."""
        return [name for module, name in self._skipped.items() if module not in self._seen]

    @property
    def paused(self) -> bool:
        """Whether modules run for another purpose than the pass."""
        return self._paused

    @contextmanager
    def exact(self) -> Iterator[None]:
        """No graph, no autocast, and no recording inside."""
        before, self._paused, device = self._paused, True, self.rows.device.type
        autocast = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        try:
            with torch.no_grad(), autocast:
                yield
        finally:
            self._paused = before

    def root(self, output: Tensor) -> Tensor:
        """A tensor, made to require grad where it does not and gradients are on."""
        return output if output.requires_grad else _Root.apply(output, self._anchor)  # type: ignore[no-untyped-call]

    def spread(self, output: Tensor) -> Tensor:
        """An output with one entry first, that all samples share, repeated for each; others as they are."""
        samples = self.rows.shape[0]
        return (
            output.expand(samples, *output.shape[1:]).clone()
            if output.ndim and output.shape[0] == 1 != samples
            else output
        )

    def rooted(self, module: nn.Module, name: str, output: Tensor) -> Tensor:
        """A module's output, made to require grad where it does not and gradients are on, which is kept in mind."""
        output = self.root(output)
        if output.requires_grad:
            self._seen.add(module)
        else:
            self._skipped.setdefault(module, name)
        return output

    def use(self, module: nn.Module, members: Sequence[Member], inputs: Tensor, output: Tensor) -> Tensor:
        """Records one use of a module, or of a part of one, with a formula for each member; returns its output, to be used instead.

        An input with one entry first, such as positions that all samples share, counts as every sample's: its output is
        then repeated, so that each sample has a gradient of its own.
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
                raise LayerError(
                    {first.name: f"its input has {seen.shape[0]} entries first, where the batch has {samples} samples"}
                )
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
        """Calls `add` with an output's gradient when it arrives; returns the output, to be used instead."""
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
        """Adds one use of a module to the rows; a module used twice accumulates."""
        for member, inputs in zip(members, saved, strict=True):
            if grads.shape[0] != self.rows.shape[0]:
                raise LayerError(
                    dict.fromkeys(
                        (one.name for one in members),
                        f"its output has {grads.shape[0]} entries first, where the batch has {self.rows.shape[0]} samples",
                    )
                )
            grads_here = grads.to(self.rows.dtype)
            self.rows[:, member.place] += member.sides.numbers(member.formula.row(inputs, grads_here, member.sides))
            if self._sides is not None and isinstance(member.formula, OuterProductFormula):
                self._sides.add(member.name, *member.formula.by_position(inputs, grads_here, member.sides))


def _own(output: Tensor) -> Tensor:
    """What to hook for an output's gradient: itself, or what it is another shape of.

    A Linear of three dimensions returns a view, and an activation that overwrites a view drops the view's hooks, not
    those below it.
    """
    base = output._base
    whole = base is not None and base.numel() == output.numel() and base.is_contiguous() and output.is_contiguous()
    return base if base is not None and whole else output


@contextmanager
def rooted_everywhere(recorder: Recorder, model: nn.Module) -> Iterator[None]:
    """Inside, every module without parts returns numbers that require grad, so that no block's input is without."""

    def root(module: nn.Module, args: tuple[object, ...], output: object) -> object:
        numbers = (
            isinstance(output, Tensor)
            and output.is_floating_point()
            and torch.is_grad_enabled()
            and not recorder.paused
        )
        return recorder.root(output) if isinstance(output, Tensor) and numbers else output

    handles = [module.register_forward_hook(root) for module in model.modules() if not list(module.children())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def formula_hook(recorder: Recorder, members: Sequence[Member]) -> Hook:
    """A forward hook for a module whose parameters have formulas."""

    def record(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        return recorder.use(module, members, args[0] if args else next(iter(kwargs.values())), output)

    return record
