"""Random projections of the two sides of a layer's gradient, and a second stage that hashes the result.

A gradient dW of shape (dim0, rest) is compressed to `P_0 dW P_1^T` (LoGra, Choe et al. 2024, arXiv 2405.13954). Entries
have mean 0 and variance 1/rank, so E[P^T P] = I and inner products are kept in expectation: Rademacher entries are
+-1/sqrt(rank) (Achlioptas 2003), Gaussian entries are normal. Where `rank` squared is still too many numbers, a
count-sketch (Charikar et al. 2002; sparse JL, Kane & Nelson 2014) adds them, with random signs, into `sketch` buckets.

For rows x, y of gradients A, B, if all randomness is independent of them: E[x . y] = <A, B>, and with r the rank and S
the number of buckets `Var[x . y] <= ((1 + 2/r)^2 (1 + 2/S) - 1) |A|^2 |B|^2`, without the factor of S where nothing is
hashed.

All randomness comes from Philox, a counter-based generator (Salmon et al. 2011), keyed by (seed, parameter, use): every
worker on every device makes the same matrix without communication.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ProjectionKind = Literal["rademacher", "gaussian"]


@dataclass(frozen=True)
class Sketch:
    """A count-sketch of k numbers into `size` buckets whose loads differ by at most one.

    `order` (k,) int64 is a random order of the numbers, dealt to the buckets in turn; `signs` (k,) are those of the
    numbers so dealt.
    """

    order: Tensor
    signs: Tensor
    size: int

    def apply(self, numbers_nk: Tensor) -> Tensor:
        """Sum per bucket, (n, k) -> (n, size)."""
        dealt_nk = numbers_nk[:, self.order] * self.signs
        missing = -dealt_nk.shape[1] % self.size
        sums: Tensor = torch.nn.functional.pad(dealt_nk, (0, missing)).unflatten(1, (-1, self.size)).sum(dim=1)
        return sums

    def like(self, tensor: Tensor) -> "Sketch":
        """Return the sketch on the device and in the precision of a tensor."""
        return Sketch(self.order.to(tensor.device), self.signs.to(tensor), self.size)


@dataclass(frozen=True)
class Projection:
    """A projection to at most `rank` numbers a side; a side no larger than the rank is kept whole.

    If more than `sketch` numbers of a layer remain, they are hashed to `sketch` numbers; None hashes nothing.
    """

    rank: int = 16
    seed: int = 0
    kind: ProjectionKind = "rademacher"
    sketch: int | None = None

    def kept(self, size: int) -> int:
        """Return how many numbers remain of a side of `size`."""
        return min(size, self.rank)

    def numbers(self, shape: tuple[int, int]) -> int:
        """Return how many numbers a row has for a gradient whose sides are `shape`."""
        kept = self.kept(shape[0]) * self.kept(shape[1])
        return kept if self.sketch is None else min(kept, self.sketch)

    def matrix(self, parameter: str, side: int, size: int) -> Tensor | None:
        """Make the matrix of one side of one parameter.

        Args:
            parameter: the parameter's full name, `blocks.0.conv1.weight`.
            side: 0 for the first dimension, 1 for all others together.
            size: the length of that side.

        Returns:
            float64 on the CPU, shape (rank, size), entries of mean 0 and variance 1/rank; None where the side is kept
            whole.
        """
        if size <= self.rank:
            return None
        count = self.rank * size
        if self.kind == "rademacher":
            entries = self._signs(count, f"{parameter}/{side}")
        else:
            entries = self._normals(count, f"{parameter}/{side}/gaussian")
        return torch.from_numpy(entries).reshape(self.rank, size) / math.sqrt(self.rank)

    def sketch_of(self, parameter: str, shape: tuple[int, int]) -> Sketch | None:
        """Make the sketch of a parameter whose gradient has sides `shape`: float64 on the CPU, None without hashing."""
        kept = self.kept(shape[0]) * self.kept(shape[1])
        if self.sketch is None or kept <= self.sketch:
            return None
        order = np.argsort(self._words(kept, f"{parameter}/sketch order"), kind="stable")
        signs = self._signs(kept, f"{parameter}/sketch signs")
        return Sketch(torch.from_numpy(order), torch.from_numpy(signs), self.sketch)

    def _words(self, count: int, use: str) -> NDArray[np.uint64]:
        """Return the first 64-bit words of the stream of one use."""
        digest = hashlib.blake2b(f"{self.seed}/{use}".encode(), digest_size=16).digest()
        words: NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
        return words

    def _signs(self, count: int, use: str) -> NDArray[np.float64]:
        """Return -1 or +1 for each bit."""
        words = self._words(-(-count // 64), use)
        return np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[:count].astype(np.float64) * 2 - 1

    def _normals(self, count: int, use: str) -> NDArray[np.float64]:
        """Return standard normal numbers, two from each pair of words (Box & Muller 1958)."""
        uniforms = ((self._words(count + count % 2, use) >> np.uint64(11)) + 0.5) * 2.0**-53
        radii, angles = np.sqrt(-2 * np.log(uniforms[::2])), 2 * np.pi * uniforms[1::2]
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1).ravel()[:count]
