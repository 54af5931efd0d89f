"""Images: encoded bytes to arrays, decoded one at a time, so that a bad image costs one row."""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from infra.errors import StorageError
from infra.formats.range_reader import RangeReader
from infra.formats.tables import read_rows
from pipeline.config.samples import Preprocess
from pipeline.data.columns import binary
from pipeline.data.ids import ids_of
from pipeline.data.sources import Source
from pipeline.errors import SourceError

LARGEST_PIXELS = 1 << 26


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


ROWS_SEARCHED = 256


Pixels = NDArray[np.uint8]


class UnreadableImage(ValueError):
    """Why one image cannot be used; the text becomes the row's status."""


@dataclass(frozen=True)
class ImageOptions:
    """How images are read: rows per batch, the model's (height, width), and whether others are resized to it."""

    batch_rows: int
    size: tuple[int, int]
    resize: bool


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and the pixels of those that are not.

    A null id is "", and so is the reason of a readable row; pixels are (readable rows, height, width, 3).
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    pixels: Pixels


def read_images(source: Source, start: int, stop: int, options: ImageOptions) -> Iterator[ImageBatch]:
    """Rows [start, stop) in batches; a row that cannot be read is in its batch with the reason."""
    ids, reasons, pixels = list[str](), list[str](), list[Pixels]()
    columns = [source.columns.id, source.columns.image]
    for batch in read_rows(source.file.url, start, stop, columns, options.batch_rows):
        names = ids_of(batch.column(source.columns.id))
        for name, data in zip(names, _image_bytes(batch.column(source.columns.image)), strict=True):
            ids.append(name or "")
            try:
                if name is None:
                    raise UnreadableImage("the id is null")
                pixels.append(decode(data, options.size, options.resize))
                reasons.append("")
            except UnreadableImage as error:
                reasons.append(str(error))
            if len(ids) == options.batch_rows:
                yield _batch(ids, reasons, pixels, options)
                ids, reasons, pixels = [], [], []
    if ids:
        yield _batch(ids, reasons, pixels, options)


def _batch(ids: Sequence[str], reasons: Sequence[str], pixels: Sequence[Pixels], options: ImageOptions) -> ImageBatch:
    stacked = np.stack(pixels) if pixels else np.zeros((0, *options.size, 3), np.uint8)
    return ImageBatch(tuple(ids), tuple(reasons), stacked)


def read_chosen_images(source: Source, rows: Iterable[int]) -> dict[int, bytes | None]:
    """The encoded images of some rows, by row, without those that cannot be read.

    The file is opened once, and each row group decoded once.
    """
    images: dict[int, bytes | None] = {}
    column = str(source.columns.image)
    with suppress(StorageError), RangeReader(source.file.url, [column]) as reader:
        for row in sorted(rows):
            with suppress(StorageError):
                batches = reader.read(row, row + 1)
                (images[row],) = (image for batch in batches for image in _image_bytes(batch.column(column)))
    return images


def first_images(sources: Sequence[Source], wanted: int, preprocess: Preprocess) -> Pixels:
    """The first readable images of the first file, shape (up to wanted, height, width, 3).

    All have the size of the first one, unless the config sets a size.

    Raises:
        SourceError: the first rows hold no readable image.
    """
    source, found, reasons = sources[0], list[Pixels](), list[str]()
    size = (preprocess.size, preprocess.size) if preprocess.size else None
    searched = min(source.rows, ROWS_SEARCHED)
    for batch in read_rows(source.file.url, 0, searched, [source.columns.image], 16):
        for data in _image_bytes(batch.column(source.columns.image)):
            expected = size or (found[0].shape[:2] if found else None)
            try:
                found.append(decode(data, expected, resize=preprocess.size is not None))
            except UnreadableImage as error:
                reasons.append(str(error))
            if len(found) == wanted:
                return np.stack(found)
    if not found:
        raise SourceError(
            f"{source.file.name}: none of its first {searched} images can be read; the first: {reasons[0]}"
        )
    return np.stack(found)


def _image_bytes(column: pa.Array) -> Iterator[bytes | None]:
    """The encoded images of a column, one at a time."""
    return (value.as_py() for value in binary(column))


def decode(data: bytes | None, size: tuple[int, int] | None, resize: bool) -> Pixels:
    """RGB pixels (height, width, 3), uint8.

    Args:
        data: an encoded image, of one of FORMATS.
        size: (height, width) that the model takes; None takes any.
        resize: whether an image of another size is resized to it (bilinear); if not, it is unreadable.

    Raises:
        UnreadableImage: it is null, empty, corrupt, of more than 2^26 pixels, grey of more than 8 bits, or of another
            size.
    """
    if not data:
        raise UnreadableImage("the image is null" if data is None else "the image is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _refuse(image)
            rgb = image.convert("RGB")
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_one_line(error)) from error
    if size is not None and rgb.size != (size[1], size[0]):
        if not resize:
            raise UnreadableImage(
                f"the image is {rgb.height} x {rgb.width} pixels, the first trusted one {size[0]} x {size[1]}; "
                "set data.preprocess.size"
            )
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb)


def _refuse(image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > LARGEST_PIXELS:
        raise UnreadableImage(f"the image has {image.width} x {image.height} pixels, more than {LARGEST_PIXELS:,}")
    if image.mode.startswith("I") or image.mode == "F":
        raise UnreadableImage(f"the image has more than 8 bits a channel (mode {image.mode})")


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"the image has more than {LARGEST_PIXELS:,} pixels"
    return f"corrupt image ({' '.join(str(error).split())[:120]})"


def scale_pixels(pixels_nhwc: Pixels, preprocess: Preprocess) -> NDArray[np.float32]:
    """The model's input (n, 3, height, width) from pixels (n, height, width, 3): to [0, 1], minus mean, over std."""
    unit = pixels_nhwc.astype(np.float32) / np.float32(255)
    normal = (unit - np.asarray(preprocess.mean, np.float32)) / np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
