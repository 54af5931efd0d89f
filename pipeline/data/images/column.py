"""The column of images: which Arrow types hold encoded images, and where the bytes of each row are."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from infra.formats.data.contract import Table
from pipeline.data.columns import binary, is_text, plain, stored, texts
from pipeline.data.images.decoding import UnreadableImage
from pipeline.errors import SourceError

LONGEST_PATH = 80  # characters of a path in a row's status


EMBED = (
    "store the files' bytes in the column, with Hugging Face datasets by "
    'ds.with_format("arrow").map(embed_table_storage, batched=True).to_parquet(...), '
    "embed_table_storage being of datasets.table"
)


@dataclass(frozen=True)
class EncodedImage:
    """One row's image: its bytes, the path that stands beside them, and why it has none; each may be null."""

    data: bytes | None
    path: str | None = None
    error: str | None = None

    def embedded(self) -> bytes | None:
        """The bytes.

        Raises:
            UnreadableImage: there is only a path, or a reason.
        """
        if self.error is not None:
            raise UnreadableImage(self.error)
        if self.data is None and self.path:
            shown = self.path if len(self.path) <= LONGEST_PATH else f"{self.path[:LONGEST_PATH]}..."
            raise UnreadableImage(
                f"the image has no bytes, only the path {shown!r}; paths are not followed, store its bytes"
            )
        return self.data


def encoded_images(column: pa.Array) -> Iterator[EncodedImage]:
    """The images of a column, one at a time."""
    data, values = binary(column), plain(column)
    paths, errors = _texts(values, "path"), _texts(values, "error")
    return (EncodedImage(own.as_py(), path, error) for own, path, error in zip(data, paths, errors, strict=True))


def _texts(column: pa.Array, field: str) -> list[str | None]:
    """A text field of structs, null without one. It may hold bytes that are not text."""
    place = column.type.get_field_index(field) if pa.types.is_struct(column.type) else -1
    if place < 0 or not is_text(stored(column.type.field(place).type)):
        return [None] * len(column)
    return [None if own is None else own.decode(errors="replace") for own in texts(pc.struct_field(column, field))]


def refuse_paths_only(table: Table, column: str, name: str) -> None:
    """Refuse a file that says that none of its image structs has bytes.

    Raises:
        SourceError: with the remedy. A path is not followed: the files that it names may change, and whoever wrote the
            table could name any file.
    """
    if not pa.types.is_struct(table.schema.field(column).type):
        return
    if table.holds_nothing(f"{column}.bytes") and not table.holds_nothing(f"{column}.path"):
        raise SourceError(
            f"{name}: no image of the column {column!r} (data.columns.image) has bytes, only a path, and paths are not "
            f"followed; {EMBED}"
        )


def advice(kind: pa.DataType) -> str:
    """What to do with a column of another type, "" where that is not known."""
    if is_text(kind):
        return "if it holds paths, store the bytes of the files; if base64, decode it"
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        return EMBED
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return "if it holds pixels, encode each image, for example with PIL.Image.fromarray(pixels).save(buffer, 'PNG')"
    return ""
