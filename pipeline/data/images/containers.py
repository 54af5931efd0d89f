"""Which file formats of images are read, and the names of others, so that a row says what it holds instead."""

import codecs
import io
import struct

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "SGI", "TGA")
"""Pillow's names of the formats that are read, in the order in which they are tried; JPEG stands for MPO too.

Their readers start no program and open no other file, and refuse a file that is cut off. (PCX is not among them: cut
off, it loses its palette without a word.) TGA has no signature, so it is tried last, and where `may_be_tga` allows.
"""


NOT_READ = (
    "which is not among the formats that are read "
    "(PNG, JPEG, MPO, WebP, AVIF, GIF, BMP, TIFF, JPEG 2000, PPM, PGM, PBM, ICO, SGI and TGA)"
)


OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "an EPS or PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS or PostScript file"),
    (0, b"8BPS", "a Photoshop (PSD) image"),
    (0, b"gimp xcf", "a GIMP (XCF) image"),
    (0, b"\xd7\xcd\xc6\x9a", "a WMF image"),
    (40, b" EMF", "an EMF image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL image"),
    (0, b"II\xbc\x01", "a JPEG XR image"),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS image"),
    (0, b"FUJIFILMCCD-RAW", "a Fujifilm RAF (camera raw) image"),
    (0, b"IIRO", "an Olympus ORF (camera raw) image"),
    (0, b"IIRS", "an Olympus ORF (camera raw) image"),
    (0, b"MMOR", "an Olympus ORF (camera raw) image"),
    (0, b"IIU\0", "a Panasonic RW2 (camera raw) image"),
    (0, b"FOVb", "a Sigma X3F (camera raw) image"),
    (0, b"\0MRM", "a Minolta MRW (camera raw) image"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"#?RGBE", "a Radiance HDR image"),
    (0, b"SIMPLE  =", "a FITS image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"DDS ", "a DDS image"),
    (0, b"\xabKTX ", "a KTX image"),
    (0, b"qoif", "a QOI image"),
    (0, b"\n\5\1", "a PCX image"),
    (0, b"\xb1\x68\xde\x3a", "a DCX image"),
    (0, b"BLP1", "a BLP (texture) image"),
    (0, b"BLP2", "a BLP (texture) image"),
    (0, b"FTEX", "an FTEX (texture) image"),
    (0, b"DanM", "a Microsoft Paint (MSP) image"),
    (0, b"LinS", "a Microsoft Paint (MSP) image"),
    (0, b"Image type: ", "an IFUNC (IM) image"),
    (20, b"GIMP", "a GIMP brush"),
    (0, b"icns", "an ICNS image"),
    (0, b"\0\0\2\0\1\0", "a CUR (cursor) image"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"BPG\xfb", "a BPG image"),
    (0, b"FLIF", "a FLIF image"),
    (0, b"P7\n", "a PAM image"),
    (0, b"/* XPM", "an XPM image"),
    (0, b"#define ", "an XBM image"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (8, b"AVI LIST", "an AVI video"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"version https://git-lfs", "a pointer of Git LFS (run git lfs pull)"),
    (0, b"data:image/", "an image as base64 text"),
    (0, b"iVBORw0KGgo", "an image as base64 text"),
    (0, b"/9j/", "an image as base64 text"),
)
"""Where its signature stands, the signature, and what a file with it is."""


HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"))


AVIF_BRANDS = frozenset((b"avif", b"avis"))


TGA_HEADER = struct.Struct("<BBBHHBHHHHBB")


TGA_FOOTER = b"TRUEVISION-XFILE.\0"


TGA_RUNS, TGA_BITS = 8, {1: (8,), 2: (16, 24, 32), 3: (8, 16)}  # the bit of compressed kinds; bits a pixel by kind


SEARCHED = 4096  # bytes at the beginning of a file that names are looked for in


ANOTHER_FORMAT = (SyntaxError, IndexError, KeyError, TypeError, struct.error)  # what Pillow takes for it in a reader


SUBFILE_TYPE, SUB_DIRECTORIES, DNG_VERSION = 254, 330, 50706  # tags of TIFF 6.0, its supplement, and DNG


def other_container(data: bytes) -> str | None:
    """What a file is that the readers did not take, None where its format is read or unknown."""
    if data[4:8] == b"ftyp":
        return _of_media_brands(data)
    text = data[:SEARCHED].removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith((b"<svg", b"<?xml", b"<!")) and b"<svg" in text:
        return "an SVG image"
    if text.lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (as a server answers where it has no picture)"
    if text.startswith(b"<?xml"):
        return "an XML document (as a store answers where it has no picture)"
    return next((name for place, mark, name in OTHERS if data[place : place + len(mark)] == mark), None)


def _of_media_brands(data: bytes) -> str | None:
    """The name of an ISO base media file (ISO/IEC 14496-12) by its brands, None for AVIF."""
    size = min(int.from_bytes(data[:4], "big"), len(data), SEARCHED)
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, size - 3, 4))}
    if brands & AVIF_BRANDS:
        return None
    if brands & HEIF_BRANDS:
        return "a HEIF (HEIC) image"
    if data[8:12] == b"crx ":
        return "a Canon CR3 (camera raw) image"
    return "an MP4, QuickTime or other media file"


