"""Images: encoded bytes to arrays, one at a time, so that one bad image costs one row."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.schema import Preprocess

LARGEST_PIXELS = 1 << 26
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
Pixels = NDArray[np.uint8]


class UnreadableImage(ValueError):
    """Why one image cannot be used; the text becomes the row's status."""


def decode(data: bytes | None, size: tuple[int, int] | None, resize: bool) -> Pixels:
    """RGB pixels (height, width, 3), uint8.

    Args:
        data: an encoded image, of one of FORMATS.
        size: (height, width) that the model takes; None takes any.
        resize: resize to that size, bilinear, where the image differs; otherwise such an image is unreadable.

    Raises:
        UnreadableImage: null, empty, corrupt, of more than 2^26 pixels, grey of more than 8 bits, or of another size.
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
            raise UnreadableImage(f"the image is {rgb.height} x {rgb.width} pixels, the first trusted one {size[0]} x {size[1]}; set data.preprocess.size")
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


def scaled(pixels_nhwc: Pixels, preprocess: Preprocess) -> NDArray[np.float32]:
    """The model's input (n, 3, height, width) of pixels (n, height, width, 3): to [0, 1], minus mean, over std."""
    unit = pixels_nhwc.astype(np.float32) / np.float32(255)
    normal = (unit - np.asarray(preprocess.mean, np.float32)) / np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
