"""Where a forward pass gets random numbers, and passes in which all of them are the lowest or the highest ones.

A pass that drops one number in five hundred can look the same twice. So where random numbers are drawn, they are also
replaced by extreme ones: what depends on them then differs for certain, and what is drawn and not used does not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Extreme = Literal["lowest", "highest"]
State = tuple[object, ...]

MERSENNE_WORDS, EXTREME_WORDS = 624, 512
ALL_ONES = 0x12DD9BB3  # the word of a Mersenne Twister's state that it returns as 32 ones
BELOW_ONE = 1 - 2**-24
DEVIATIONS, LONGEST_WAIT = 6.0, 36.0


@dataclass(frozen=True)
class RandomSource:
    """A generator that all code of a process shares: how to read and write its state, and states by the extreme."""

    read: Callable[[], State]
    write: Callable[[State], None]
    extremes: Mapping[Extreme, State]


def mersenne_words(extreme: Extreme) -> tuple[int, ...]:
    """Return the words of a state from which a Mersenne Twister returns its lowest or its highest numbers at first.

    Ordinary numbers follow, so that samplers which reject the extreme ones come to an end.
    """
    ordinary = (0x9E3779B1 * number % 2**32 for number in range(1, MERSENNE_WORDS - EXTREME_WORDS + 1))
    return (*(ALL_ONES if extreme == "highest" else 0,) * EXTREME_WORDS, *ordinary)


def _numpy_state() -> State:
    name, words, place, has_normal, normal = np.random.get_state(legacy=True)
    return (name, tuple(np.asarray(words).tolist()), place, has_normal, normal)


def _set_numpy_state(state: State) -> None:
    name, words, *rest = state
    np.random.set_state((name, np.array(words, np.uint32), *rest))  # type: ignore[arg-type]


NUMPY = RandomSource(
    _numpy_state,
    _set_numpy_state,
    {
        "lowest": ("MT19937", mersenne_words("lowest"), 0, 0, 0.0),
        "highest": ("MT19937", mersenne_words("highest"), 0, 0, 0.0),
    },
)


@contextmanager
def states_kept(model: nn.Module, sources: Sequence[RandomSource]) -> Iterator[None]:
    """Restore the states of sources, and of torch's own generators for the CPU and the model's GPUs, afterwards."""
    gpus = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(gpus))
        for source in sources:
            stack.callback(source.write, source.read())
        yield


class TorchDraws(TorchDispatchMode):
    """Sees the random numbers that torch draws in its context, and replaces some of them by extreme ones.

    `states`: that of the generator before each operation that drew any.
    """

    def __init__(self, extreme: Extreme | None = None, replaced: Callable[[int], bool] = lambda _: False) -> None:
        """Replace what the operations drew whose numbers, counted from 0, are to be `replaced`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.states = list[bytes]()
        self._extreme, self._replaced = extreme, replaced

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the import of torch's compiler, which takes seconds; nothing is compiled while draws are seen."""
        return False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation."""
        kind, given = func._schema.name.removeprefix("aten::").rstrip("_"), kwargs or {}
        if kind not in EXTREMES or not _draws(kind, args):
            return func(*args, **given)
        state = _state(given.get("generator"), args)
        made = func(*args, **given)
        number = len(self.states)
        self.states.append(state)
        if self._extreme is not None and self._replaced(number):
            EXTREMES[kind](made, args, 1.0 if self._extreme == "highest" else 0.0)
        return made


def _state(generator: object, args: Sequence[object]) -> bytes:
    own = generator if isinstance(generator, torch.Generator) else None
    on = next((arg.device for arg in args if isinstance(arg, Tensor) and arg.is_cuda), None)
    state = own.get_state() if own else torch.get_rng_state() if on is None else torch.cuda.get_rng_state(on)
    return bytes(state.numpy().tobytes())


def _draws(kind: str, args: Sequence[object]) -> bool:
    """Whether an operation's outcome is open: with a probability of 0 or 1 it is not."""
    if kind == "native_dropout":
        return bool(args[2]) and args[1] not in (0.0, 1.0)
    return not (kind == "bernoulli" and len(args) > 1 and args[1] in (0.0, 1.0))


def _bernoulli(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    probability = args[-1] if isinstance(args[-1], Tensor) else None
    certain = None if probability is None or probability is made else probability.round() == probability
    made.copy_(torch.full_like(made, share) if certain is None else torch.where(certain, made, share))


def _uniform(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    low, high = (float(bound) for bound in args[1:3]) if len(args) > 2 else (0.0, 1.0)  # type: ignore[arg-type]
    made.fill_(low + share * BELOW_ONE * (high - low))


def _unit(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    made.fill_(share * BELOW_ONE)


def _normal(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    made.fill_((2 * share - 1) * DEVIATIONS)


def _dropout(made: object, args: Sequence[object], share: float) -> None:
    given, probability = args[:2]
    assert isinstance(made, tuple) and isinstance(given, Tensor) and isinstance(probability, float)
    made[0].copy_(given * share / (1 - probability))
    made[1].fill_(bool(share))


def _integers(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    bounds = [bound for bound in args if isinstance(bound, int)]
    low, high = bounds if len(bounds) > 1 else (0, *bounds) if bounds else (0, 2)
    made.fill_(high - 1 if share else low)


def _permutation(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    order = torch.arange(len(made), device=made.device)
    made.copy_(order.flip(0) if share else order)


def _choice(made: object, args: Sequence[object], share: float) -> None:
    """Choose the first or the last of what has a chance, always."""
    assert isinstance(made, Tensor) and isinstance(args[0], Tensor)
    possible = (args[0] > 0).int()
    last = possible.shape[-1] - 1 - possible.flip(-1).argmax(dim=-1, keepdim=True)
    made.copy_((last if share else possible.argmax(dim=-1, keepdim=True)).expand_as(made))


def _exponential(made: object, args: Sequence[object], share: float) -> None:
    assert isinstance(made, Tensor)
    rate = args[1] if len(args) > 1 and isinstance(args[1], float) else 1.0
    made.fill_((LONGEST_WAIT if share else 1 - BELOW_ONE) / rate)


EXTREMES: Mapping[str, Callable[[object, Sequence[object], float], None]] = {
    "bernoulli": _bernoulli,
    "uniform": _uniform,
    "rand": _unit,
    "rand_like": _unit,
    "normal": _normal,
    "randn": _normal,
    "randn_like": _normal,
    "native_dropout": _dropout,
    "random": _integers,
    "randint": _integers,
    "randint_like": _integers,
    "randperm": _permutation,
    "multinomial": _choice,
    "exponential": _exponential,
}
