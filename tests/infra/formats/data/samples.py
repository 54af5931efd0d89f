"""Files of samples that a test makes of bytes, and what is read of them."""

from collections.abc import Sequence
from pathlib import Path

from infra.formats.data.contract import Table
from infra.formats.data.formats import inspect
from infra.formats.range_reader import RangeReader
from infra.storage.identity import InputFile
from infra.storage.pins import PinnedInput
from tests.input_files import found


def inspected(folder: Path, name: str, data: bytes, texts: Sequence[str] = ()) -> tuple[InputFile, Table]:
    """The file of these bytes, and what it says of itself."""
    (folder / name).write_bytes(data)
    file = found(folder / name)
    with PinnedInput(file) as handle:
        return file, inspect(handle, file, ["id"], texts)


def rows_of(folder: Path, name: str, data: bytes, texts: Sequence[str] = ()) -> list[dict[str, object]]:
    """All rows of the file of these bytes, read in batches of two."""
    file, table = inspected(folder, name, data, texts)
    with RangeReader(file, table.schema.names, 2, table.layout) as reader:
        return [row for batch in reader.read(0, table.rows) for row in batch.to_pylist()]
