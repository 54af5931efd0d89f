"""Pixels are those that Hugging Face `datasets` and Pillow give, for every mode, depth, orientation and container."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps

from pipeline.data.images.decoding import UnreadableImage, decode
from tests.jobs.pictures import SIGNATURE, chunk

Pixels = NDArray[np.uint8]


LEVELS = np.random.default_rng(0).integers(0, 256, (12, 9, 4), dtype=np.uint8)


SMOOTH = np.stack(np.broadcast_arrays(np.arange(24) * 10, np.arange(32)[:, None] * 7, 90), axis=2).astype(np.uint8)


RGB, RGBA, GREY, PHOTO = (Image.fromarray(one) for one in (LEVELS[..., :3], LEVELS, LEVELS[..., 0], SMOOTH))


PALETTE = RGB.quantize(16)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


SWAPPED = SRGB.replace(b"rXYZ", b"tmp.").replace(b"bXYZ", b"rXYZ").replace(b"tmp.", b"bXYZ")


def encoded(form: str, image: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def of_two(form: str, image: Image.Image, **options: object) -> bytes:
    """A file whose second frame or page is another picture."""
    return encoded(form, image, save_all=True, append_images=[Image.new("RGB", image.size, (9, 9, 9))], **options)


def as_datasets(data: bytes, mode: str) -> Pixels:
    """What `datasets.Image(mode=mode)` decodes, written out; to grey from Lab by way of RGB, which Pillow refuses."""
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    if image.mode == "LAB":
        image = image.convert("RGB")
    return np.array(image.convert(mode))


def ycck() -> bytes:
    """A CMYK JPEG whose Adobe marker says that its colours are stored as YCCK."""
    data = bytearray(encoded("JPEG", PHOTO.convert("CMYK")))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


CASES: Mapping[str, Callable[[], bytes]] = {
    "PNG RGB": lambda: encoded("PNG", RGB),
    "PNG RGBA": lambda: encoded("PNG", RGBA),
    "PNG grey": lambda: encoded("PNG", GREY),
    "PNG grey with alpha": lambda: encoded("PNG", RGBA.convert("LA")),
    "PNG grey with a transparent value": lambda: encoded("PNG", GREY, transparency=7),
    "PNG RGB with a transparent colour": lambda: encoded("PNG", RGB, transparency=(1, 2, 3)),
    "PNG of 1 bit": lambda: encoded("PNG", GREY.convert("1")),
    "PNG palette": lambda: encoded("PNG", PALETTE),
    "PNG palette of 2 bits": lambda: encoded("PNG", RGB.quantize(4)),
    "PNG palette with a transparent index": lambda: encoded("PNG", PALETTE, transparency=3),
    "PNG palette with alpha": lambda: encoded("PNG", PALETTE, transparency=bytes(range(0, 160, 10))),
    "PNG animated": lambda: of_two("PNG", RGB),
    "JPEG": lambda: encoded("JPEG", PHOTO),
    "JPEG progressive": lambda: encoded("JPEG", PHOTO, progressive=True, subsampling=2),
    "JPEG grey": lambda: encoded("JPEG", GREY),
    "JPEG CMYK": lambda: encoded("JPEG", PHOTO.convert("CMYK")),
    "JPEG YCCK": ycck,
    "JPEG RGB": lambda: encoded("JPEG", PHOTO, keep_rgb=True),
    "JPEG with a profile": lambda: encoded("JPEG", PHOTO, icc_profile=SWAPPED),
    "MPO": lambda: of_two("MPO", PHOTO),
    "WebP": lambda: encoded("WEBP", PHOTO),
    "WebP RGBA": lambda: encoded("WEBP", RGBA, lossless=True, exact=True),
    "WebP animated": lambda: of_two("WEBP", RGB, lossless=True),
    "AVIF": lambda: encoded("AVIF", PHOTO),
    "AVIF RGBA": lambda: encoded("AVIF", RGBA),
    "AVIF animated": lambda: of_two("AVIF", PHOTO),
    "GIF": lambda: encoded("GIF", PALETTE),
    "GIF grey": lambda: encoded("GIF", GREY),
    "GIF transparent": lambda: encoded("GIF", PALETTE, transparency=3),
    "GIF animated": lambda: of_two("GIF", PALETTE),
    "BMP RGB": lambda: encoded("BMP", RGB),
    "BMP RGBA": lambda: encoded("BMP", RGBA),
    "BMP grey": lambda: encoded("BMP", GREY),
    "BMP palette": lambda: encoded("BMP", PALETTE),
    "BMP of 1 bit": lambda: encoded("BMP", GREY.convert("1")),
    **{
        f"TIFF {compression}": lambda compression=compression: encoded("TIFF", RGB, compression=compression)
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd", "jpeg")
    },
    **{
        f"TIFF {compression} of 1 bit": lambda compression=compression: encoded(
            "TIFF", GREY.convert("1"), compression=compression
        )
        for compression in ("tiff_ccitt", "group3", "group4")
    },
    **{
        f"TIFF {mode}": lambda mode=mode: encoded("TIFF", RGB.convert(mode))
        for mode in ("1", "L", "CMYK", "YCbCr", "LAB")
    },
    "TIFF LA": lambda: encoded("TIFF", RGBA.convert("LA")),
    "TIFF RGBA": lambda: encoded("TIFF", RGBA),
    "TIFF P": lambda: encoded("TIFF", PALETTE),
    "TIFF PA": lambda: encoded("TIFF", PALETTE.convert("PA")),
    "TIFF LAB compressed": lambda: encoded("TIFF", RGB.convert("LAB"), compression="tiff_lzw"),
    "TIFF of two pages": lambda: of_two("TIFF", RGB),
    "BigTIFF": lambda: encoded("TIFF", RGB, big_tiff=True),
    "JPEG 2000": lambda: encoded("JPEG2000", RGB),
    "JPEG 2000 codestream": lambda: encoded("JPEG2000", RGBA, no_jp2=True),
    "JPEG 2000 lossy": lambda: encoded("JPEG2000", PHOTO, irreversible=True, quality_layers=[20]),
    "PPM": lambda: encoded("PPM", RGB),
    "PGM": lambda: encoded("PPM", GREY),
    "PBM": lambda: encoded("PPM", GREY.convert("1")),
    "PPM of text": lambda: b"P3 2 1 15\n# a comment\n0 5 15 1 2 3\n",
    "PGM of 4 bits": lambda: b"P5 2 2 15\n\0\5\x0f\1",
    "ICO": lambda: encoded("ICO", PHOTO.resize((32, 32)), sizes=[(16, 16), (32, 32)]),
    "ICO of bitmaps": lambda: encoded("ICO", RGBA.resize((32, 32)), bitmap_format="bmp", sizes=[(32, 32)]),
    "SGI": lambda: encoded("SGI", RGB),
    "SGI RGBA": lambda: encoded("SGI", RGBA),
    "TGA": lambda: encoded("TGA", RGB),
    "TGA RGBA of runs": lambda: encoded("TGA", RGBA, compression="tga_rle"),
    "TGA grey of runs without a footer": lambda: encoded("TGA", GREY, compression="tga_rle")[:-26],
    "TGA without a footer": lambda: encoded("TGA", RGBA)[:-26],
    "TGA palette without a footer": lambda: encoded("TGA", PALETTE)[:-26],
    "TGA palette": lambda: encoded("TGA", PALETTE),
}


LOSSLESS = [
    *("PNG RGB", "PNG RGBA", "PNG animated", "WebP RGBA", "WebP animated", "BMP RGB", "BMP RGBA", "TIFF RGBA"),
    *("TIFF raw", "TIFF tiff_lzw", "TIFF of two pages", "BigTIFF", "JPEG 2000", "JPEG 2000 codestream", "PPM", "SGI"),
    *("SGI RGBA", "TGA", "TGA RGBA of runs"),
]


LOSSY = ["JPEG", "JPEG progressive", "JPEG CMYK", "JPEG RGB", "JPEG with a profile", "MPO", "WebP", "AVIF"]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", CASES)
def test_pixels_are_those_of_datasets_and_pillow(name: str) -> None:
    data = CASES[name]()
    rgb, grey = decode(data, None, resize=False), decode(data, None, resize=False, channels=1)
    np.testing.assert_array_equal(rgb, as_datasets(data, "RGB"))
    np.testing.assert_array_equal(grey[..., 0], as_datasets(data, "L"))
    assert rgb.dtype == grey.dtype == np.uint8 and grey.shape == (*rgb.shape[:2], 1)


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_is_stored_without_loss_comes_back(name: str) -> None:
    np.testing.assert_array_equal(decode(CASES[name](), None, resize=False), LEVELS[..., :3])


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_stored_with_loss_comes_back_nearly(name: str) -> None:
    """CMYK is not inverted, and a profile that swaps red and blue is not applied."""
    assert np.abs(decode(CASES[name](), None, resize=False).astype(int) - SMOOTH).max() < 40


def test_colours_below_transparency_stay() -> None:
    clear = np.array([[[200, 100, 50, 0]]], np.uint8)
    assert decode(encoded("PNG", Image.fromarray(clear)), None, resize=False).tolist() == [[[200, 100, 50]]]


UPRIGHT: Mapping[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
    9: lambda stored: stored,
}
"""By EXIF orientation, the upright picture of the stored pixels (EXIF 2.3, tag 274)."""


def oriented(form: str, orientation: int, image: Image.Image = PHOTO) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless = {"lossless": True} if form == "WEBP" else {}
    return encoded(form, image, exif=exif, **lossless)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_pictures_are_upright_as_their_exif_says(form: str, orientation: int) -> None:
    data = oriented(form, orientation)
    upright = UPRIGHT[orientation](decode(encoded(form, PHOTO, lossless=True), None, resize=False))
    np.testing.assert_array_equal(decode(data, None, resize=False), upright)
    np.testing.assert_array_equal(as_datasets(data, "RGB"), upright)


def test_a_size_is_that_of_the_upright_picture() -> None:
    data = oriented("PNG", 6)
    assert (PHOTO.height, PHOTO.width) == (32, 24)
    assert decode(data, (24, 32), resize=False).shape == (24, 32, 3)
    resized = np.array(Image.fromarray(np.rot90(SMOOTH, -1)).resize((6, 5), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(data, (5, 6), resize=True), resized)


def test_an_orientation_in_xmp_counts() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    data = encoded("JPEG", PHOTO, xmp=xmp)
    np.testing.assert_array_equal(decode(data, None, resize=False), as_datasets(data, "RGB"))
    np.testing.assert_array_equal(decode(data, None, resize=False), as_datasets(CASES["JPEG"](), "RGB")[::-1, ::-1])


@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"", b"nonsense", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_data_turn_nothing(exif: bytes) -> None:
    data = encoded("JPEG", PHOTO, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode(data, None, resize=False), as_datasets(CASES["JPEG"](), "RGB"))


def tiff(values: NDArray[np.generic], bits: int, photometric: int, sample_format: int = 1, order: str = "<") -> bytes:
    """A TIFF file of one channel, the bytes of the values in one strip."""
    height, width = values.shape
    strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        whole = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=2)[..., 4:]
        strip = np.packbits(whole.reshape(height, -1), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(strip)}
    tags[339] = sample_format
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8 + len(strip)) + strip + directory


DEEP = np.random.default_rng(1).integers(0, 1 << 16, (6, 4), dtype=np.uint16)


HIGH = (DEEP >> 8).astype(np.uint8)


GREY_16: Mapping[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded("PNG", Image.fromarray(DEEP)),
    "PNG with a transparent value": lambda: encoded("PNG", Image.fromarray(DEEP), transparency=7),
    "TIFF": lambda: encoded("TIFF", Image.fromarray(DEEP)),
    "TIFF compressed": lambda: encoded("TIFF", Image.fromarray(DEEP), compression="tiff_lzw"),
    "TIFF of bytes in the other order": lambda: tiff(DEEP, 16, 1, order=">"),
    "TIFF in which white is 0": lambda: tiff(65535 - DEEP, 16, 0),
    "TIFF of 12 bits": lambda: tiff(DEEP >> 4, 12, 1),
    "JPEG 2000": lambda: encoded("JPEG2000", Image.fromarray(DEEP)),
    "PGM": lambda: encoded("PPM", Image.fromarray(DEEP)),
    "PGM of text": lambda: b"P2 4 6 65535\n" + " ".join(map(str, DEEP.ravel())).encode(),
}


@pytest.mark.parametrize("name", GREY_16)
def test_grey_of_more_than_8_bits_is_scaled_to_8(name: str) -> None:
    """By its high byte; Pillow's own conversion would make every value above 255 white."""
    data = GREY_16[name]()
    np.testing.assert_array_equal(decode(data, None, resize=False), np.stack([HIGH] * 3, axis=2))
    np.testing.assert_array_equal(decode(data, None, resize=False, channels=1)[..., 0], HIGH)


