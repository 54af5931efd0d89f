"""Whether a module holds what its file holds: converting a tensor to the parameter's type must keep its values.

torch's `copy_` converts silently: int8 kernels become floats without the scale that gives them meaning, fractions
become whole numbers, and of two values for one tied tensor the last one stays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.models.weights.mismatches import name_some

SCALED = (
    "quantized weights mean nothing without their scale: export the dequantized ones, as float32, float16 or bfloat16"
)


COUNTER = "num_batches_tracked"  # of batch norms; averages of weights average it too, and no output depends on it


CHECK = "check how the weights were trained and saved"


class Copies(TorchFunctionMode):
    """Notes each tensor that is copied into another, and that one, while it is entered."""

    def __init__(self) -> None:
        """With nothing noted yet."""
        super().__init__()
        self.made: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is Tensor.copy_ and len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            self.made.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def first_untrue(module: nn.Module, copies: Iterable[tuple[Tensor, Tensor]], given: Mapping[str, object]) -> str:
    """Say which tensors of a filled module differ from the file's; "" if none.

    Args:
        module: as filled.
        copies: the module's own tensors, and what was copied into each.
        given: the file's tensors, by the module's names.
    """
    held = {
        tensor.untyped_storage().data_ptr(): (name, isinstance(tensor, nn.Parameter))
        for name, tensor in module.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor) and tensor.numel()
    }
    pairs = [(held.get(own.untyped_storage().data_ptr()), own, value) for own, value in copies]
    named = [(*place, own, value) for place, own, value in pairs if place is not None]
    quantized = [
        f"{name} ({_kinds(value, own)})" for name, trained, own, value in named if _scaled(value, own, trained)
    ]
    if quantized:
        return f"{name_some({'quantized': quantized})}; {SCALED}"
    changed = [
        f"{name} ({_kinds(value, own)})"
        for name, _, own, value in named
        if _loses(value, own) and not name.endswith(COUNTER)
    ]
    if changed:
        found = name_some({"of a type that does not hold their numbers": changed})
        return f"{found}; save them in the architecture's types"
    return _contradiction(module, given)


def _scaled(value: Tensor, own: Tensor, trained: bool) -> bool:
    """Whether a tensor of whole or of 8-bit numbers is to become one of floats; a mask may that is not trained."""
    if not own.is_floating_point():
        return False
    if value.is_floating_point():
        return value.element_size() < 2 <= own.element_size()
    return trained or value.dtype != torch.bool


def _kinds(value: Tensor, own: Tensor) -> str:
    """Both types in words."""
    return f"{value.dtype} in the file, {own.dtype} in the architecture".replace("torch.", "")


def _loses(value: Tensor, own: Tensor) -> bool:
    """Whether numbers change that are to become whole ones or truths; floats of any width may be rounded."""
    if own.is_floating_point() or own.is_complex() or value.dtype == own.dtype:
        return False
    return not torch.equal(own.to(value.dtype).expand_as(value), value)


def _contradiction(module: nn.Module, given: Mapping[str, object]) -> str:
    """Two names of one tensor of the module whose values in the file differ; "" if there are none."""
    first: dict[tuple[object, ...], str] = {}
    for name, own in module.state_dict(keep_vars=True).items():
        value = given.get(name)
        if not isinstance(own, Tensor) or not isinstance(value, Tensor) or not own.numel():
            continue
        other = first.setdefault(place_of(own), name)
        known = given[other]
        if other != name and isinstance(known, Tensor) and not torch.equal(known, value):
            return f"{other} and {name} are one tensor in the architecture, and differ in the file"
    return ""


def place_of(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors share that are the same in memory."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()


def without_number(module: nn.Module) -> str:
    """Name the first parameter that is not finite, or the first buffer that holds a NaN; "" if there is none.

    Buffers may be infinite, as masks are.
    """
    for name, weight in module.named_parameters():
        bad = weight.numel() - int(torch.isfinite(weight).sum())
        if bad:
            return f"{bad:,} of the {weight.numel():,} numbers of {name} are not finite; {CHECK}"
    for name, buffer in module.named_buffers():
        bad = int(torch.isnan(buffer).sum())
        if bad:
            return f"{bad:,} of the {buffer.numel():,} numbers of {name} are NaN; {CHECK}"
    return ""