def camera_raw(data: bytes) -> str | None:
    """The name of a camera's raw file that TIFF's reader would take for its first page, a small preview; else None.

    CR2 and DNG say what they are. Others (NEF, ARW, PEF) have a first page that is marked as reduced, and the picture
    itself in a subdirectory.
    """
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    tags = _first_directory(data)
    if data[8:11] == b"CR\2":
        return "a Canon CR2 (camera raw) image"
    if DNG_VERSION in tags:
        return "a DNG (camera raw) image"
    if tags.get(SUBFILE_TYPE, 0) & 1 and SUB_DIRECTORIES in tags:
        return "a camera raw image, or another TIFF that begins with a preview"
    return None


def _first_directory(data: bytes) -> dict[int, int]:
    """The tags of a TIFF file's first directory, each with the number that stands in its entry."""
    order = "<" if data[:2] == b"II" else ">"
    tags: dict[int, int] = {}
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, place)
        for number in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHI4s", data, place + 2 + 12 * number)
            tags[tag] = int(struct.unpack_from(f"{order}H" if kind == 3 else f"{order}I", value)[0])
    except struct.error:  # it ends before the directory does
        pass
    return tags


def may_be_tga(data: bytes) -> bool:
    """Whether bytes, raw pixels for example, are a TGA file beyond chance.

    It has the footer of version 2, or a header whose fields agree and, where it is not compressed, the length that the
    header says (Truevision TGA File Format Specification, version 2.0).
    """
    if data.endswith(TGA_FOOTER):
        return True
    if len(data) < TGA_HEADER.size:
        return False
    id_bytes, mapped, kind, _, colours, colour_bits, _, _, width, height, bits, flags = TGA_HEADER.unpack_from(data)
    plain = kind & ~TGA_RUNS
    if bits not in TGA_BITS.get(plain, ()) or mapped != (plain == 1) or flags & 0xC0 or (not mapped and any(data[3:8])):
        return False
    length = TGA_HEADER.size + id_bytes + mapped * colours * ((colour_bits + 7) // 8) + width * height * bits // 8
    return bool(kind != plain or len(data) == length)


def why_unidentified(data: bytes) -> str:
    """What to say of a file that none of the readers took."""
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        claimed = accept(data[:16]) if accept is not None else False
        if isinstance(claimed, str):
            return f"an image of the format {name}, which this build of Pillow does not read ({claimed})"
        if not claimed:
            continue
        try:
            factory(io.BytesIO(data), "")
        except ANOTHER_FORMAT as error:
            reason = " ".join(str(error).split())[:120]
            if not reason.lower().startswith("not a"):
                return f"an image of the format {name} that cannot be read ({reason})"
    return "not an image"
