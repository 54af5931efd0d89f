"""The truth about samples as stored, so that reprocessing stored rows needs no data file."""

import numpy as np
import pyarrow as pa

from infra.commits import read_file
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage
from pipeline.data.schema_checks import TRUTH
from pipeline.data.truth import Truth

TRUTH_FILE = "truth.arrow"


TRUTH_FORMAT = TableFormat("truth", 1, tuple(pa.field(role, pa.int64(), nullable=False) for role in TRUTH))


def encode_truth(truth: Truth) -> dict[str, bytes]:
    """The file of the truth about samples."""
    columns = [pa.array(getattr(truth, role)) for role in TRUTH]
    return {TRUTH_FILE: encode_arrow(pa.Table.from_arrays(columns, schema=TRUTH_FORMAT.schema))}


def read_stored_truth(storage: Storage, folder: str) -> Truth:
    """The truth about all samples of a split or report, in its order, from its folder.

    Raises:
        Corrupt: it is missing, or not what was written.
    """
    path = f"{folder}/{TRUTH_FILE}"
    table = decode_arrow(read_file(storage, path), TRUTH_FORMAT, storage.locate(path))
    return Truth(**{role: np.array(table.column(role).to_numpy(), np.int64) for role in TRUTH})
