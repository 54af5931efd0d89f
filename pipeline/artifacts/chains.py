"""Chains of sampled weights as stored, segment by segment.

A segment has its kept draws as one Zarr array (kept, P), the chain's state after it, and a table of the losses at each
draw.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from infra.commits import read_file
from infra.formats import arrays
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage
from madcore.sampling.langevin import Chain

SNAPSHOTS, STATE, DRAWS = "snapshots", "state", "draws.arrow"


DRAWS_FORMAT = TableFormat(
    "draws",
    1,
    (
        pa.field("draw", pa.int64(), nullable=False),
        pa.field("minibatch_loss", pa.float64(), nullable=False),
        pa.field("probe_loss", pa.float64(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),
    ),
)


@dataclass(frozen=True)
class Draw:
    """One draw of a chain, counted from 1.

    The mean loss of its minibatch before the step, that of the held-out samples after it, and the weights' distance
    from w*. Draw 0 is w* itself, before any step; its minibatch loss is that of the held-out samples.
    """

    number: int
    minibatch_loss: float
    probe_loss: float
    distance: float


def encode_segment(kept: Sequence[Tensor], chain: Chain, draws: Sequence[Draw]) -> dict[str, bytes]:
    """The files of a segment: the weights (P,) of its kept draws, if any, the chain's state, and its draws."""
    named = {STATE: torch.stack([chain.weights, chain.second_moment])}
    if kept:
        named[SNAPSHOTS] = torch.stack(list(kept))
    attributes = {"format": 1, "chain": chain.number, "steps": chain.steps}
    files = {
        f"{name}/{part}": data
        for name, tensor in named.items()
        for part, data in arrays.encode(tensor.cpu().numpy(), attributes).items()
    }
    fields = ("number", "minibatch_loss", "probe_loss", "distance")
    columns = [[getattr(draw, name) for draw in draws] for name in fields]
    return {**files, DRAWS: encode_arrow(pa.table(columns, schema=DRAWS_FORMAT.schema))}


def read_state(storage: Storage, folder: str) -> Chain:
    """The state of a chain after a segment."""
    array = arrays.open_array(storage, f"{folder}/{STATE}")
    weights, second_moment = torch.from_numpy(np.array(arrays.read(array, 0, 2)))
    return Chain(int(str(array.attrs["chain"])), weights, second_moment, int(str(array.attrs["steps"])))


def read_snapshots(storage: Storage, folders: Sequence[str]) -> Iterator[Tensor]:
    """The weights (P,) of all kept draws of segments, one after the other."""
    for folder in folders:
        array = arrays.open_array(storage, f"{folder}/{SNAPSHOTS}")
        for draw in range(array.shape[0]):
            yield torch.from_numpy(np.array(arrays.read(array, draw, draw + 1)[0]))


def read_draws(storage: Storage, folder: str) -> list[Draw]:
    """The draws of a segment."""
    path = f"{folder}/{DRAWS}"
    table = decode_arrow(read_file(storage, path), DRAWS_FORMAT, storage.locate(path))
    return [Draw(row["draw"], row["minibatch_loss"], row["probe_loss"], row["distance"]) for row in table.to_pylist()]
