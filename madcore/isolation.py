"""What a model keeps of its calls, undone: each pass starts from the model as it was loaded.

Models keep things even in eval mode: biases gathered once, keys and values of the text so far, counters, running means.
Such a tensor holds the graph of the pass that made it, or is a constant in the next pass, whose gradients then lack it;
and what a pass changes would make a score depend on the samples before it. So attributes of modules, and the lists,
dicts and plain objects that these hold, are restored after each pass, and buffers and other tensors that are no
parameters are copies during it.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from types import FunctionType, SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

Contents = dict[object, object] | tuple[object, ...]
Container = dict[object, object] | list[object] | set[object] | deque[object]

EXACT = frozenset({torch.float64, torch.complex128})
LARGEST_IN_FLOAT64 = 16 << 30  # bytes of a model's parameters
LARGEST_ENTERED = 1000  # a longer list or dict is a vocabulary or the like: it is restored, what it holds is not
TORCHS_OWN = frozenset(nn.Module().__dict__) - {"_parameters", "_buffers", "_modules", "training"}
PLAIN = frozenset({bool, int, float, str, type(None), nn.Parameter, torch.dtype, torch.Size, FunctionType})
FOREIGN = sys.stdlib_module_names | {"torch", "numpy", "madcore"}  # madcore: what records a pass is no part of a model


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore afterwards what a model's attributes refer to."""
    with _Kept.by(model).restored():
        yield


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Restore a model's attributes afterwards, and let it change only copies of the tensors that are no parameters.

    Inside, torch's transformer layers take no fused kernels, which run only without gradients, and have other outputs
    at padded positions.
    """
    kept = _Kept.by(model)
    with kept.restored(), _unfused():
        kept.replace_tensors(_Copies())
        yield


def held_by(model: nn.Module) -> Iterator[tuple[Container, object, object]]:
    """Yield what a model keeps outside sets: the attributes or container that refer to it, the key there, and it."""
    for container in _Kept.by(model).containers:
        if not isinstance(container, set):
            yield from ((container, key, value) for key, value in _items(container))


@contextmanager
def _unfused() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def fits_float64(model: nn.Module) -> bool:
    """Whether a model is in another precision than float64, and not too large for a copy in it."""
    numbers = [parameter for parameter in model.parameters() if has_gradient(parameter)]
    small = sum(_exact(parameter.to("meta")).nbytes for parameter in numbers) <= LARGEST_IN_FLOAT64
    return small and all(parameter.dtype not in EXACT for parameter in numbers)


def has_gradient(parameter: Tensor) -> bool:
    """Return whether a parameter has real or complex numbers, which autograd can differentiate by."""
    return parameter.is_floating_point() or parameter.is_complex()


def _exact(tensor: Tensor) -> Tensor:
    """Return real numbers in float64, complex ones in twice that, any others as they are."""
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double() if has_gradient(tensor) else tensor


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Inside, a model's floating-point parameters, buffers and other tensors are float64; it needs memory for both."""
    parameters = [parameter for parameter in model.parameters() if has_gradient(parameter)]
    before = [(parameter.data, parameter.grad) for parameter in parameters]
    kept = _Kept.by(model)
    with kept.restored():
        try:
            for parameter in parameters:
                parameter.grad = None
                parameter.data = _exact(parameter.data)
            kept.replace_tensors(_exact)
            yield
        finally:
            for parameter, (values, grad) in zip(parameters, before, strict=True):
                parameter.grad = None
                parameter.data = values
                parameter.grad = grad


@dataclass(frozen=True)
class _Kept:
    """Everything in which a model can keep something, and the tensors there that are no parameters, with their places.

    `containers`: attributes of modules, and the containers and objects that these hold, nested. `tensors`: places of
    tensors, and of tuples that hold any.
    """

    containers: Sequence[Container]
    tensors: Sequence[tuple[Container, object, object]]

    @classmethod
    def by(cls, model: nn.Module) -> "_Kept":
        """Walk through a model."""
        containers, tensors, seen = list[Container](), list[tuple[Container, object, object]](), set[int]()
        waiting = [inner for module in model.modules() if (inner := _inside(module)) is not None]
        while waiting:
            container = waiting.pop()
            if id(container) in seen:
                continue
            seen.add(id(container))
            containers.append(container)
            for key, value in _items(container):
                kind = type(value)
                if kind in PLAIN or key in TORCHS_OWN:
                    continue
                if kind is Tensor:
                    tensors.append((container, key, value))
                elif parts := _parts(value):
                    waiting += [inner for part in parts if (inner := _inside(part)) is not None]
                    if any(type(part) is Tensor for part in parts):
                        tensors.append((container, key, value))
        return cls(containers, tensors)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the containers' contents afterwards."""
        before = [(container, _contents(container)) for container in self.containers]
        try:
            yield
        finally:
            for container, contents in before:
                _restore(container, contents)

    def replace_tensors(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the tensors, except for results of autograd and those of an unusual layout."""
        for container, key, value in self.tensors:
            if not isinstance(container, set):
                container[key] = _changed(value, change)  # type: ignore[index]


class _Copies:
    """Copies tensors, each storage once, so that views of one storage stay views of one."""

    def __init__(self) -> None:
        self._storages = dict[int, torch.UntypedStorage]()

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not tensor.numel() or tensor.is_conj() or tensor.is_neg():  # the storage holds the numbers' conjugates
            return tensor.clone()
        copied = self._storages.get(storage.data_ptr())
        if copied is None:
            copied = self._storages[storage.data_ptr()] = storage.clone()
        return tensor.new_empty(0).set_(copied, tensor.storage_offset(), tensor.shape, tensor.stride())


def _inside(value: object) -> Container | None:
    """Return what a value keeps things in, None where it keeps nothing that a forward pass is likely to change."""
    if isinstance(value, dict | list | set | deque):
        return value
    own = isinstance(value, SimpleNamespace | nn.Module) or type(value).__module__.partition(".")[0] not in FOREIGN
    attributes = getattr(value, "__dict__", None) if own and not isinstance(value, type | LazyModuleMixin) else None
    return attributes if isinstance(attributes, dict) else None


def _parts(value: object) -> list[object]:
    """Return a value that a pass may change, or instead of a tuple all such values in it, nested."""
    if type(value) is not tuple:
        return [value]
    return [part for inner in value if type(inner) not in PLAIN for part in _parts(inner)]


def _changed(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """Return a tensor changed, or a tuple with its tensors changed; results of autograd and unusual layouts stay."""
    if type(value) is tuple:
        return tuple(_changed(part, change) for part in value)
    if type(value) is not Tensor or value.requires_grad or value.layout is not torch.strided or value.is_quantized:
        return value
    return change(value)


def _items(container: Container) -> Iterable[tuple[object, object]]:
    """Return what a container holds by key or place, nothing of one that is not entered."""
    if len(container) > LARGEST_ENTERED:
        return ()
    return container.items() if isinstance(container, dict) else enumerate(container)


def _contents(container: Container) -> Contents:
    return dict(container) if isinstance(container, dict) else tuple(container)


def _restore(container: Container, contents: Contents) -> None:
    if isinstance(container, dict) and isinstance(contents, dict):
        if container.keys() == contents.keys() and all(map(is_, container.values(), contents.values())):
            return
        for key in [key for key in container if key not in contents]:
            del container[key]
        for key, value in contents.items():
            if key not in container or container[key] is not value:
                container[key] = value
    elif len(container) != len(contents) or not all(map(is_, container, contents)):
        container.clear()
        if isinstance(container, set):
            container.update(contents)
        elif isinstance(container, list | deque):
            container.extend(contents)
