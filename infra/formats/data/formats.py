"""The formats of files of samples, and which of them a file has."""

import posixpath
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import IO

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.data.arrow.files import Arrow
from infra.formats.data.contract import LOOKED_AT, Beginning, DataFormat, Layout, Table
from infra.formats.data.image_files import ImageFiles
from infra.formats.data.lines.csv_files import Csv
from infra.formats.data.lines.json_lines import JsonLines
from infra.formats.data.parquet import Parquet
from infra.formats.data.tars.files import TarFiles
from infra.formats.foreign_tables import described
from infra.formats.tables import open_parquet
from infra.storage.identity import InputFile
from infra.storage.parts import Members, is_image
from infra.storage.pins import PinnedInput

PARQUET, IMAGES = Parquet(), ImageFiles()

FORMATS: tuple[DataFormat, ...] = (PARQUET, Arrow(), TarFiles(), JsonLines(), Csv(), IMAGES)

Recall = Callable[[], tuple[Layout, int] | None]


def format_of(layout: Layout | None) -> DataFormat:
    """The format that a file was found to have; without a layout, Parquet.

    Raises:
        StorageError: this version does not know it.
    """
    if layout is None:
        return PARQUET
    for known in FORMATS:
        if known.name == layout.format:
            return known
    raise StorageError(f"files of the format {layout.format!r} are read by a newer version of mad; upgrade mad")


def recognised(handle: IO[bytes], name: str) -> DataFormat:
    """The format of an opened file: by its first bytes; where they are text, by what its name ends in.

    Raises:
        StorageError: it has none of them; with what it is, and the remedy.
    """
    if isinstance(handle, Members):
        return IMAGES
    if is_image(name):
        raise StorageError(
            f"{name}: is called like an image; name the folder that it is in, and all images in it are taken"
        )
    handle.seek(0)
    beginning = Beginning(posixpath.splitext(name)[1].lower(), handle.read(LOOKED_AT))
    for known in FORMATS:
        if known.takes(beginning):
            return known
    if beginning.ending in PARQUET.endings or not beginning.data:
        return PARQUET  # whose reader says what it is instead
    raise StorageError(f"{name}: not a readable file of samples: {described(handle)}")


def inspect(
    handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str], recall: Recall = lambda: None
) -> Table:
    """What an opened file says of itself; see `DataFormat.inspect`.

    `recall`: the layout and the number of rows that were found of this very file before, if any; not asked of Parquet.
    """
    own = recognised(handle, file.name)
    known = recall() if own is not PARQUET else None
    if known is not None and known[0].format == own.name:
        layout, rows = known
        table = Table(own.schema(handle, file.name, layout), rows, layout)
        if layout.texts == _texts(table, texts):
            return table
    table = own.inspect(handle, file, read, texts)
    return table if table.layout is None else replace(table, layout=replace(table.layout, texts=_texts(table, texts)))


def schema_of(file: InputFile, layout: Layout | None) -> pa.Schema:
    """The columns of a file that was inspected.

    Raises:
        StorageError: it cannot be read.
    """
    with PinnedInput(file) as handle:
        return (
            open_parquet(handle, file.name).schema_arrow
            if layout is None
            else format_of(layout).schema(handle, file.name, layout)
        )


def _texts(table: Table, texts: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts) & set(table.schema.names)))
