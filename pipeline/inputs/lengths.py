"""Inputs of different lengths: the memory that each takes, and which go through a model together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextBytes:
    """Bytes of a text's forward and backward pass: per token, and per pair of tokens where attention keeps scores."""

    per_token: float
    per_pair: float

    @classmethod
    def fitted(cls, shorter: tuple[int, int], longer: tuple[int, int]) -> "TextBytes":
        """Fits two measurements, (tokens, bytes) each; memory that does not grow with a text counts as if it did."""
        (short, few), (long, many) = shorter, longer
        slope = (many / long - few / short) / max(1, long - short)
        return cls(many / long - slope * long, slope) if slope > 0 else cls(max(few / short, many / long), 0.0)

    def of(self, length: int) -> int:
        """Bytes of a text of `length` tokens, at least 1."""
        return max(1, round(self.per_token * length + self.per_pair * length**2))


def grouped(lengths: Sequence[int], fitting: Callable[[int], int]) -> Iterator[list[int]]:
    """Indices by length, shortest first, cut where one more would not fit; `fitting`: how many of a length do."""
    members: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if members and len(members) >= fitting(lengths[index]):
            yield members
            members = []
        members.append(index)
    if members:
        yield members
