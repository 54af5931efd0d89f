"""Generators of random numbers that a model's modules hold: torch's, numpy's and Python's."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from madcore.coverage.random_sources import EXTREMES, Extreme, RandomSource, State, mersenne_words
from madcore.isolation import Container, held_by


@contextmanager
def generators_replaced(model: nn.Module) -> Iterator[list[RandomSource]]:
    """Inside, modules hold copies of their generators; yields a source for each of numpy's and Python's.

    Those of torch need none: what draws from them is seen (see `madcore.coverage.random_draws`).
    """
    held = list(_held(model))
    for one in held:
        one.put((one.generator,))
    try:
        yield [source for one in held if (source := one.source()) is not None]
    finally:
        for one in held:
            one.restore()


@dataclass(frozen=True)
class _Held:
    """A generator and where it is held: containers with the key in each."""

    generator: object
    places: Sequence[tuple[Container, object]]

    def source(self) -> RandomSource | None:
        """Return a source whose states are generators, which are never equal; None for a generator of torch's."""
        if isinstance(self.generator, torch.Generator):
            return None
        return RandomSource(self._copied, self.put, {each: (_extreme(self.generator, each),) for each in EXTREMES})

    def put(self, state: State) -> None:
        """Replace the generator by a copy of another."""
        self._replace(_copied(state[0]))

    def restore(self) -> None:
        """Put the generator itself back."""
        self._replace(self.generator)

    def _copied(self) -> State:
        container, key = self.places[0]
        return (_copied(container[key]),)  # type: ignore[call-overload, index]

    def _replace(self, generator: object) -> None:
        for container, key in self.places:
            container[key] = generator  # type: ignore[index]


def _held(model: nn.Module) -> Iterator[_Held]:
    found = dict[int, tuple[object, list[tuple[Container, object]]]]()
    for container, key, value in held_by(model):
        if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState) or _is_pythons(value):
            found.setdefault(id(value), (value, []))[1].append((container, key))
    for generator, places in found.values():
        yield _Held(generator, places)


def _is_pythons(value: object) -> bool:
    """Return whether a value is a `random.Random`: this package does not import its module."""
    return type(value).__module__ == "random" and type(value).__name__ == "Random"


def _copied(generator: object) -> object:
    return generator.clone_state() if isinstance(generator, torch.Generator) else copy.deepcopy(generator)


def _extreme(generator: object, extreme: Extreme) -> object:
    """Return a generator like one of numpy's or Python's that draws extreme numbers at first."""
    words = mersenne_words(extreme)
    if isinstance(generator, np.random.Generator | np.random.RandomState):
        twister = np.random.MT19937()
        twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(words, np.uint32), "pos": 0}}
        kind = np.random.Generator if isinstance(generator, np.random.Generator) else np.random.RandomState
        return kind(twister)
    made = copy.deepcopy(generator)
    made.setstate((3, (*words, 0), None))  # type: ignore[attr-defined]
    return made
