"""Reviews as stored: the verdicts of a person on samples, by id, as a run found them."""

from collections.abc import Mapping

import pyarrow as pa

from infra.commits import read_file
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage

ID, VERDICT = "sample_id", "verdict"


REVIEW_FORMAT = TableFormat(
    "review", 1, (pa.field(ID, pa.string(), nullable=False), pa.field(VERDICT, pa.string(), nullable=False))
)


def encode_review(verdicts: Mapping[str, str]) -> bytes:
    """The file of verdicts on samples, sorted by id."""
    ids = sorted(verdicts)
    return encode_arrow(pa.table([ids, [verdicts[name] for name in ids]], schema=REVIEW_FORMAT.schema))


def read_review(storage: Storage, path: str) -> dict[str, str]:
    """Verdicts on samples, by id.

    Raises:
        StorageError: it is missing, damaged, or written by a newer version.
    """
    table = decode_arrow(read_file(storage, path), REVIEW_FORMAT, storage.locate(path))
    return dict(zip(table.column(ID).to_pylist(), table.column(VERDICT).to_pylist(), strict=True))
