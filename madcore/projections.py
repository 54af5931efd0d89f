"""Random projections of the two sides of a layer's gradient.

A gradient dW of shape (dim0, rest) is compressed to `P_0 dW P_1^T` (LoGra, Choe et al. 2024, arXiv 2405.13954). Entries are
+-1/sqrt(rank), so that E[P^T P] = I and inner products are kept in expectation. They come from Philox, a counter-based generator
(Salmon et al. 2011), keyed by (seed, parameter, side): every worker on every device makes the same matrix with no exchange.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """A Rademacher projection to at most `rank` numbers a side; a side no larger than the rank is kept whole."""

    rank: int = 16
    seed: int = 0

    def kept(self, size: int) -> int:
        """How many numbers remain of a side of `size`."""
        return min(size, self.rank)

    def matrix(self, parameter: str, side: int, size: int) -> Tensor | None:
        """The matrix of one side of one parameter.

        Args:
            parameter: the parameter's full name, `blocks.0.conv1.weight`.
            side: 0 for the first dimension, 1 for all others together.
            size: length of that side.

        Returns:
            float64 on the CPU, shape (rank, size), entries +-1/sqrt(rank); None where the side is kept whole.
        """
        if size <= self.rank:
            return None
        digest = hashlib.blake2b(f"{self.seed}/{parameter}/{side}".encode(), digest_size=16).digest()
        words = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(-(-self.rank * size // 64))
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[: self.rank * size]
        signs: Tensor = torch.from_numpy(bits.astype(np.float64)).reshape(self.rank, size) * 2 - 1
        return signs / math.sqrt(self.rank)
