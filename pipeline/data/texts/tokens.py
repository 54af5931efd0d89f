"""A sequence of tokens, as a tokenizer makes it or as columns hold it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """A sequence: its ids (n,) and, where its model is given them, their types (n,); and whether it was cut."""

    ids: TokenIds
    types: TokenIds | None = None
    cut: bool = False
