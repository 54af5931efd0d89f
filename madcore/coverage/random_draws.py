"""Numbers that torch draws: seen as operations draw them, and replaced by extreme ones."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from madcore.coverage.random_sources import Extreme, is_highest

BELOW_ONE = 1 - 2**-24
DEVIATIONS, LONGEST_WAIT, FAR = 6.0, 36.0, 1e7

Arguments = Sequence[object]


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
        if kind not in DRAWN or not _is_open(kind, args):
            return func(*args, **given)
        state = _state(given.get("generator"), args)
        made = func(*args, **given)
        number = len(self.states)
        self.states.append(state)
        if self._extreme is not None and self._replaced(number):
            numbers = made[0] if isinstance(made, tuple) else made
            assert isinstance(numbers, Tensor)
            high = _high(numbers, self._extreme)
            numbers.copy_(DRAWN[kind](numbers, args, high))
            if isinstance(made, tuple):
                made[1].copy_(high)  # the mask of native_dropout
        return made


def _high(numbers: Tensor, extreme: Extreme) -> Tensor:
    """Return which numbers are the highest, bool, shaped like them."""
    first, second = is_highest(extreme, 0), is_highest(extreme, 1)
    flat = torch.full((numbers.numel(),), first, device=numbers.device)
    flat[1::2] = second
    return flat.view(numbers.shape)


def _state(generator: object, args: Arguments) -> bytes:
    own = generator if isinstance(generator, torch.Generator) else None
    on = next((arg.device for arg in args if isinstance(arg, Tensor) and arg.is_cuda), None)
    state = own.get_state() if own else torch.get_rng_state() if on is None else torch.cuda.get_rng_state(on)
    return bytes(state.numpy().tobytes())


def _is_open(kind: str, args: Arguments) -> bool:
    """Whether an operation's outcome is open: with a probability of 0 or 1 it is not."""
    if kind == "native_dropout":
        return bool(args[2]) and args[1] not in (0.0, 1.0)
    return not (kind == "bernoulli" and len(args) > 1 and args[1] in (0.0, 1.0))


def _number(args: Arguments, place: int, default: float) -> float:
    """Return an argument that is a number, or its default."""
    given = args[place] if len(args) > place else default
    return float(given) if isinstance(given, int | float) else default


def _bernoulli(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    probability = args[-1] if isinstance(args[-1], Tensor) else None
    certain = None if probability is None or probability is made else probability.round() == probability
    return high.to(made) if certain is None else torch.where(certain, made, high.to(made))


def _uniform(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    low, range_ = _number(args, 1, 0.0), _number(args, 2, 1.0) - _number(args, 1, 0.0)
    return low + high.double() * BELOW_ONE * range_


def _unit(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    return high.double() * BELOW_ONE


def _normal(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    return (2 * high.double() - 1) * DEVIATIONS


def _log_normal(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    return _normal(made, args, high).exp()


def _cauchy(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    return (2 * high.double() - 1) * FAR


def _dropout(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    given, probability = args[:2]
    assert isinstance(given, Tensor) and isinstance(probability, float)
    return given * high / (1 - probability)


def _integers(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    bounds = [bound for bound in args if isinstance(bound, int)]
    lowest, end = bounds if len(bounds) > 1 else (0, *bounds) if bounds else (0, 2)
    return torch.where(high, end - 1, lowest)


def _permutation(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    order = torch.arange(len(made), device=made.device)
    return order.flip(0) if high[:1].any() else order


def _choice(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    """Return the last or the first of what has a chance."""
    assert isinstance(args[0], Tensor)
    possible = (args[0] > 0).int()
    last = possible.shape[-1] - 1 - possible.flip(-1).argmax(dim=-1, keepdim=True)
    return torch.where(high, last, possible.argmax(dim=-1, keepdim=True))


def _exponential(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    return torch.where(high, LONGEST_WAIT, 1 - BELOW_ONE) / _number(args, 1, 1.0)


def _geometric(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    return torch.where(high, 1 + LONGEST_WAIT / _number(args, 1, 1.0), 1.0).floor()


def _counts(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    """Return no event, or more than there are but once in a billion times, of a Poisson process."""
    assert isinstance(args[0], Tensor)
    rates = args[0].double()
    return torch.where(high & (rates > 0), (rates + DEVIATIONS * rates.sqrt() + DEVIATIONS).floor(), 0.0)


def _successes(made: Tensor, args: Arguments, high: Tensor) -> Tensor:
    tries, probability = args[:2]
    assert isinstance(tries, Tensor) and isinstance(probability, Tensor)
    return torch.where(torch.where(high, probability > 0, probability == 1), tries, 0.0)


DRAWN: Mapping[str, Callable[[Tensor, Arguments, Tensor], Tensor]] = {
    "bernoulli": _bernoulli,
    "binomial": _successes,
    "cauchy": _cauchy,
    "exponential": _exponential,
    "geometric": _geometric,
    "log_normal": _log_normal,
    "multinomial": _choice,
    "native_dropout": _dropout,
    "normal": _normal,
    "poisson": _counts,
    "rand": _unit,
    "rand_like": _unit,
    "randint": _integers,
    "randint_like": _integers,
    "randn": _normal,
    "randn_like": _normal,
    "random": _integers,
    "randperm": _permutation,
    "uniform": _uniform,
}
