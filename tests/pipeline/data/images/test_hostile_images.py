"""Pictures that claim or grow to too much: each costs one row and little memory, and starts no program."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from pipeline.data.images.containers import FORMATS
from pipeline.data.images.decoding import LARGEST_PIXELS, UnreadableImage, decode
from tests.jobs.pictures import SIGNATURE, chunk, png_header
from tests.strategies import LAW

SMALL = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


SAFE = {"PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "SGI", "TGA"}


def encoded(form: str, picture: Image.Image = SMALL, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, form, **options)
    return sink.getvalue()


def with_text(kind: bytes, data: bytes) -> bytes:
    """The small PNG with a chunk of text before its pixels."""
    whole = encoded("PNG")
    return whole[:33] + chunk(kind, data) + whole[33:]


@cache
def squeezed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def patched(data: bytes, place: int, form: str, *numbers: int) -> bytes:
    """The bytes with numbers written over them."""
    return data[:place] + struct.pack(form, *numbers) + data[place + struct.calcsize(form) :]


def tiff(width: int, height: int) -> bytes:
    """The small TIFF with another width and height in its directory."""
    data = bytearray(encoded("TIFF"))
    directory = struct.unpack("<I", data[4:8])[0]
    for entry in range(directory + 2, directory + 2 + 12 * data[directory], 12):
        tag = struct.unpack("<H", data[entry : entry + 2])[0]
        if tag in (256, 257):
            data[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, width if tag == 256 else height)
    return bytes(data)


PIXELS: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: png_header(50_000, 50_000),
    "PNG of 4 GiB a side": lambda: png_header((1 << 31) - 1, (1 << 31) - 1),
    "PNG all there": lambda: encoded("PNG", Image.new("1", (12_000, 12_000))),
    "GIF": lambda: patched(encoded("GIF"), 6, "<HH", 65_535, 65_535),
    "GIF whose frame is larger": lambda: patched(
        encoded("GIF"), encoded("GIF").index(b"\x2c\0\0\0\0\x08\0\x08\0") + 5, "<HH", 65_535, 65_535
    ),
    "BMP": lambda: patched(encoded("BMP"), 18, "<ii", 1 << 20, 1 << 20),
    "TIFF": lambda: tiff(1 << 20, 1 << 20),
    "PPM": lambda: b"P6 1000000 1000000 255\n" + bytes(100),
    "JPEG 2000": lambda: patched(encoded("JPEG2000"), encoded("JPEG2000").index(b"ihdr") + 4, ">II", 1 << 30, 1 << 30),
    "JPEG 2000 whose pixels are more than its header says": lambda: patched(
        encoded("JPEG2000"), encoded("JPEG2000").index(b"\xff\x51") + 6, ">II", 1 << 20, 1 << 20
    ),
    "AVIF": lambda: patched(encoded("AVIF"), encoded("AVIF").index(b"ispe") + 8, ">II", 60_000, 60_000),
    "ICO": lambda: b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", 100, 22) + png_header(50_000, 50_000),
    "SGI": lambda: patched(encoded("SGI"), 6, ">HH", 65_535, 65_535),
    "TGA": lambda: patched(encoded("TGA"), 12, "<HH", 65_535, 65_535),
    "JPEG": lambda: patched(encoded("JPEG"), encoded("JPEG").index(b"\xff\xc0") + 5, ">HH", 65_500, 65_500),
}


GROWING: dict[str, Callable[[], bytes]] = {
    "zTXt": lambda: with_text(b"zTXt", b"a\0\0" + squeezed(1 << 30)),
    "iTXt": lambda: with_text(b"iTXt", b"a\0\1\0\0\0" + squeezed(1 << 30)),
    "iCCP": lambda: with_text(b"iCCP", b"a\0\0" + squeezed(1 << 30)),
    "IDAT": lambda: (
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", squeezed(1 << 30))
        + chunk(b"IEND", b"")
    ),
}


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><image href="file:///etc/passwd"/></svg>'


OTHERS: dict[str, tuple[bytes, str]] = {
    "a page of a server": (b"\n<!DOCTYPE HTML><html><head><title>404</title></head></html>", "a web page (as a server"),
    "an answer of a store": (b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>', "an XML document (as a"),
    "a pointer of LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS (run git lfs pull)"),
    "BLP": (b"BLP2" + bytes(100), "a BLP (texture) image"),
    "MSP": (b"DanM" + bytes(100), "a Microsoft Paint (MSP) image"),
    "IM": (b"Image type: RGB image\r\n", "an IFUNC (IM) image"),
    "SVG": (SVG, "an SVG image"),
    "SVG with comments": (b"<!-- -->" * 400 + SVG, "an SVG image"),
    "SVG with a declaration": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a -->\n<!DOCTYPE svg>' + SVG, "an SVG image"),
    "EPS": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch /tmp/x) (w) file\n",
        "an EPS or PostScript",
    ),
    "PDF": (b"%PDF-1.7\n", "a PDF document"),
    "WMF": (b"\xd7\xcd\xc6\x9a" + bytes(100), "a WMF image"),
    "PSD": (b"8BPS\0\1" + bytes(40), "a Photoshop"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "a HEIF"),
    "HEIC of another major brand": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "a HEIF"),
    "MP4": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(40), "an MP4"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom" + bytes(40), "a Canon CR3"),
    "CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a Canon CR2"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL image"),
    "JPEG XL codestream": (b"\xff\x0a" + bytes(40), "a JPEG XL image"),
    "QOI": (encoded("QOI"), "a QOI image"),
    "PCX": (encoded("PCX"), "a PCX image"),
    "DDS": (encoded("DDS"), "a DDS image"),
    "ICNS": (b"icns" + bytes(40), "an ICNS image"),
    "DICOM": (bytes(128) + b"DICM", "a DICOM image"),
    "NumPy": (b"\x93NUMPY\1\0", "a NumPy array"),
    "base64": (b"iVBORw0KGgoAAAANSUhEUg", "an image as base64 text"),
}


def refused(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data, None, resize=False)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_only_formats_whose_readers_start_no_program_are_opened() -> None:
    assert set(FORMATS) == SAFE
    for form in SAFE:
        assert decode(encoded(form), (8, 8), resize=False).shape == (8, 8, 3)


@pytest.mark.parametrize("name", PIXELS)
def test_more_pixels_than_are_taken_are_refused(name: str) -> None:
    message = refused(PIXELS[name]())
    assert (
        "pixels, more than" in message
        or "more than 67,108,864 pixels" in message
        or message.startswith(("corrupt image", "an image of the format AVIF that cannot be read"))
    )


@pytest.mark.parametrize(("data", "name"), OTHERS.values(), ids=OTHERS)
def test_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    message = refused(data)
    assert message.startswith(name)
    assert "which is not among the formats that are read (PNG, JPEG, MPO, WebP, AVIF," in message


@pytest.mark.parametrize("data", [b"<script>alert(1)</script>", b"Python", bytes(500), b"\0\1\0\0" * 9])
def test_other_bytes_are_no_images(data: bytes) -> None:
    assert refused(data) == "not an image"


def test_raw_pixels_are_not_taken_for_a_tga_file() -> None:
    """A TGA file has no signature: dark pixels that begin like one are not read as another picture."""
    header = b"\0\0\2\0\0\0\0\0\0\0\0\0\2\0\2\0\x18\0"
    assert decode(header + bytes(12), None, resize=False).shape == (2, 2, 3)
    for pixels in (bytes(13), bytes(784)):
        assert refused(header + pixels) == "not an image"
    assert refused(header[:3] + b"\1" + header[4:] + bytes(12)) == "not an image"


def test_a_camera_raw_file_is_named_and_not_read_as_its_preview() -> None:
    """DNG, NEF and ARW are TIFF files whose first page is a small preview."""
    preview = TiffImagePlugin.ImageFileDirectory_v2()
    preview[254], preview[330] = 1, 8
    assert refused(encoded("TIFF", tiffinfo=preview)).startswith("a camera raw image")
    negative = TiffImagePlugin.ImageFileDirectory_v2()
    negative[50706] = b"\1\4\0\0"
    assert refused(encoded("TIFF", tiffinfo=negative)).startswith("a DNG (camera raw) image")
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    assert decode(encoded("TIFF", tiffinfo=reduced), (8, 8), resize=False).shape == (8, 8, 3)


def test_a_kind_of_a_format_that_pillow_does_not_read_is_named() -> None:
    data = encoded("TIFF")
    assert data.count(struct.pack("<HHII", 262, 3, 1, 2)) == 1
    other = data.replace(struct.pack("<HHII", 262, 3, 1, 2), struct.pack("<HHII", 262, 3, 1, 32803))
    assert refused(other) == "an image of the format TIFF that cannot be read (unknown pixel mode)"


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    for form in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encoded(
            form,
            frames[0],
            save_all=True,
            append_images=frames[1:] * 50,
            **({"lossless": True} if form == "WEBP" else {}),
        )
        assert decode(data, None, resize=False)[0, 0].tolist() == [10, 0, 0]


MEMORY = """
import sys
from pathlib import Path
from pipeline.data.images.decoding import UnreadableImage, decode
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
before = peak()
for name in sys.argv[1:]:
    try:
        decode(Path(name).read_bytes(), None, resize=False)
    except UnreadableImage:
        pass
print(peak() - before)
"""


def test_memory_is_bounded_whatever_a_picture_claims(tmp_path: Path) -> None:
    """The largest that is taken, 2^26 pixels, may use 4 bytes a pixel for each of two copies and 3 for the result."""
    hostile = {
        **{name: make() for name, make in {**PIXELS, **GROWING}.items()},
        "largest": encoded("PNG", Image.new("L", (8192, 8192))),
    }
    for number, data in enumerate(hostile.values()):
        (tmp_path / str(number)).write_bytes(data)
    names = [str(tmp_path / str(number)) for number in range(len(hostile))]
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY, *names], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(ended.stdout) * 2**20 < 12 * LARGEST_PIXELS + (100 << 20)


@LAW
@given(data=st.data(), form=st.sampled_from(sorted(SAFE)))
def test_a_picture_with_bytes_changed_or_cut_is_read_or_unreadable(data: st.DataObject, form: str) -> None:
    body = bytearray(encoded(form))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(body[: data.draw(st.integers(1, len(body)))]), None, resize=False).shape[2] == 3
    except UnreadableImage as error:
        assert str(error)  # noqa: PT017 - every other error is a failure
