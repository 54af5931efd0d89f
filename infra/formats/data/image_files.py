"""Images in files of their own, in folders that are called as their classes: parts of a folder (`infra.storage.parts`).

An id is the path in the folder; the label is its first folder. A file that cannot be read costs its row.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pyarrow as pa

from infra.errors import Changed, Missing, StorageError
from infra.formats.data.batches import TOGETHER_BYTES
from infra.formats.data.contract import Beginning, DataFormat, Layout, OpenTable, Table, ended, refuse_absent
from infra.formats.data.schemas import encode_schema
from infra.storage.identity import InputFile
from infra.storage.parts import Members
from infra.storage.pins import PinnedInput

READERS = 8
LARGEST_IMAGE = 256 << 20
IMAGE = pa.struct([("bytes", pa.binary()), ("error", pa.string())])
COLUMNS = {"id": pa.string(), "image": IMAGE, "label": pa.string()}


class ImageFiles(DataFormat):
    """Parts of folders of images, which are recognised by how they are opened, not by what they hold."""

    name, described, endings = "images", "images", ()

    def takes(self, beginning: Beginning) -> bool:
        """No file is a part."""
        return False

    def inspect(self, handle: IO[bytes], file: InputFile, read: Sequence[str], texts: Collection[str]) -> Table:
        """Lists its folders."""
        schema = self._schema(handle)
        return Table(schema, len(_members(handle)), Layout(self.name, encode_schema(schema), ((0, 0),)))

    def schema(self, handle: IO[bytes], place: str, layout: Layout) -> pa.Schema:
        """With the classes that it holds."""
        return self._schema(handle)

    def open(
        self, handle: IO[bytes], place: str, layout: Layout | None, columns: Sequence[str], batch_rows: int
    ) -> OpenTable:
        """Lists its folders."""
        refuse_absent(columns, self._schema(handle).names, place)
        return _Images(_members(handle), place, columns, batch_rows)

    def _schema(self, handle: IO[bytes]) -> pa.Schema:
        classes = sorted({label for member in _members(handle) if (label := _label(member)) is not None})
        schema = pa.schema([(name, kind) for name, kind in COLUMNS.items() if classes or name != "label"])
        features = {"features": {"label": {"_type": "ClassLabel", "names": classes}}}
        return schema.with_metadata({"huggingface": json.dumps({"info": features})}) if classes else schema


def _members(handle: IO[bytes]) -> list[InputFile]:
    assert isinstance(handle, Members)
    return handle.members


def _label(member: InputFile) -> str | None:
    folder, slash, _ = member.name.partition("/")
    return folder if slash else None


class _Images(OpenTable):
    def __init__(self, members: list[InputFile], place: str, columns: Sequence[str], batch_rows: int):
        self._members, self._place, self._columns = members, place, columns
        # As many as fit in memory, should each be as large as the largest.
        largest = max((member.size for member in members), default=1) if "image" in columns else 1
        self._at_once = max(1, min(batch_rows, TOGETHER_BYTES // max(1, largest)))

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Batches of rows [start, stop)."""
        with ThreadPoolExecutor(READERS, "images") as pool:
            for first in range(start, min(stop, len(self._members)), self._at_once):
                members = self._members[first : min(first + self._at_once, stop)]
                arrays = {"id": [member.name for member in members], "label": [_label(member) for member in members]}
                images = list(pool.map(self._image, members)) if "image" in self._columns else []
                columns = [
                    pa.array(images if name == "image" else arrays[name], COLUMNS[name]) for name in self._columns
                ]
                yield pa.RecordBatch.from_arrays(columns, names=list(self._columns))
        if len(self._members) < stop:
            raise ended(self._place, len(self._members), stop)

    def _image(self, member: InputFile) -> dict[str, object]:
        """The bytes of an image, or why it has none.

        Raises:
            Changed: it is not the file that was found.
        """
        if member.size > LARGEST_IMAGE:
            size = f"{member.size / 2**20:,.0f} MiB, at most {LARGEST_IMAGE >> 20} are read"
            return {"bytes": None, "error": f"the file has {size}"}
        try:
            with PinnedInput(member) as handle:
                return {"bytes": handle.read(), "error": None}
        except Missing as error:
            raise Changed(f"{self._place}: {member.name} is gone; nothing that was read is kept; run again") from error
        except Changed:
            raise
        except StorageError as error:
            return {"bytes": None, "error": f"the file cannot be read ({str(error).splitlines()[0]})"}
