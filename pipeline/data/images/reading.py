"""Images of a source: encoded bytes to arrays, decoded one at a time, so that a bad image costs one row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.errors import Changed, StorageError
from pipeline.config.samples import Preprocess
from pipeline.data.ids import ids_of
from pipeline.data.images.column import encoded_images
from pipeline.data.images.decoding import RGB, Pixels, UnreadableImage, decode
from pipeline.data.sources import Source
from pipeline.errors import SourceError

ROWS_SEARCHED, ROWS_AT_ONCE = 256, 16


Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class ImageOptions:
    """How images are read: rows per batch, the model's (height, width) and channels, and whether others are resized."""

    batch_rows: int
    size: tuple[int, int]
    resize: bool
    channels: int = RGB


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and the pixels of those that are not.

    A null id is "", and so is the reason of a readable row; pixels are (readable rows, height, width, channels).
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    pixels: Pixels


def read_images(source: Source, start: int, stop: int, options: ImageOptions) -> Iterator[ImageBatch]:
    """Rows [start, stop) in batches; a row that cannot be read is in its batch with the reason."""
    ids, reasons, pixels = list[str](), list[str](), list[Pixels]()
    columns = [source.columns.id, str(source.columns.image)]
    for batch in source.read(start, stop, columns, options.batch_rows):
        names = ids_of(batch.column(source.columns.id))
        for name, image in zip(names, encoded_images(batch.column(source.columns.image)), strict=True):
            ids.append(name or "")
            try:
                if name is None:
                    raise UnreadableImage("the id is null")
                pixels.append(decode(image.embedded(), options.size, options.resize, options.channels))
                reasons.append("")
            except UnreadableImage as error:
                reasons.append(str(error))
            if len(ids) == options.batch_rows:
                yield _batch(ids, reasons, pixels, options)
                ids, reasons, pixels = [], [], []
    if ids:
        yield _batch(ids, reasons, pixels, options)


def _batch(ids: Sequence[str], reasons: Sequence[str], pixels: Sequence[Pixels], options: ImageOptions) -> ImageBatch:
    stacked = np.stack(pixels) if pixels else np.zeros((0, *options.size, options.channels), np.uint8)
    return ImageBatch(tuple(ids), tuple(reasons), stacked)


def read_chosen_images(source: Source, rows: Iterable[int]) -> dict[int, bytes | None]:
    """The encoded images of some rows, by row, without those that cannot be read.

    The file is opened once, and each row group decoded once.

    Raises:
        Changed: it is not the file that was found.
    """
    images: dict[int, bytes | None] = {}
    column = str(source.columns.image)
    with _readable(), source.open([column]) as reader:
        for row in sorted(rows):
            with _readable():
                batches = reader.read(row, row + 1)
                (images[row],) = (image.data for batch in batches for image in encoded_images(batch.column(column)))
    return images


@contextmanager
def _readable() -> Iterator[None]:
    """Pass over what cannot be read, unless the file changed: then what could be read is of another one."""
    try:
        yield
    except Changed:
        raise
    except StorageError:
        return


def first_images(sources: Sequence[Source], wanted: int, preprocess: Preprocess) -> Pixels:
    """The first readable images of the first file, shape (up to wanted, height, width, channels).

    All have the size of the first one, unless the config sets a size.

    Raises:
        SourceError: the first rows hold no readable image.
    """
    size = (preprocess.size, preprocess.size) if preprocess.size else None

    def decoded(data: bytes | None, found: Sequence[Pixels]) -> Pixels:
        expected = size or ((found[0].shape[0], found[0].shape[1]) if found else None)
        return decode(data, expected, preprocess.size is not None, preprocess.channels)

    found = first_readable(sources[0], wanted, decoded)
    return np.stack(found)


def first_readable(
    source: Source, wanted: int, read: Callable[[bytes | None, Sequence[Decoded]], Decoded]
) -> list[Decoded]:
    """What `read` makes of the first readable images of a file, at least one, up to `wanted`.

    It is given an encoded image, and what it made of those before.

    Raises:
        SourceError: the first rows hold no readable image.
    """
    found, reasons = list[Decoded](), list[str]()
    searched = min(source.rows, ROWS_SEARCHED)
    for batch in source.read(0, searched, [str(source.columns.image)], ROWS_AT_ONCE):
        for image in encoded_images(batch.column(source.columns.image)):
            try:
                found.append(read(image.embedded(), found))
            except UnreadableImage as error:
                reasons.append(str(error))
            if len(found) == wanted:
                return found
    if not found:
        raise SourceError(
            f"{source.file.name}: none of its first {searched} images can be read; the first: {reasons[0]}"
        )
    return found


def scale_pixels(pixels_nhwc: Pixels, preprocess: Preprocess) -> NDArray[np.float32]:
    """The model's input (n, c, height, width) from pixels (n, height, width, c): to [0, 1], minus mean, over std."""
    unit = pixels_nhwc.astype(np.float32) / np.float32(255)
    normal = (unit - np.asarray(preprocess.mean, np.float32)) / np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
