"""Generators of random numbers that all code of a process shares, and states in which they draw extreme numbers.

A pass that drops one number in five hundred can look the same twice. So where random numbers are drawn, they are also
replaced by extreme ones: what depends on them then differs for certain, and what is drawn and not used does not. All
are the lowest or the highest, or the lowest and the highest in turn, since numbers that are all alike change no maximum
and numbers in turn no mean.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

Extreme = Literal["lowest", "highest", "in turn, lowest first", "in turn, highest first"]
EXTREMES: tuple[Extreme, ...] = get_args(Extreme)
State = tuple[object, ...]

MERSENNE_WORDS, EXTREME_WORDS = 624, 512
ALL_ONES = 0x12DD9BB3  # the word of a Mersenne Twister's state that it returns as 32 ones


@dataclass(frozen=True)
class RandomSource:
    """A generator of random numbers: how to read and write its state, and states in which it draws extreme numbers."""

    read: Callable[[], State]
    write: Callable[[State], None]
    extremes: Mapping[Extreme, State]


def mersenne_words(extreme: Extreme) -> tuple[int, ...]:
    """Return the words of a state from which a Mersenne Twister returns extreme numbers of two words each at first.

    Ordinary numbers follow, so that samplers which reject the extreme ones come to an end.
    """
    ordinary = (0x9E3779B1 * number % 2**32 for number in range(1, MERSENNE_WORDS - EXTREME_WORDS + 1))
    words = (ALL_ONES * is_highest(extreme, number // 2) for number in range(EXTREME_WORDS))
    return (*words, *ordinary)


def is_highest(extreme: Extreme, number: int) -> bool:
    """Return whether a number, counted from 0, is the highest one."""
    if extreme in {"lowest", "highest"}:
        return extreme == "highest"
    return number % 2 == (extreme == "in turn, lowest first")


def _numpy_state() -> State:
    name, words, place, has_normal, normal = np.random.get_state(legacy=True)
    return (name, tuple(np.asarray(words).tolist()), place, has_normal, normal)


def _set_numpy_state(state: State) -> None:
    name, words, *rest = state
    np.random.set_state((name, np.array(words, np.uint32), *rest))  # type: ignore[arg-type]


NUMPY = RandomSource(
    _numpy_state,
    _set_numpy_state,
    {extreme: ("MT19937", mersenne_words(extreme), 0, 0, 0.0) for extreme in EXTREMES},
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
