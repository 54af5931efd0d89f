"""All trusted samples as stored: the part that each belongs to, its prediction, and its score."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.commits import read_file
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage

TRUSTED = "trusted.arrow"


TRUSTED_FORMAT = TableFormat(
    "trusted",
    1,
    (
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("flat", pa.bool_(), nullable=False),
    ),
)


TrustedPart = Literal[
    "reference", "calibration", "filtered", "flat", "suspect", "suspect calibration", "unreadable", "dropped"
]


@dataclass(frozen=True)
class TrustedSamples:
    """All trusted samples, in task order: the part that each belongs to, its prediction, and its score.

    A suspect was found by screening and is in neither the reference nor the calibration part, whichever it was drawn
    for; nor is a sample that was dropped by its id, nor one without a gradient that was not drawn for the calibration
    part. Scores are NaN outside the calibration part, except for suspects that were drawn for it, and +infinity for a
    calibration sample whose gradient is not finite, or that has none: the most anomalous there is, as it would be if
    audited. `flat`: indices of the samples without a gradient, whatever their part.
    """

    ids: list[str]
    parts: list[TrustedPart]
    predictions: Tensor
    scores: NDArray[np.float64]
    flat: frozenset[int] = frozenset()

    def of(self, part: TrustedPart) -> list[int]:
        """Indices of a part's samples."""
        return [index for index, own in enumerate(self.parts) if own == part]

    @property
    def calibration_scores(self) -> NDArray[np.float64]:
        """Scores of the calibration part, shape (M,)."""
        return self.scores[self.of("calibration")]

    @property
    def suspected_scores(self) -> NDArray[np.float64]:
        """Scores of the suspects that were drawn for the calibration part, shape (S,)."""
        return self.scores[self.of("suspect calibration")]

    @property
    def flat_calibration(self) -> int:
        """How many samples of the calibration part have no gradient."""
        return len(self.flat.intersection(self.of("calibration")))

    @property
    def reference_ids(self) -> list[str]:
        """Ids of the reference part, in the order of its rows."""
        return [self.ids[index] for index in self.of("reference")]

    @property
    def reference_predictions(self) -> Tensor:
        """Predicted classes of the reference part, in the order of its rows."""
        return self.predictions[self.of("reference")]


def encode_trusted(trusted: TrustedSamples) -> dict[str, bytes]:
    """The file of all trusted samples."""
    columns = [
        pa.array(trusted.ids, pa.string()),
        pa.array(trusted.parts, pa.string()),
        pa.array(trusted.predictions.numpy(), pa.int32()),
        pa.array(trusted.scores, pa.float64(), mask=np.isnan(trusted.scores)),
        pa.array([index in trusted.flat for index in range(len(trusted.ids))], pa.bool_()),
    ]
    table = pa.Table.from_arrays(columns, schema=TRUSTED_FORMAT.schema)
    return {TRUSTED: encode_arrow(table)}


def read_trusted(storage: Storage, folder: str) -> TrustedSamples:
    """All trusted samples from the folder of a references task, or, without scores, of a split task.

    Earlier versions knew no flat ones.
    """
    path = f"{folder}/{TRUSTED}"
    table = decode_arrow(read_file(storage, path), TRUSTED_FORMAT, storage.locate(path))
    flat = np.array(table.column("flat").to_pylist(), bool) if "flat" in table.column_names else np.zeros(0, bool)
    return TrustedSamples(
        ids=table.column("sample_id").to_pylist(),
        parts=table.column("part").to_pylist(),
        predictions=torch.from_numpy(np.array(table.column("prediction").to_numpy(), np.int64)),
        scores=np.array(table.column("score").fill_null(float("nan")).to_numpy(), np.float64),
        flat=frozenset(np.flatnonzero(flat).tolist()),
    )