def test_colours_of_16_bits_are_scaled_alike() -> None:
    """A PNG of RGB with 16 bits, which Pillow reads and does not write: filter 0, then six bytes a pixel."""
    lines = b"".join(b"\0" + np.stack([line] * 3, axis=1).astype(">u2").tobytes() for line in DEEP)
    data = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 6, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data, None, resize=False), np.stack([HIGH] * 3, axis=2))


WITHOUT_WHITE: Mapping[str, Callable[[], bytes]] = {
    "TIFF of floats": lambda: encoded("TIFF", Image.fromarray((DEEP / 65535).astype(np.float32))),
    "TIFF of 32 bits": lambda: encoded("TIFF", Image.fromarray(DEEP.astype(np.int32))),
    "TIFF of signed 16 bits": lambda: tiff((DEEP >> 1).astype(np.int16), 16, 1, sample_format=2),
    "PFM": lambda: encoded("PPM", Image.fromarray(DEEP.astype(np.float32))),
}


@pytest.mark.parametrize("name", WITHOUT_WHITE)
def test_numbers_without_a_white_are_refused(name: str) -> None:
    with pytest.raises(UnreadableImage, match=r"signed, 32-bit or floating-point numbers \(mode [IF]\).*8 or 16 bits"):
        decode(WITHOUT_WHITE[name](), None, resize=False)


def test_premultiplied_grey_is_divided_by_its_alpha() -> None:
    """As Pillow does for premultiplied RGB."""
    pixels = np.array([[[100, 200]]], np.uint8)
    plain = bytearray(encoded("TIFF", Image.fromarray(pixels, "LA")))
    place = plain.index(struct.pack("<HHI", 338, 3, 1)) + 8
    plain[place : place + 2] = b"\1\0"
    assert decode(bytes(plain), None, resize=False).tolist() == [[[127, 127, 127]]]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", [name for name in CASES if "text" not in name])
def test_a_picture_that_is_cut_off_is_refused_or_whole(name: str) -> None:
    data = CASES[name]()
    whole = as_datasets(data, "RGB")
    refused = 0
    for cut in range(1, len(data), max(1, len(data) // 25)):
        try:
            np.testing.assert_array_equal(decode(data[:cut], None, resize=False), whole)
        except UnreadableImage as error:
            assert str(error)  # noqa: PT017 - every other error is a failure
            refused += 1
    assert refused > 5


def test_the_reason_of_a_cut_off_picture_is_given() -> None:
    with pytest.raises(UnreadableImage, match=r"^corrupt image \(image file is truncated"):
        decode(CASES["JPEG"]()[:-40], None, resize=False)
