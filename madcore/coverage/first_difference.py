"""Which module of a model is the first whose outputs differ between two runs."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from madcore.errors import FAILURES

CLEAR = 1e-4  # of a tensor's norm: more than rounding

Value = bytes | Tensor | None
Reduce = Callable[[int, Tensor], Value]


@dataclass(frozen=True)
class _Seen:
    """A module's tensors as it was called or returned: its inputs or outputs; and the module that called it."""

    module: str
    called: bool
    caller: str
    values: Sequence[Value]


def digests(which: int, tensor: Tensor) -> Value:
    """Reduce a tensor to a digest of its bits."""
    flat = tensor.detach().contiguous().reshape(-1)
    return hashlib.blake2b(flat.view(torch.uint8).cpu().numpy().tobytes()).digest() if flat.numel() else b""


def parts_of(*samples: tuple[int, int]) -> Reduce:
    """Return what reduces a tensor of each run to a sample's part, by (its place, the number of samples).

    A tensor that does not have the samples on its first axis is left out.
    """

    def part(which: int, tensor: Tensor) -> Value:
        place, count = samples[which]
        return tensor[place].detach().double() if tensor.ndim > 1 and tensor.shape[0] == count else None

    return part


def first_difference(model: nn.Module, one: Callable[[], object], other: Callable[[], object], reduce: Reduce) -> str:
    """Return where two runs of a model begin to differ, as the end of a sentence; "" where that is not seen.

    `reduce`: makes of each tensor of run 0 or 1 what is compared.
    """
    runs = list[list[_Seen]]()
    for which, call in enumerate((one, other)):
        with _watched(model, partial(reduce, which)) as seen:
            call()
        runs.append(seen)
    for first, second in zip(*runs, strict=False):
        if first.module != second.module or first.called != second.called:
            return ""
        if any(map(_differ, first.values, second.values)):
            before = f", before it calls {first.module}" if first.called else ""
            return f", first in {_named(model, first.caller if first.called else first.module)}{before}"
    return ""


def failing_module(model: nn.Module, call: Callable[[], object]) -> str:
    """Return in which module a run fails, as the end of a sentence; "" where it does not."""
    with _watched(model, lambda _: None) as seen, suppress(*FAILURES):
        call()
        return ""
    last = seen[-1] if seen else _Seen("", True, "", ())
    return f" in {_named(model, last.module if last.called else last.caller)}"


def _named(model: nn.Module, name: str) -> str:
    kind = type(model.get_submodule(name)).__name__
    return f"{name} ({kind})" if name else f"the model's own code ({kind})"


def _differ(one: Value, other: Value) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape:
            return False  # padded, or of positions
        finite, others = torch.isfinite(one), torch.isfinite(other)
        if not torch.equal(finite, others):
            return True
        return bool((one - other)[finite].norm() > CLEAR * one[finite].norm())
    return isinstance(one, bytes) and one != other


@contextmanager
def _watched(model: nn.Module, reduce: Callable[[Tensor], Value]) -> Iterator[list[_Seen]]:
    """Inside, see every module's calls; yields them in the order in which they begin and end."""
    seen, callers = list[_Seen](), [""]
    names = {module: name for name, module in model.named_modules()}

    def values(tree: object) -> list[Value]:
        leaves = (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
        return [reduce(leaf) for leaf in leaves if leaf.is_floating_point()]

    def before(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        seen.append(_Seen(names[module], True, callers[-1], values((args, kwargs))))
        callers.append(names[module])

    def after(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], returned: object) -> None:
        callers.pop()
        seen.append(_Seen(names[module], False, callers[-1], values(returned)))

    handles = [
        handle
        for module in names
        for handle in (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        )
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
