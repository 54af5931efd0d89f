"""Encoded images to pixels: the pixels that Hugging Face `datasets` and Pillow's `convert` give.

`datasets` opens an image with Pillow and turns it as its EXIF orientation says
(https://github.com/huggingface/datasets/pull/6739); `convert("RGB")`, or `convert("L")` for grey, does the rest.
Transparency is left out, colours below it stay; ICC profiles are not applied; the first frame counts. The one exception
is grey of 16 bits, which Pillow would clip at 255 (https://github.com/python-pillow/Pillow/issues/3011): its high byte
is taken, as Pillow does for colours of 16 bits, and libpng, OpenCV and stb_image for both.
"""

import io
import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.data.images.containers import FORMATS, NOT_READ, camera_raw, may_be_tga, other_container, why_unidentified

LARGEST_PIXELS = 1 << 26


RGB, GREY = 3, 1  # channels


MODES = {RGB: "RGB", GREY: "L"}


BETWEEN = {"LAB": "RGB", "La": "LA"}


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation (EXIF 2.3, tag 274), what turns the stored pixels upright."""


DAMAGED_EXIF = (struct.error, SyntaxError, ValueError, TypeError, LookupError, OverflowError, OSError, AttributeError)


BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF 6.0


Pixels = NDArray[np.uint8]


class UnreadableImage(ValueError):
    """Why one image cannot be used; the text becomes the row's status."""


def decode(data: bytes | None, size: tuple[int, int] | None, resize: bool, channels: int = RGB) -> Pixels:
    """Pixels (height, width, channels), uint8.

    Args:
        data: an encoded image, of one of FORMATS.
        size: (height, width) that the model takes; None takes any.
        resize: whether an image of another size is resized to it (bilinear); if not, it is unreadable.
        channels: RGB or GREY.

    Raises:
        UnreadableImage: it is null, empty, corrupt, of a format that is not read, of more than 2^26 pixels, of numbers
            without a white, or of another size.
    """
    image = open_image(data, channels)
    if size is not None and image.size != (size[1], size[0]):
        if not resize:
            raise UnreadableImage(
                f"the image is {image.height} x {image.width} pixels, the first trusted one {size[0]} x {size[1]}; "
                "set data.preprocess.size"
            )
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image.height, image.width, channels)


def open_image(data: bytes | None, channels: int = RGB) -> Image.Image:
    """An image as it is stored, upright, in RGB or grey; raises as `decode`."""
    if not data:
        raise UnreadableImage("the image is null" if data is None else "the image is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decoded(data, channels)


def _decoded(data: bytes, channels: int) -> Image.Image:
    raw = camera_raw(data)
    if raw is not None:
        raise UnreadableImage(f"{raw}, {NOT_READ}")
    try:
        return _upright(data, channels)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(data, error)) from error


def _upright(data: bytes, channels: int) -> Image.Image:
    formats = FORMATS if may_be_tga(data) else [name for name in FORMATS if name != "TGA"]
    image = Image.open(io.BytesIO(data), formats=formats)
    pixels = image.width * image.height
    if pixels > LARGEST_PIXELS:
        raise UnreadableImage(f"the image has {image.width} x {image.height} pixels, more than {LARGEST_PIXELS:,}")
    image.load()  # a PNG may have its orientation behind its pixels
    turn = _turn(image)
    converted = _convertible(image).convert(MODES[channels])
    return converted if turn is None else converted.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns a loaded image upright; None too where its EXIF data are damaged, which then say nothing.

    Pillow has turned a TIFF already, and taken the orientation out of it.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGED_EXIF:
        return None


def _convertible(image: Image.Image) -> Image.Image:
    """The image, where need be in a mode from which Pillow converts to RGB and grey alike."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _high_byte(image)
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            f"the image has signed, 32-bit or floating-point numbers (mode {image.mode}), of which none is white by "
            "definition; store it with 8 or 16 bits a channel"
        )
    return image.convert(BETWEEN[image.mode]) if image.mode in BETWEEN else image


def _high_byte(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, in a TIFF also of 12, as grey of 8. Pillow makes PGM of any largest value one of 16 bits."""
    values, bits, inverted = np.asarray(image), 16, False
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        bits, inverted = int(tags[BITS][0]), tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO
    high = (values >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - high if inverted else high)


def _reason(data: bytes, error: Exception) -> str:
    other = other_container(data)
    if other is not None:
        return f"{other}, {NOT_READ}"
    if isinstance(error, UnidentifiedImageError):
        return why_unidentified(data)
    if isinstance(error, Image.DecompressionBombError):
        return f"the image has more than {LARGEST_PIXELS:,} pixels"
    return f"corrupt image ({' '.join(str(error).split())[:120]})"
