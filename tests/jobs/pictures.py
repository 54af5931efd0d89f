"""Pictures that cannot be audited, each for a reason of its own, and a network that some pictures make diverge."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


SIGNATURE = b"\x89PNG\r\n\x1a\n"


OVERFLOWS, STEEP = (255, 0, 0), (0, 0, 255)


MARKED = '''
"""The demo's classifier, with logits that overflow for a red first pixel and an infinite slope for a blue one."""

import torch
from torch import Tensor, nn

from pipeline.demo.network import digit_cnn


class Marked(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs)
        red, blue = (inputs[:, channel, 0, 0] * 0.35 + 0.3 for channel in (0, 2))
        overflow = torch.where((red > 0.99) & (blue < 0.01), float("inf"), 0.0)
        first = logits[:, :1]
        root = torch.where(((red < 0.01) & (blue > 0.99))[:, None], first - first.detach(), torch.ones_like(first))
        return logits + overflow[:, None] + torch.sqrt(root)


def build() -> nn.Module:
    return Marked(*digit_cnn())
'''


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """The beginning of an RGB PNG file that promises this many pixels."""
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"\0")


def marked(encoded: bytes, colour: tuple[int, int, int]) -> bytes:
    """The picture with a first pixel of this colour."""
    pixels: Pixels = np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))
    pixels[0, 0] = colour
    return png(Image.fromarray(pixels))


def grey(encoded: bytes) -> bytes:
    """The first channel alone."""
    return png(Image.fromarray(np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))[..., 0]))


def broken_tiff() -> bytes:
    """A TIFF file that says its strip lies at a fraction of bytes."""
    sink = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(sink, "TIFF")
    data = bytearray(sink.getvalue())
    directory = struct.unpack("<I", data[4:8])[0]
    strip_offsets, rational = 273, 5
    for entry in range(directory + 2, directory + 2 + 12 * data[directory], 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == strip_offsets:
            data[entry + 2 : entry + 4] = struct.pack("<H", rational)
    return bytes(data)


def unreadable(good: bytes) -> dict[str, tuple[bytes | None, str]]:
    """By name: bytes of a picture, and the status that its row gets. `good`: a picture of 8 x 8 pixels."""
    sink = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(sink, "TIFF")
    return {
        "null": (None, "unreadable: the image is null"),
        "empty": (b"", "unreadable: the image is empty"),
        "text": (b"a picture", "unreadable: not an image"),
        "truncated": (good[:-40], "unreadable: corrupt image (image file is truncated)"),
        "damaged": (
            good[:50] + b"\0\xff" * 8 + good[66:],
            "unreadable: corrupt image (broken data stream when reading image file)",
        ),
        "large": (
            png(Image.new("1", (8193, 8192))),
            "unreadable: the image has 8193 x 8192 pixels, more than 67,108,864",
        ),
        "promised": (png_header(50_000, 50_000), "unreadable: the image has more than 67,108,864 pixels"),
        "floats": (
            sink.getvalue(),
            "unreadable: the image has signed, 32-bit or floating-point numbers (mode F), of which none is white by "
            "definition; store it with 8 or 16 bits a channel",
        ),
        "HEIC": (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "unreadable: a HEIF (HEIC) image, which is not among the formats that are read (PNG, JPEG, MPO, WebP, "
            "AVIF, GIF, BMP, TIFF, JPEG 2000, PPM, PGM, PBM, ICO, SGI and TGA)",
        ),
        "9x7": (
            png(Image.new("RGB", (7, 9))),
            "unreadable: the image is 9 x 7 pixels, the first trusted one 8 x 8; set data.preprocess.size",
        ),
        "overflows": (marked(good, OVERFLOWS), "nonfinite"),
        "steep": (marked(good, STEEP), "nonfinite"),
    }
