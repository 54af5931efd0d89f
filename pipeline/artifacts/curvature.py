"""The curvature at rest: whitening matrices in one flat array, and the reference part's whitened rows beside all trusted samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra import arrays
from infra.storage import Storage
from infra.tables import TableFormat, decode_arrow, encode_arrow
from madcore import BlockMoment, RowLayout, Whitening

Part = Literal["reference", "calibration", "filtered", "unreadable"]
WHITENING, LAYERS = "whitening", "layers.arrow"
REFERENCES, TRUSTED = "references", "trusted.arrow"
MOMENT = "moment"
LAYERS_FORMAT = TableFormat(
    "curvature-layers",
    1,
    (
        pa.field("layer", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mean_eigenvalue", pa.float64(), nullable=False),
        pa.field("damping", pa.float64(), nullable=False),
    ),
)
TRUSTED_FORMAT = TableFormat(
    "trusted",
    1,
    (
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
    ),
)


@dataclass(frozen=True)
class TrustedSamples:
    """All trusted samples, in task order: the part each belongs to, its prediction, and, in the calibration part, its score.

    Scores are NaN outside the calibration part, and +infinity for a calibration sample whose gradient is not finite: the most
    anomalous there is, as it would be flagged if it were audited.
    """

    ids: list[str]
    parts: list[Part]
    predictions: Tensor
    scores: NDArray[np.float64]

    def of(self, part: Part) -> list[int]:
        """Indices of a part's samples."""
        return [index for index, own in enumerate(self.parts) if own == part]

    @property
    def calibration_scores(self) -> NDArray[np.float64]:
        """Scores of the calibration part, shape (M,)."""
        return self.scores[self.of("calibration")]

    @property
    def reference_ids(self) -> list[str]:
        """Ids of the reference part, in the order of its rows."""
        return [self.ids[index] for index in self.of("reference")]

    @property
    def reference_predictions(self) -> Tensor:
        """Predicted classes of the reference part, in the order of its rows."""
        return self.predictions[self.of("reference")]


def encode_whitening(whitening: Whitening, mean_eigenvalues: Sequence[float], dampings: Sequence[float]) -> dict[str, bytes]:
    """The files of a factor task."""
    flat = torch.cat([matrix.flatten() for matrix in whitening.matrices or ()]).numpy()
    objects = arrays.encode(flat, {"format": 1})
    layout = whitening.layout
    table = pa.table([list(layout.names), list(layout.sizes), list(mean_eigenvalues), list(dampings)], schema=LAYERS_FORMAT.schema)
    return {**{f"{WHITENING}/{name}": data for name, data in objects.items()}, LAYERS: encode_arrow(table)}


def read_whitening(storage: Storage, folder: str, layout: RowLayout) -> Whitening:
    """The whitening of a factor task's folder; the identity where there is none ("")."""
    if not folder:
        return Whitening(layout)
    array = arrays.open_array(storage, f"{folder}/{WHITENING}")
    flat = torch.from_numpy(arrays.read(array, 0, array.shape[0]))
    pieces = flat.split([size * size for size in layout.sizes])
    return Whitening(layout, tuple(piece.reshape(size, size) for piece, size in zip(pieces, layout.sizes, strict=True)))


def encode_moment(moment: BlockMoment) -> dict[str, bytes]:
    """The files of a moment task: the sums of all layers, float64, in one flat array, and the number of rows in them."""
    flat = torch.cat([block.flatten() for block in moment.sums]).numpy()
    return {f"{MOMENT}/{name}": data for name, data in arrays.encode(flat, {"format": 1, "count": moment.count}).items()}


def read_moment(storage: Storage, folder: str, layout: RowLayout) -> BlockMoment:
    """The moment of a moment task's folder."""
    array = arrays.open_array(storage, f"{folder}/{MOMENT}")
    pieces = torch.from_numpy(arrays.read(array, 0, array.shape[0])).split([size * size for size in layout.sizes])
    sums = tuple(piece.reshape(size, size) for piece, size in zip(pieces, layout.sizes, strict=True))
    return BlockMoment(layout, sums, int(str(array.attrs["count"])))


def encode_references(whitened_mk: Tensor, trusted: TrustedSamples) -> dict[str, bytes]:
    """The files of a references task: whitened rows (m, k) of the reference part, m at least 1, and all trusted samples."""
    objects = arrays.encode(whitened_mk.numpy(), {"format": 1})
    return {**{f"{REFERENCES}/{name}": data for name, data in objects.items()}, **encode_trusted(trusted)}


def encode_trusted(trusted: TrustedSamples) -> dict[str, bytes]:
    """The file of all trusted samples."""
    columns = [
        pa.array(trusted.ids, pa.string()),
        pa.array(trusted.parts, pa.string()),
        pa.array(trusted.predictions.numpy(), pa.int32()),
        pa.array(trusted.scores, pa.float64(), mask=np.isnan(trusted.scores)),
    ]
    table = pa.Table.from_arrays(columns, schema=TRUSTED_FORMAT.schema)
    return {TRUSTED: encode_arrow(table)}


def read_trusted(storage: Storage, folder: str) -> TrustedSamples:
    """All trusted samples, of a references task's folder, or, without scores, of the split's."""
    path = f"{folder}/{TRUSTED}"
    table = decode_arrow(storage.read(path), TRUSTED_FORMAT, storage.locate(path))
    return TrustedSamples(
        ids=table.column("sample_id").to_pylist(),
        parts=table.column("part").to_pylist(),
        predictions=torch.from_numpy(np.array(table.column("prediction").to_numpy(), np.int64)),
        scores=np.array(table.column("score").fill_null(float("nan")).to_numpy(), np.float64),
    )


def read_reference_rows(storage: Storage, folder: str) -> Tensor:
    """Whitened rows (m, k) of the reference part."""
    array = arrays.open_array(storage, f"{folder}/{REFERENCES}")
    return torch.from_numpy(arrays.read(array, 0, array.shape[0]))
